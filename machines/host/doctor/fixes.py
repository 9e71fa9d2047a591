"""The few things that are fixed by a button: each can be taken back, and none touches what belongs to others.

Whether it is safe was asked when it was found; it is asked again here, for the host may have changed since.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from machines.contract.configuration.findings import FORWARDING_FILE, INOTIFY_FILE, FixWord
from machines.contract.problems import Problem
from machines.host.doctor import host_checks, inside_checks, limit_checks, nat_checks, network_checks
from machines.host.doctor.facts import Facts
from machines.host.doctor.guest import NETWORKD
from machines.host.files import autostart as links
from machines.host.files import nspawn_file
from machines.host.system.faults import CommandFailed
from machines.host.system.run import run

TRIES = 8
RENEWS = 6.0  # seconds a machine may take for a new lease
WAIT_ONLINE = "systemd-networkd-wait-online.service"


def _not_safe(why: str) -> Problem:
    return Problem(f"Not fixed: {why}", code="not-safe", hint="Run diagnostics again; the command can be copied there.")


def in_a_unit(*argv: str) -> list[str]:
    """The same as a unit of its own: the worker may neither write to /proc/sys nor enter namespaces, as systemctl does to
    speak to a machine."""
    options = ["--quiet", "--wait", "--collect", "--pipe", "--property=RuntimeMaxSec=20"]
    return ["systemd-run", *options, "--", *argv]


def networkd(observed: Facts) -> None:
    """Start it, at boot too. Enabling it also enables waiting for its links, which holds up the boot where it has none."""
    if not observed.networkd_runs and not host_checks.may_start_networkd(observed):
        raise _not_safe("something else manages this host's network, or .network files would take effect.")
    waited = observed.unit(WAIT_ONLINE).get("UnitFileState") == "enabled"
    observed.task.run(["systemctl", "enable", "--now", "--", NETWORKD], timeout=40)
    if not waited and observed.unit(WAIT_ONLINE).get("UnitFileState") == "enabled":
        observed.task.run(["systemctl", "disable", "--", WAIT_ONLINE], timeout=20)
    links.sync(observed.host.paths)


def networkd_restart(observed: Facts) -> None:
    """It comes back to the bus. Addresses, leases of machines and rules of NAT stay as they are."""
    if observed.networkd_answers or not observed.networkd_runs:
        raise _not_safe("systemd-networkd does not run, or responds.")
    if not host_checks.may_restart_networkd(observed):
        raise _not_safe("files in /etc/systemd/network have changed since systemd-networkd started.")
    observed.task.run(["systemctl", "restart", "--", NETWORKD], timeout=40)


def forwarding(observed: Facts) -> None:
    _sysctl(observed, "net.ipv4.ip_forward", "1", FORWARDING_FILE)


def inotify(observed: Facts) -> None:
    _sysctl(observed, "fs.inotify.max_user_instances", str(limit_checks.instances_wanted()), INOTIFY_FILE)


def _sysctl(observed: Facts, name: str, value: str, file: str) -> None:
    if host_checks.is_forbidden(name, value):
        raise _not_safe(f"a file in /etc/sysctl.d sets {name} to something else.")
    observed.task.output.line(f"{name} = {value}, at boot by {file} and now")
    text = f"# Written by nspawnpanel. Remove this file to take it back.\n{name} = {value}\n"
    nspawn_file.write_one(Path(file), text)
    observed.task.run(in_a_unit("/usr/lib/systemd/systemd-sysctl", file), timeout=30)


def autostart(observed: Facts) -> None:
    observed.task.run(["systemctl", "enable", "--", "machines.target"], timeout=20)
    links.sync(observed.host.paths)


def guest_networkd(observed: Facts) -> None:
    if not observed.name or not inside_checks.may_enable_inside(observed):
        raise _not_safe("it is masked inside, something else manages the network there, or it does not respond.")
    _inside(observed, "systemctl", f"--machine={observed.name}", "enable", "--now", "--", NETWORKD)


def guest_renew(observed: Facts) -> None:
    """Setting its link up anew asks for another lease; renewing the old one would only be refused."""
    cable = next((cable for cable in network_checks.cables(observed) if cable.is_main and cable.inside), None)
    if cable is None or not inside_checks.may_ask_inside(observed):
        raise _not_safe("systemd-networkd is not running inside, or does not respond.")
    _ask_anew(observed)
    if _is_astray(observed):  # the DHCP server itself gives addresses of a network that is not the link's
        observed.task.run(["networkctl", "reconfigure", cable.server.name], timeout=20)
        _ask_anew(observed)


def _ask_anew(observed: Facts) -> None:
    ask = ["systemd-run", f"--machine={observed.name}", "--quiet", "--wait", "--", "networkctl", "reconfigure", "host0"]
    _inside(observed, *ask)


def _is_astray(observed: Facts) -> bool:
    """Whether it keeps an address that is not in its link's network, or gets such a one again."""
    until = time.monotonic() + RENEWS
    while time.monotonic() < until:
        told = list(network_checks.placed(Facts(observed.host, observed.task, observed.name)))
        if told and not any(finding.code == "address-astray" for finding in told):
            return False
        observed.task.check_stop()
        time.sleep(0.5)
    return True


def _inside(observed: Facts, *words: str) -> None:
    """Run a tool that speaks to the machine's bus."""
    argv = in_a_unit(*words)
    for last in (False,) * TRIES + (True,):
        try:
            observed.task.run(argv, timeout=20)
        except CommandFailed as failed:
            if last or "connect" not in failed.tail:
                raise
            time.sleep(1)  # its bus is there before anybody answers on it
        else:
            return


def nat(observed: Facts) -> None:
    """What systemd's own table lost, by the lines systemd itself would send: no link and no address is touched by it, as
    a restart of systemd-networkd would."""
    lines = nat_checks.to_restore(observed)
    if not lines:
        raise _not_safe("nothing is missing.")
    for line in lines:
        observed.task.output.line(f"nft {line}")
    run(["nft", "-f", "-"], stdin="".join(f"{line}\n" for line in lines).encode(), timeout=20)


TABLE: Mapping[FixWord, Callable[[Facts], None]] = {
    "networkd": networkd,
    "networkd-restart": networkd_restart,
    "forwarding": forwarding,
    "autostart": autostart,
    "inotify": inotify,
    "guest-networkd": guest_networkd,
    "guest-renew": guest_renew,
    "nat": nat,
}
