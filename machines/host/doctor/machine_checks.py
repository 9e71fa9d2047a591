"""What can be wrong with one machine beside its network. Each check looks at one thing and says what it found."""

from collections.abc import Iterator

from machines.contract.configuration.findings import Finding
from machines.host.doctor import host_checks
from machines.host.doctor.facts import Facts, event
from machines.host.doctor.host_checks import found
from machines.host.limits import load_group
from machines.host.observe import host_facts
from machines.host.system.paths import unit_of

TOO_OLD, TOO_NEW = 230, 258  # the first systemd that knows version 2 of control groups; the first without version 1


# --- limits, systemd


def unit(observed: Facts) -> Iterator[Finding]:
    if observed.leader:
        own = observed.unit_name == unit_of(observed.machine)
        yield found("unit-own" if own else "unit-foreign", unit=observed.unit_name, name=observed.machine)


def killed(observed: Facts) -> Iterator[Finding]:
    if observed.leader:
        count = event(observed.group, ("memory.events", "memory.oom_control"), "oom_kill") - proof_kills(observed)
        yield found("memory-killed", count=count) if count > 0 else found("memory-enough")


def proof_kills(observed: Facts) -> int:
    """How many of these were loads of ours, which were meant to be killed."""
    return load_group.kills_noted(
        observed.host.paths, bytes(observed.unit(observed.unit_name).get("InvocationID", b""))
    )


def refused_tasks(observed: Facts) -> Iterator[Finding]:
    if observed.leader:
        count = event(observed.group, ("pids.events",), "max")
        yield found("tasks-full", count=count) if count else found("tasks-enough")


def guest_systemd(observed: Facts) -> Iterator[Finding]:
    version, is_v2 = observed.guest.systemd, host_facts.cgroup_layout() == "v2"
    if not version:
        yield found("guest-unread")
    elif is_v2 and version < TOO_OLD:
        yield found("guest-too-old", guest=version)
    elif not is_v2 and version >= TOO_NEW:
        yield found("guest-too-new", guest=version)
    else:
        yield found("guest-fits", guest=version)


def beside(observed: Facts) -> Iterator[Finding]:
    if host_checks.beside(observed):
        yield from host_checks.systemd(observed)


def autostarts(observed: Facts) -> Iterator[Finding]:
    yield from (finding for finding in host_checks.autostarts(observed) if finding.code != "autostart-works")
