"""A host in a temporary directory: real ledger, real keys, real files, stand-in programs first on PATH."""

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from nacl.signing import SigningKey

from machines.contract import envelope, orders
from machines.contract.reports import AnyReport
from machines.host.reports import reporting
from machines.host.reports.ledger import Ledger
from machines.host.reports.reporting import Reporter
from machines.host.system.paths import Paths

BIN = Path(__file__).parent / "bin"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths(
        state=tmp_path / "state",
        machines=tmp_path / "machines",
        nspawn=tmp_path / "nspawn",
        units=tmp_path / "units",
        probes=tmp_path / "probes",
        scratch=tmp_path / "scratch",
        policy=tmp_path / "policy.toml",
        control=tmp_path / "control",
        lasting_control=tmp_path / "lasting-control",
        runtime_units=tmp_path / "runtime",
        vendor_units=(tmp_path / "vendor",),
    )
    for folder in (made.state, made.machines, made.nspawn, made.units):
        folder.mkdir()
    return made


@dataclass
class Programs:
    """Stand-in programs that note how they were called. `says` gives one its answer."""

    folder: Path
    notes: Path

    def says(self, name: str, *, out: str = "", err: str = "", status: int = 0) -> None:
        answer = self.folder / f"{name}.answer"
        answer.write_text(json.dumps({"out": out, "err": err, "status": status}))
        link = self.folder / name
        if not link.exists():
            link.symlink_to(BIN / "stand-in")

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.notes.read_text().splitlines()] if self.notes.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("NSPAWNPANEL_PATH", f"{folder}:{os.environ['PATH']}")
    return Programs(folder, folder / "calls")


class Mailbox:
    """Stands where the publisher is: nothing leaves, the spool keeps it."""

    def __init__(self) -> None:
        self.woken = 0
        self.set_back: list[int] = []
        self.silence = 0.0

    def wake(self) -> None:
        self.woken += 1

    def resend(self, after: int) -> None:
        self.set_back.append(after)

    def silent_for(self) -> float:
        return self.silence


@dataclass
class Spool:
    """A host's reporter, and what it has spooled, read back as the panel reads it."""

    host: UUID
    key: SigningKey
    ledger: Ledger
    reporter: Reporter
    mailbox: Mailbox
    generation: int = 1
    seen: list[int] = field(default_factory=list)
    epoch: int = 0  # that the last one was signed in

    def reports(self) -> list[AnyReport]:
        """What is spooled; what a job said at once is told apart."""
        with self.ledger.writing() as db:
            rows = db.execute("select number, body from spool order by number").fetchall()
        self.seen = [number for number, _ in rows]
        read = [
            envelope.read_report(body, self.key.verify_key, host=self.host, generation=self.generation)
            for _, body in rows
        ]
        assert [signed.number for signed, _ in read] == self.seen
        self.epoch = read[-1][0].epoch if read else 0
        return [part for _, report in read for part in (report.parts if report.kind == "job_output" else [report])]

    def of(self, kind: str) -> list[AnyReport]:
        return [report for report in self.reports() if report.kind == kind]

    def wait_for(self, kind: str, count: int = 1, seconds: float = 5) -> list[AnyReport]:
        deadline = time.monotonic() + seconds
        while len(found := self.of(kind)) < count:
            assert time.monotonic() < deadline, f"no {kind}: {[r.kind for r in self.reports()]}"
            time.sleep(0.01)
        return found


@pytest.fixture
def spool(paths: Paths) -> Iterator[Spool]:
    host, key = uuid4(), SigningKey.generate()
    ledger = Ledger(paths.ledger, host=host, generation=1)
    mailbox = Mailbox()
    reporter = Reporter(ledger, reporting.Signer(host, 1, key), mailbox)  # type: ignore[arg-type]
    yield Spool(host, key, ledger, reporter, mailbox)
    ledger.close()


@pytest.fixture
def panel_key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def sealed(spool: Spool, panel_key: SigningKey) -> Callable[..., tuple[UUID, str]]:
    """Seal an order as the courier does; keywords change what a test is about."""

    def seal(order: orders.Order | dict[str, object], **changed: object) -> tuple[UUID, str]:
        key = changed.pop("key", panel_key)
        role = changed.pop("role", "administrator")
        now = time.time()
        values: dict[str, object] = {
            "host": spool.host, "generation": 1, "job": uuid4(), "issued": now, "expires": now + 60,
            "order": order if isinstance(order, dict) else orders.to_wire(order),
            "actor": envelope.Actor(name="ada", role=str(role)), **changed,
        }  # fmt: skip
        made = envelope.Envelope.model_validate(values)
        assert isinstance(key, SigningKey)
        return made.job, envelope.seal(made, key)

    return seal


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    def wait(check: Callable[[], object]) -> None:
        deadline = time.monotonic() + 5
        while not check():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def dead_mount(tmp_path) -> Iterator[Path]:
    """A file system whose server never answers, as an NFS server that is gone: FUSE, and nobody reads its requests."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and FUSE")
    libc, server = ctypes.CDLL(None, use_errno=True), os.open("/dev/fuse", os.O_RDWR)
    folder = tmp_path / "dead"
    folder.mkdir()
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options.encode()):
        os.close(server)
        pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    yield folder
    os.close(server)  # whoever waits gets an error
    libc.umount2(os.fsencode(folder), 2)
