"""An older copy of the panel is put back, on a real host: what waited in it does nothing, and the fleet works on afterwards."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import REPOSITORY, WORKER, Stack
from tests.person import Person, until

LEDGER = "/var/lib/nspawnpanel/ledger.db"
PYTHON = "/opt/nspawnpanel/bin/python"
ASK = "import json, sqlite3, sys; print(json.dumps(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))"
WITHDRAWN = [["cancelled-before", "cancelled"]]
SAYS = "This panel was restored from an older copy"


def ledger(host: Sandbox, sql: str) -> list[Any]:
    return json.loads(host.run([PYTHON, "-c", ASK, LEDGER, sql]).stdout)


def heard(host: Sandbox) -> dict[str, Any]:
    return json.loads(ledger(host, "select value from meta where key = 'heard'")[0][0])


def opened(file: Path) -> AbstractContextManager[sqlite3.Connection]:
    """Closed afterwards: who holds a database open keeps its log beside it."""
    return closing(sqlite3.connect(file, timeout=20))


class Copies:
    """What an administrator does with the panel's database."""

    def __init__(self, panel: Stack, aside: Path) -> None:
        self.panel, self.file, self.aside = panel, panel.data / "panel.sqlite3", aside

    def make(self) -> Path:
        """`sqlite3 panel.sqlite3 ".backup …"`."""
        target = self.aside / f"copy-{time.monotonic_ns()}"
        with opened(self.file) as now, opened(target) as kept:
            now.backup(kept)
        return target

    def put_back_at_work(self, copy: Path) -> None:
        """`sqlite3 panel.sqlite3 ".restore …"` while everything runs."""
        with opened(copy) as kept, opened(self.file) as now:
            kept.backup(now)

    def put_back_stopped(self, copy: Path, epoch: str | None = None) -> None:
        """With everything stopped, the file moved in the place of the other; `epoch` is put back beside it."""
        for part in ("courier", "web"):
            self.panel.stop_part(part)
        for name in ("panel.sqlite3", "panel.sqlite3-wal", "panel.sqlite3-shm"):
            (self.panel.data / name).unlink(missing_ok=True)
        shutil.move(copy, self.file)
        if epoch is not None:
            self.epoch_file.write_text(epoch)
        for part in ("courier", "web"):
            self.panel.start_part(part)
        self.panel.wait_for_pages()

    @property
    def epoch_file(self) -> Path:
        return self.panel.data / "courier/epoch"


@pytest.fixture
def copies(panel: Stack, tmp_path: Path) -> Copies:
    return Copies(panel, tmp_path)


@pytest.fixture
def m5(ada: Person, alpha_host: Sandbox) -> Iterator[str]:
    alpha_host.run(["systemctl", "start", WORKER])
    if not ada.machine("m5"):
        alpha_host.plant("m5")
    ada.sees("m5", "stopped", 30)
    yield "m5"
    alpha_host.run(["systemctl", "start", WORKER])
    if SAYS in ada.get("/machines/"):  # a test that failed in the middle costs no other its panel
        confirm(ada)


def silence(panel: Stack, host: Sandbox) -> None:
    """Its worker is stopped, and the panel has waited for it long enough."""
    host.run(["systemctl", "stop", WORKER])
    with opened(panel.data / "panel.sqlite3") as db, db:
        db.execute("UPDATE machines_host SET last_seen = datetime('now', '-10 minutes')")


def order_removal(ada: Person, name: str) -> dict[str, Any]:
    before = ada.newest_job()
    ada.post(f"/hosts/alpha/machines/{name}/remove/", {"confirm": name})
    return ada.jobs_after(before)[0]


def epoch(ada: Person) -> dict[str, Any]:
    return ada.rows("SELECT * FROM machines_epoch")[0]


def is_noticed(ada: Person) -> None:
    until(lambda: epoch(ada)["restored_at"] is not None, 40, lambda: str(epoch(ada)))


def confirm(ada: Person, **fields: Any) -> None:
    ada.post("/restored/confirm/", {**ada.filled("/restored/"), **fields}, page="/restored/")


