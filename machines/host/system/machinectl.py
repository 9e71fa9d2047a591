"""Verbs of machinectl(1), as people type them. Reading is done on the bus (inventory.py)."""

from machines.contract.names import MachineName


def start(name: MachineName) -> list[str]:
    return ["machinectl", "start", "--", name]


def poweroff(name: MachineName) -> list[str]:
    return ["machinectl", "poweroff", "--", name]


def reboot(name: MachineName) -> list[str]:
    return ["machinectl", "reboot", "--", name]


def terminate(name: MachineName) -> list[str]:
    return ["machinectl", "terminate", "--", name]


def kill_init(name: MachineName) -> list[str]:
    return ["machinectl", "kill", "--kill-whom=leader", "--signal=SIGKILL", "--", name]


def enable(name: MachineName) -> list[str]:
    return ["machinectl", "enable", "--", name]


def disable(name: MachineName) -> list[str]:
    return ["machinectl", "disable", "--", name]


def remove(name: MachineName) -> list[str]:
    return ["machinectl", "remove", "--", name]


def read_only(name: MachineName, *, on: bool) -> list[str]:
    return ["machinectl", "read-only", "--", name, "yes" if on else "no"]
