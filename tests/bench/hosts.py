"""Figures of a real host: the panel's way against the command typed on the same host, in turn."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import REPOSITORY, Stack
from nspawnpanel.valkey import free_port
from tests.person import Person

PACKAGES = "systemd,systemd-sysv,dbus,iproute2"


@contextmanager
def fleet() -> Iterator[tuple[Person, Sandbox]]:
    """A panel with one sandbox host."""
    with (
        tempfile.TemporaryDirectory(prefix="nspawnpanel-bench-") as data,
        Stack(Path(data), free_port()) as panel,
        Sandbox("bench", CACHE) as host,
    ):
        host.write("/etc/nspawnpanel/policy.toml", (REPOSITORY / "machines/host/policy.toml").read_text())
        panel.join(host, "alpha")
        yield Person(panel), host


def milliseconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def click_to_running(runs: int = 15) -> tuple[str, Sequence[float], Sequence[float], str]:
    """From the POST of the Start button until the panel knows the machine runs, over `machinectl start` on that host.

    Both with NotifyReady=yes, so that "running" means booted, and each after a poweroff of the other's machine.
    """
    with fleet() as (ada, host):
        host.plant("web")
        host.write("/etc/systemd/nspawn/web.nspawn", "[Exec]\nNotifyReady=yes\n")
        ada.sees("web", "stopped", 30)
        press = presser(ada, "/hosts/alpha/machines/web/", "start/")

        def by_panel() -> None:
            press()
            while ada.machine("web")["state"] != "running":
                time.sleep(0.002)

        ours, plain = [], []
        for _ in range(runs + 1):
            ours.append(milliseconds(by_panel))
            stop(ada, host)
            plain.append(milliseconds(lambda: host.run(["machinectl", "start", "web"])))
            stop(ada, host)
        return "start: click to running over `machinectl start`", ours[1:], plain[1:], "ms"


def stop(ada: Person, host: Sandbox) -> None:
    host.run(["systemctl", "stop", "systemd-nspawn@web.service"])
    ada.sees("web", "stopped", 10)
    while ada.rows("SELECT 1 FROM machines_job WHERE finished_at IS NULL"):
        time.sleep(0.01)


def presser(ada: Person, page: str, action: str) -> Callable[[], None]:
    """The click alone: the page with its form is already open."""
    fields = ada.form_of(page)
    return lambda: ada.send(page + action, fields)


def bare(ada: Person, job: int, target: str) -> list[str]:
    """mmdebstrap as an administrator types it: the packages and the mirror of the panel's command, nothing else."""
    argv = next(a for a in json.loads(ada.job(job)["commands"]) if a[0] == "mmdebstrap" or "mmdebstrap" in a[:3])
    include = next(word for word in argv if word.startswith("--include="))
    variant = next((word for word in argv if word.startswith("--variant=")), "--variant=important")
    return ["mmdebstrap", variant, include, "bookworm", target]