def works_again(ada: Person) -> None:
    ada.succeed(ada.press("enable", "m5"))
    ada.succeed(ada.press("disable", "m5"))


@pytest.mark.parametrize("how", ["with everything running", "with the panel stopped"])
def test_a_removal_that_was_cancelled_after_the_copy_never_happens(how, copies, m5, ada, alpha_host, panel):
    silence(panel, alpha_host)
    job = order_removal(ada, m5)
    copy = copies.make()
    marked = epoch(ada)["mark"]
    ada.post(f"/jobs/{job['id']}/cancel/", page=f"/jobs/{job['id']}/cancel/confirm/")
    assert ada.job(job["id"])["state"] == "cancelled"
    until(lambda: epoch(ada)["mark"] > marked, 15, lambda: str(epoch(ada)))
    put_back = copies.put_back_at_work if how == "with everything running" else copies.put_back_stopped
    put_back(copy)
    alpha_host.run(["systemctl", "start", WORKER])
    is_noticed(ada)
    until(lambda: "panel-restored" in str(ada.job(job["id"])["problem"]), 30, lambda: str(ada.job(job["id"])))
    assert ada.job(job["id"])["state"] == "queued"
    for page in ("/machines/", "/jobs/", "/hosts/alpha/", f"/jobs/{job['id']}/"):
        assert SAYS in ada.get(page)
    since = order_waits(ada)
    page = ada.get("/restored/")
    assert "Remove m5" in page
    assert f'name="keep" value="{since["id"]}" checked' in page
    confirm(ada, keep=[since["id"]], shown=[job["id"], since["id"]])
    ada.succeed(since, 60)
    until(lambda: ada.job(job["id"])["withdrawn_at"], 30, lambda: str(ada.job(job["id"])))
    assert ada.job(job["id"])["state"] == "cancelled"
    assert "alpha has withdrawn it, so nothing was done there." in ada.get(f"/jobs/{job['id']}/")
    assert SAYS not in ada.get("/machines/")
    written = ledger(alpha_host, f"select op, state from jobs where id = '{_dashed(job['uuid'])}'")
    assert written == WITHDRAWN
    assert alpha_host.run(["test", "-d", "/var/lib/machines/m5"]).returncode == 0
    works_again(ada)
    assert ada.machine("m5")["state"] == "stopped"
    assert heard(alpha_host)["epoch"] == epoch(ada)["number"]


def order_waits(ada: Person) -> dict[str, Any]:
    """An order for the host itself, placed while the panel is taken for a copy."""
    before = ada.newest_job()
    ada.post("/hosts/alpha/doctor/diagnose/", page="/hosts/alpha/doctor/")
    job = ada.jobs_after(before)[0]
    until(lambda: "panel-restored" in str(ada.job(job["id"])["problem"]), 15, lambda: str(ada.job(job["id"])))
    assert "waiting: this panel was restored from an older copy" in ada.get(f"/jobs/{job['id']}/")
    return job


def test_a_whole_panel_put_back_is_not_obeyed_by_a_host_that_has_heard_more(copies, m5, ada, alpha_host, panel):
    """The epoch file comes back with it. A waiting order that is chosen goes out after the confirmation."""
    works_again(ada)
    silence(panel, alpha_host)
    job = ada.press("enable", m5)
    kept_file, copy = copies.epoch_file.read_text(), copies.make()
    ada.post(f"/jobs/{job['id']}/cancel/", page=f"/jobs/{job['id']}/cancel/confirm/")
    alpha_host.run(["systemctl", "start", WORKER])
    for verb in ("disable", "enable", "disable"):
        ada.succeed(ada.press(verb, m5))
    before = heard(alpha_host)
    until(lambda: time.time() > before["at"] + 11, 15, lambda: "a clock")
    with opened(copy) as db, db:  # as if the host had been heard a moment before: the first order leaves at once
        db.execute("UPDATE machines_host SET last_seen = datetime('now', '+20 seconds')")
    copies.put_back_stopped(copy, kept_file)
    is_noticed(ada)
    assert ada.job(job["id"])["state"] in {"queued", "sent"}
    assert not ada.machine(m5)["enabled"]
    assert heard(alpha_host)["sequence"] == before["sequence"]
    assert "alpha has received" in epoch(ada)["why"]
    page = ada.get("/restored/")
    assert "Enable" in page or "Start m5 at boot" in page
    confirm(ada, keep=[job["id"]], shown=[job["id"]])
    ada.succeed(job["id"], 60)
    works_again(ada)


