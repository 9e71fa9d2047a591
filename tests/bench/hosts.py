"""Figures of a real host: the panel's way against the command typed on the same host, in turn."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import REPOSITORY, Stack
from nspawnpanel.valkey import free_port
from tests.panel.configs.posts import post
from tests.person import Person

PACKAGES = "systemd,systemd-sysv,dbus,iproute2"


@contextmanager
def fleet() -> Iterator[tuple[Person, Sandbox]]:
    """A panel with one sandbox host."""
    with (
        tempfile.TemporaryDirectory(prefix="nspawnpanel-bench-") as data,
        Stack(Path(data), free_port()) as panel,
        Sandbox(f"bench-{os.getpid()}", CACHE) as host,
    ):
        host.write("/etc/nspawnpanel/policy.toml", (REPOSITORY / "machines/host/policy/policy.toml").read_text())
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


def apply(runs: int = 15) -> tuple[str, Sequence[float], Sequence[float], str]:
    """From the POST of Apply until the panel knows what holds, over writing both files, `daemon-reload` and `set-property`
    typed on that host; the machine runs. From the panel's time goes one run of systemd's own parsers over both files, for
    whoever types it does not ask them."""
    with fleet() as (ada, host):
        host.plant("web")
        ada.sees("web", "stopped", 30)
        ada.succeed(ada.press("start", "web"))
        ours, plain, lints = [], [], []
        for number in range(runs + 1):
            ours.append(milliseconds(applier(ada, 300 + number)))
            ada.sees("web", "running")
            files = [host.read(path) for path in FILES]
            lints.append(milliseconds(lambda files=files: in_one(host, LINT, *files)))
            files[1] = files[1].replace(f"{300 + number}M", f"{400 + number}M")
            plain.append(milliseconds(lambda files=files: in_one(host, BY_HAND, *files)))
            in_one(host, BY_HAND, files[0], files[1].replace(f"{400 + number}M", f"{300 + number}M"))
        parsers = median(lints[1:])
        what = f"apply: click to effective, less {parsers:.0f} ms of systemd's parsers, over typing it"
        return what, [took - parsers for took in ours[1:]], plain[1:], "ms"


FILES = ("/etc/systemd/nspawn/web.nspawn", "/etc/systemd/system/systemd-nspawn@web.service.d/50-nspawnpanel.conf")
BY_HAND = f"""\
printf %s "$1" >{FILES[0]} && printf %s "$2" >{FILES[1]} && systemctl daemon-reload &&
systemctl set-property --runtime systemd-nspawn@web.service "$(printf %s "$2" | grep ^MemoryMax)"
"""
LINT = """\
mkdir -p /run/bench/systemd-nspawn@web.service.d && cp /lib/systemd/system/systemd-nspawn@.service /run/bench/systemd-nspawn@web.service
printf %s "$1" >/run/systemd/nspawn/np-probe-bench.nspawn && printf %s "$2" >/run/bench/systemd-nspawn@web.service.d/50.conf
systemd-nspawn --quiet --register=no --keep-unit --boot -U --settings=override --machine=np-probe-bench --directory=/nowhere
systemd-analyze verify --recursive-errors=no --man=no -- /run/bench/systemd-nspawn@web.service
rm /run/systemd/nspawn/np-probe-bench.nspawn
"""


def in_one(host: Sandbox, script: str, nspawn: str, dropin: str) -> None:
    """A script of the host's shell, with both texts as its arguments."""
    host.run(["sh", "-c", script, "sh", nspawn, dropin])


def applier(ada: Person, megabytes: int) -> Callable[[], None]:
    """Makes a draft with this memory limit and opens its review; the click alone is left to do."""
    machine = "/hosts/alpha/machines/web/"
    fields, before = ada.draft(machine, post(memory_max=f"{megabytes}M")), ada.newest_job()

    def press() -> None:
        ada.send(f"{machine}config/apply/", fields)
        job = ada.jobs_after(before)[0]["id"]
        while ada.job(job)["finished_at"] is None:
            time.sleep(0.002)
        assert ada.job(job)["state"] == "succeeded", ada.job(job)["problem"]

    return press
