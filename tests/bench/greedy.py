"""How long others wait while one host says as much as it can: their forms against the same forms on a quiet panel."""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import redis
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.contract import envelope, routes
from machines.host.agent import enrol
from machines.host.context import keys
from nspawnpanel.stack import Stack
from nspawnpanel.valkey import free_port
from tests.bench.pages import p95
from tests.person import Person

SECONDS = 20.0
FORMS = 60  # on the quiet panel
NAMES = 5000  # machines in one inventory, every one of them new
WAITING = 8 << 20  # bytes that lie in its stream at most: a host that fills it is shut out

Told = dict[str, object]


def greedy_host() -> tuple[str, Sequence[float], Sequence[float], str]:
    """Inventories of thousands of new names, files of fifty machines and log lines, one after the other."""
    with tempfile.TemporaryDirectory(prefix="nspawnpanel-greedy-") as data, _panel(Path(data)) as panel:
        own = keys.Keys(sign=SigningKey.generate(), box=PrivateKey.generate())
        written = panel.host_environment("greedy", enrol.line(own), f"redis://127.0.0.1:{panel.valkey.port}/0")
        person = Person(panel)
        token = person.form_of("/machines/")
        quiet = [_form(person, token, number) for number in range(FORMS)]
        attack = multiprocessing.get_context("spawn").Process(
            target=_attack, args=(written, bytes(own.sign)), daemon=True
        )
        attack.start()
        try:
            _until_it_is_heard(panel)
            until, busy = time.monotonic() + SECONDS, []
            while time.monotonic() < until:
                busy.append(_form(person, token, len(busy)))
                time.sleep(0.02)
        finally:
            attack.terminate()
            attack.join()
        memory = ", ".join(f"{name} {_peak(panel, name)} MiB" for name in ("courier", "web"))
        size = sum(file.stat().st_size for file in Path(data).glob("panel.sqlite3*")) >> 20
        taken = _taken(panel)
    said = f"p95 {p95(busy):.0f} ms, longest {max(busy):.0f} ms; {taken} reports taken; {memory}; database {size} MiB"
    return f"forms of others beside a greedy host over a quiet panel; {said}", busy, quiet, "ms"


def _panel(data: Path) -> Stack:
    address = os.environ.get("DATABASE_URL")
    return Stack(data, free_port(), environment={"DATABASE_URL": address} if address else None)


def _form(person: Person, token: dict[str, str], number: int) -> float:
    """Milliseconds until a form that writes is answered. Raises HTTPError where it is refused."""
    began = time.perf_counter()
    person.send("/settings/theme/", {**token, "theme": ("light", "dark")[number % 2], "next": "/events/"})
    return (time.perf_counter() - began) * 1000


def _until_it_is_heard(panel: Stack) -> None:
    until = time.monotonic() + 30
    while _taken(panel) <= 2 and time.monotonic() < until:
        time.sleep(0.1)


def _taken(panel: Stack) -> int:
    """How many of its reports were taken."""
    told = panel.manage("shell", "-c", "from machines.models import Host; print(Host.objects.get().report_number)")
    return int(told.split()[-1])


def _peak(panel: Stack, name: str) -> int:
    """The most memory a part has had, in MiB."""
    status = Path(f"/proc/{panel.pid(name)}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) >> 10 if found else 0


# --- the greedy host, in a process of its own


def _attack(written: str, key: bytes) -> None:
    told = dict(line.partition("=")[::2] for line in written.splitlines() if "=" in line and not line.startswith("#"))
    host, generation = UUID(told["NSPAWNPANEL_HOST_ID"]), int(told["NSPAWNPANEL_GENERATION"])
    stream, sign = redis.Redis.from_url(told["NSPAWNPANEL_REDIS_URL"]), SigningKey(key)
    for number, report in enumerate(_reports(), 1):
        signed = envelope.SignedReport(host=host, generation=generation, number=number, at=time.time(), report=report)
        stream.xadd(routes.stream(str(host)), {"r": envelope.sign_report(signed, sign)})
        while (stream.memory_usage(routes.stream(str(host))) or 0) > WAITING:
            time.sleep(0.02)


def _reports() -> Iterator[Told]:
    """One inventory of new names, then the files of some of its machines, then lines of a job nobody knows; for ever."""
    for turn in count():
        names = [f"m{turn}x{number}" + "y" * 100 for number in range(NAMES)]
        machines = [{"name": name, "state": "failed", "why": "z" * 100} for name in names]
        yield {"kind": "inventory", "host": {"memory_total": turn}, "machines": machines}
        file = {
            "path": "/etc/systemd/nspawn/x.nspawn",
            "kind": "nspawn",
            "text": "[Exec]\n" + "Environment=A=b\n" * 500,
        }
        yield {"kind": "found", "machines": [{"name": name, "files": [file]} for name in names[:50]]}
        lines = [{"at": 1.0, "text": "x" * 3000}] * 500
        yield {"kind": "lines", "job": str(uuid4()), "first": 1, "lines": lines}
        yield {"kind": "heartbeat"}