def _dashed(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@pytest.fixture
def second_courier(panel: Stack, tmp_path: Path) -> Iterator[Path]:
    """On another box: the same database and key, and no epoch file yet, which it makes. Yields that file."""
    shutil.copy(panel.data / "courier/signing-key", tmp_path / "signing-key")
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "courier"], cwd=REPOSITORY, stdout=log, stderr=log,
        env={**panel.environment, "SIGNING_KEY_FILE": str(tmp_path / "signing-key")},
    )  # fmt: skip
    try:
        yield tmp_path / "epoch"
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def test_two_couriers_on_one_database_never_take_it_for_an_older_copy(second_courier, m5, ada, panel):
    until(second_courier.exists, 30, lambda: "the second one has not found the first one's marks")
    for _ in range(3):
        works_again(ada)
    panel.restart_part("courier")
    works_again(ada)
    assert epoch(ada)["restored_at"] is None
    assert json.loads(second_courier.read_text())["mark"] > 1


@pytest.fixture
def wrong_clock(panel: Stack, alpha_host: Sandbox, ada: Person) -> Iterator[Callable[[int], None]]:
    """Start the courier anew with a clock that is wrong by so many seconds."""

    def begin(seconds: int) -> None:
        panel.extra |= {"PYTHONPATH": str(Path(__file__).parent / "wrong_clock"), "WRONG_BY": str(seconds)}
        panel.restart_part("courier")

    yield begin
    panel.extra.pop("PYTHONPATH", None)
    panel.extra.pop("WRONG_BY", None)
    panel.restart_part("courier")
    until(lambda: abs(skew(ada)) < 60, 90, lambda: f"the clock of alpha is still {skew(ada)} s off")
    alpha_host.run(["systemctl", "restart", WORKER])  # which tells everything anew
    ada.sees("m5", "stopped", 90)


def skew(ada: Person) -> float:
    """Seconds by which the panel takes alpha's clock to be ahead."""
    return ada.rows("SELECT clock_skew FROM machines_host WHERE name = 'alpha'")[0]["clock_skew"] or 0.0


def test_a_clock_that_is_a_day_ahead_does_not_make_a_sent_order_one_of_which_nothing_was_done(
    m5, ada, alpha_host, wrong_clock
):
    """It lies in the mailbox of a host that has just died. Until the host has answered, nobody knows."""
    alpha_host.run(["systemctl", "kill", "--signal=STOP", WORKER])
    job = ada.press("enable", m5)
    until(lambda: ada.job(job["id"])["state"] == "sent", 10, lambda: str(ada.job(job["id"])))
    wrong_clock(86400 + 60)
    until(lambda: ada.job(job["id"])["state"] == "expired", 15, lambda: str(ada.job(job["id"])))
    page = ada.get(f"/jobs/{job['id']}/")
    assert "It may have reached alpha" in page
    assert "nothing was done" not in page
    alpha_host.run(["systemctl", "kill", "--signal=KILL", WORKER])
    alpha_host.run(["systemctl", "start", WORKER])
    until(lambda: not ada.job(job["id"])["owes_cancel"], 60, lambda: str(ada.job(job["id"])))
    assert ledger(alpha_host, f"select op, state from jobs where id = '{_dashed(job['uuid'])}'") == WITHDRAWN
    assert ada.job(job["id"])["state"] == "expired"
    assert "alpha has withdrawn it, so nothing was done there." in ada.get(f"/jobs/{job['id']}/")
    assert not ada.machine(m5)["enabled"]
