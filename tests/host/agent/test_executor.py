"""From a sealed message to its outcome, without a bus: refusals, duplicates, cancels, queues."""

import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from nacl.signing import SigningKey

from machines.contract import orders, reports
from machines.contract.envelope import key_id
from machines.contract.problems import Problem
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.host.agent import executor as doors
from machines.host.agent import handlers
from machines.host.agent.executor import Executor
from machines.host.context.host_context import HostContext, Task
from machines.host.context.panel_keys import PanelKeys
from machines.host.policy.policy import Policy
from machines.host.reports.ledger import Ledger
from machines.host.system.faults import TookTooLong


class Watch:
    """Stands where the watcher is: machines are not looked at."""

    def __init__(self) -> None:
        self.refreshed = 0

    def report_final(self, _: str, report: Callable[[None], None]) -> None:
        report(None)

    def suppress(self, _: str) -> None:
        return

    def resend_all(self) -> None:
        self.refreshed += 1


class Units:
    """Stands where units are started: notes what it was given."""

    def __init__(self) -> None:
        self.placed: list[UUID] = []
        self.cancelled: list[UUID] = []
        self.adopted: list[UUID] = []

    def keep_sweeping(self) -> None:
        return

    def place(self, row) -> None:
        self.placed.append(row.id)

    def cancel(self, row) -> None:
        self.cancelled.append(row.id)

    def adopt(self, row) -> None:
        self.adopted.append(row.id)


class Deeds:
    """The table of handlers: notes what was done, can be made to wait or fail."""

    def __init__(self, gate: threading.Event) -> None:
        self.done: list[str] = []
        self.gate = gate
        self.fails: Exception | None = None

    def act(self, _: HostContext, task: Task) -> dict[str, object]:
        self.done.append(f"begin {task.order.op}")
        deadline = time.monotonic() + 5
        while not self.gate.is_set() and time.monotonic() < deadline:
            task.check_stop()
            time.sleep(0.005)
        if self.fails:
            raise self.fails
        self.done.append(f"end {task.order.op}")
        return {}


@pytest.fixture
def deeds(gate):
    gate.set()
    return Deeds(gate)


@pytest.fixture
def executor(paths, spool, panel_key, deeds):
    rules = Policy(machines=("web*", "db"))
    made = Executor(
        HostContext(paths, None, rules),  # type: ignore[arg-type]
        identity=(spool.host, 1),
        panel_keys=PanelKeys({key_id(panel_key.verify_key): panel_key.verify_key}, Path("/nonexistent/host.env")),
        ledger=spool.ledger,
        reporter=spool.reporter,
        publisher=spool.mailbox,
        watch=Watch(),
        units=Units(),
        table=dict.fromkeys(handlers.TABLE, deeds.act),
    )
    made.mailbox = spool.mailbox
    return made


BUILD = orders.Build(
    name="web", recipe=DebianRecipe(release="sid"), first_boot=FirstBoot(),
    configuration=orders.Configuration(revision=1, nspawn="", limits=""),
)  # fmt: skip


def test_an_order_is_written_down_acknowledged_done_and_reported(executor, spool, sealed, deeds):
    job, message = sealed(orders.Start(name="web"))
    executor.receive(message)
    assert spool.wait_for("outcome")[0].state == "succeeded"
    assert [r.kind for r in spool.reports()] == ["accepted", "outcome"]
    assert deeds.done == ["begin start", "end start"]
    assert spool.ledger.job(job).actor == "ada (administrator)"


def test_a_second_arrival_does_nothing_but_answer(executor, spool, sealed, deeds):
    _, message = sealed(orders.Start(name="web"))
    for _ in range(3):
        executor.receive(message)
        spool.wait_for("outcome")
    assert deeds.done == ["begin start", "end start"]
    assert [r.kind for r in spool.reports()] == ["accepted", "outcome"] + ["accepted", "outcome"] * 2
    assert len({str(r) for r in spool.of("outcome")}) == 1, "the same outcome each time"


def test_a_hundred_arrivals_at_once_are_one_job(executor, spool, sealed, deeds):
    _, message = sealed(orders.Start(name="web"))
    threads = [threading.Thread(target=executor.receive, args=(message,)) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.wait_for("outcome")
    assert deeds.done == ["begin start", "end start"]


@pytest.mark.parametrize(
    ("changed", "code", "knows_job"),
    [
        ({"key": SigningKey.generate()}, "envelope-forged", False),
        ({"host": uuid4()}, "envelope-foreign", True),
        ({"generation": 2}, "envelope-foreign", True),
        ({"expires": 1.0}, "envelope-expired", True),
        ({"issued": time.time() + 4000, "expires": time.time() + 5000}, "envelope-early", True),
        ({"order": {"op": "format-disk"}}, "envelope-unreadable", True),
        ({"order": {"op": "start", "name": "we; b"}}, "envelope-unreadable", True),
        ({"order": {"op": "start", "name": ".host"}}, "envelope-unreadable", True),
        ({"order": {"op": "start", "name": "web", "more": 1}}, "envelope-unreadable", True),
    ],
)
def test_what_is_not_ours_is_refused_and_nothing_is_done(executor, spool, sealed, deeds, changed, code, knows_job):
    order = changed.pop("order", None) if (changed := dict(changed)) else None
    job, message = sealed(order or orders.Start(name="web"), **changed)
    executor.receive(message)
    refused = spool.reports()
    assert [(r.kind, r.code, r.job) for r in refused] == [("refused", code, job if knows_job else None)]
    assert deeds.done == []
    assert spool.ledger.unfinished() == []


@pytest.mark.parametrize("message", ["", "a.b", "a.b.c", "....", "x" * 400_000, "\x00.\x00.\x00", "é.é.é"])
def test_garbage_is_refused(executor, spool, message):
    executor.receive(message)
    assert [r.kind for r in spool.reports()] == ["refused"]


def test_every_changed_byte_is_refused(executor, spool, sealed, deeds):
    _, message = sealed(orders.Start(name="web"))
    for index in range(0, len(message), 7):
        changed = message[:index] + ("A" if message[index] != "A" else "B") + message[index + 1 :]
        if changed != message:
            executor.receive(changed)
    time.sleep(0.1)
    # The last base64 letter of a part carries unused bits: such a twin is the same message.
    assert deeds.done in ([], ["begin start", "end start"])
    assert {r.kind for r in spool.reports()} <= {"refused", "accepted", "outcome"}


def test_a_flood_of_forgeries_is_not_a_flood_of_reports(executor, spool):
    for _ in range(500):
        executor.receive("a.b.c")
    assert len(spool.reports()) <= doors.REFUSALS + 1


def test_a_viewer_s_order_fails_and_nothing_is_done(executor, spool, sealed, deeds):
    _, message = sealed(orders.Start(name="web"), role="viewer")
    executor.receive(message)
    outcome = spool.wait_for("outcome")[0]
    assert (outcome.state, outcome.problem["code"]) == ("failed", "not-allowed")
    assert deeds.done == []


def test_the_policy_has_the_last_word(executor, spool, sealed, deeds):
    executor.receive(sealed(orders.Start(name="mail"))[1])
    outcome = spool.wait_for("outcome")[0]
    assert (outcome.state, outcome.problem["code"]) == ("failed", "policy-refused")
    assert "“machines”" in outcome.problem["hint"]
    assert deeds.done == []


def test_orders_on_one_name_are_done_one_after_the_other(executor, spool, sealed, deeds, gate, eventually):
    gate.clear()
    executor.receive(sealed(orders.Start(name="web"))[1])
    executor.receive(sealed(orders.Enable(name="web"))[1])
    executor.receive(sealed(orders.Start(name="db"))[1])
    eventually(lambda: len(deeds.done) == 2)
    time.sleep(0.05)
    assert deeds.done == ["begin start", "begin start"], "another name need not wait"
    gate.set()
    spool.wait_for("outcome", 3)
    after = deeds.done[deeds.done.index("end start") :]  # of web's: db's may end at any time
    assert [deed for deed in after if "enable" in deed] == ["begin enable", "end enable"]


def test_terminate_overtakes_a_poweroff_that_hangs(executor, spool, sealed, deeds, gate, eventually):
    gate.clear()
    executor.receive(sealed(orders.Poweroff(name="web"))[1])
    eventually(lambda: deeds.done == ["begin poweroff"])
    executor.receive(sealed(orders.Terminate(name="web"))[1])
    eventually(lambda: "begin terminate" in deeds.done)
    gate.set()
    spool.wait_for("outcome", 2)


def test_a_running_job_can_be_cancelled(executor, spool, sealed, deeds, gate, eventually):
    gate.clear()
    job, message = sealed(orders.Poweroff(name="web"))
    executor.receive(message)
    eventually(lambda: deeds.done)
    executor.receive(sealed(orders.Cancel(job=job))[1])
    assert spool.wait_for("outcome")[0].state == "cancelled"


def test_a_cancel_that_overtakes_its_order_refuses_it(executor, spool, sealed, deeds):
    job, message = sealed(orders.Start(name="web"))
    executor.receive(sealed(orders.Cancel(job=job))[1])
    assert spool.wait_for("outcome")[0].state == "cancelled", "the panel need not wait for what will never begin"
    executor.receive(message)
    assert [r.state for r in spool.wait_for("outcome", 2)] == ["cancelled", "cancelled"]
    assert deeds.done == []
    assert spool.ledger.unfinished() == []


def test_a_cancel_of_what_has_ended_repeats_the_outcome(executor, spool, sealed):
    job, message = sealed(orders.Start(name="web"))
    executor.receive(message)
    spool.wait_for("outcome")
    executor.receive(sealed(orders.Cancel(job=job))[1])
    assert [r.state for r in spool.wait_for("outcome", 2)] == ["succeeded", "succeeded"]


def test_a_build_becomes_a_unit_and_holds_its_name(executor, spool, sealed, deeds, eventually):
    job, message = sealed(BUILD)
    executor.receive(message)
    eventually(lambda: executor._units.placed == [job])
    spool.ledger.begin(job)
    executor.receive(sealed(orders.Start(name="web"))[1])
    executor.receive(sealed(orders.Remove(name="web"))[1])
    outcomes = spool.wait_for("outcome", 2)
    assert {o.problem["code"] for o in outcomes} == {"machine-busy"}
    assert str(job) in outcomes[0].problem["message"]
    assert deeds.done == []


def test_a_build_waits_for_what_runs_on_its_name(executor, spool, sealed, deeds, gate, eventually):
    gate.clear()
    executor.receive(sealed(orders.Poweroff(name="web"))[1])
    eventually(lambda: deeds.done)
    job, message = sealed(orders.Remove(name="web"))
    executor.receive(message)
    time.sleep(0.05)
    assert executor._units.placed == []
    gate.set()
    eventually(lambda: executor._units.placed == [job])
    assert spool.wait_for("outcome")[0].state == "succeeded"


def test_cancelling_a_build_stops_its_unit(executor, spool, sealed, eventually):
    job, message = sealed(BUILD)
    executor.receive(message)
    eventually(lambda: executor._units.placed)
    executor.receive(sealed(orders.Cancel(job=job))[1])
    assert executor._units.cancelled == [job]


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (Problem("no", code="x-y", retryable=True), "failed", "x-y"),
        (TookTooLong("late"), "timed_out", "timed-out"),
        (OSError(28, "No space left on device", "/var"), "failed", "no-space"),
        (ZeroDivisionError("secret detail"), "failed", "internal-error"),
    ],
)
def test_every_failure_becomes_an_outcome(executor, spool, sealed, deeds, error, state, code):
    deeds.fails = error
    executor.receive(sealed(orders.Start(name="web"))[1])
    outcome = spool.wait_for("outcome")[0]
    assert (outcome.state, outcome.problem["code"]) == (state, code)
    assert "secret detail" not in str(outcome)


def test_resend_sets_the_publisher_back(executor, spool, sealed):
    executor.receive(sealed(orders.Start(name="web"))[1])
    spool.wait_for("outcome")
    executor.receive(sealed(orders.Resend(after=1))[1])
    assert spool.mailbox.set_back == [1]


def test_resend_of_what_is_gone_fills_the_gap_and_tells_ends_again(executor, spool, sealed):
    executor.receive(sealed(orders.Start(name="web"))[1])
    spool.wait_for("outcome")
    with spool.ledger.writing() as db:
        db.execute("delete from spool where number = 1")
    executor.receive(sealed(orders.Resend(after=0))[1])
    assert [r.kind for r in spool.reports()] == ["heartbeat", "outcome", "outcome"]
    assert spool.mailbox.set_back == [0]


def test_an_earlier_worker_s_orders_are_taken_up(executor, spool, sealed, deeds):
    for order, begun in ((orders.Start(name="web"), False), (orders.Poweroff(name="db"), True), (BUILD, True)):
        job = uuid4()
        with spool.ledger.writing() as db:
            spool.ledger.take(db, job, orders.to_wire(order), "ada", "accepted")
        if begun:
            spool.ledger.begin(job)
    executor.adopt()
    spool.wait_for("outcome", 2)
    assert len(executor._units.adopted) == 1
    assert "begin poweroff" in deeds.done


def test_an_order_that_is_too_old_is_not_done_after_a_restart(executor, spool, deeds):
    job = uuid4()
    with spool.ledger.writing() as db:
        spool.ledger.take(db, job, {"op": "start", "name": "web"}, "ada", "accepted")
        db.execute("update jobs set taken = 1000")
    executor.adopt()
    assert spool.wait_for("outcome")[0].problem["code"] == "worker-restarted"
    assert deeds.done == []


OLDER_WORDS = {"op": "bake", "recipe": {"kind": "debian", "release": "trixie"}}  # as no order is today


@pytest.mark.parametrize(("cancelled", "state"), [(False, "failed"), (True, "cancelled")])
def test_what_a_worker_of_another_version_took_on_is_stopped_and_ends_and_all_else_goes_on(
    cancelled, state, executor, spool, deeds
):
    jobs = [uuid4(), uuid4()]
    for job, wanted in zip(jobs, (OLDER_WORDS, {"op": "poweroff", "name": "web"}), strict=True):
        with spool.ledger.writing() as db:
            spool.ledger.take(db, job, wanted, "ada", "accepted")
        spool.ledger.begin(job)
    if cancelled:
        spool.ledger.cancel(jobs[0])
    executor.adopt()
    ended = {outcome.job: outcome for outcome in spool.wait_for("outcome", 2)}
    assert (ended[jobs[0]].state, ended[jobs[1]].state) == (state, "succeeded")
    assert ended[jobs[0]].problem["code"] == ("cancelled" if cancelled else "order-unreadable")
    assert executor._units.cancelled == [jobs[0]], "its unit would go on unseen"
    assert deeds.done == ["begin poweroff", "end poweroff"]
    assert spool.ledger.unfinished() == []


def test_refresh_asks_for_everything_anew(executor, sealed):
    executor.receive(sealed(orders.Refresh(), role="viewer")[1])
    assert executor._watch.refreshed == 1


def test_another_key_of_the_panel_is_trusted_only_when_one_that_is_trusted_says_so(
    executor, spool, sealed, panel_key, tmp_path
):
    following = SigningKey.generate()
    file = tmp_path / "host.env"
    texts = [b64encode(bytes(key.verify_key)).decode() for key in (panel_key, following)]
    file.write_text(f"NSPAWNPANEL_PANEL_KEYS={texts[0]}\n")
    executor._keys._file = file
    executor.receive(sealed(orders.TrustKeys(keys=texts), key=following)[1])
    assert executor.obeyed() == [key_id(panel_key.verify_key)]
    executor.receive(sealed(orders.TrustKeys(keys=texts), role="viewer")[1])
    assert executor.obeyed() == [key_id(panel_key.verify_key)]
    executor.receive(sealed(orders.TrustKeys(keys=texts))[1])
    assert executor.obeyed() == sorted(key_id(key.verify_key) for key in (panel_key, following))
    executor.receive(sealed(orders.Refresh(), key=following)[1])
    assert executor._watch.refreshed == 1


def test_a_control_order_needs_its_right_too(executor, spool, sealed):
    job, message = sealed(orders.Start(name="web"))
    executor.receive(message)
    spool.wait_for("outcome")
    executor.receive(sealed(orders.Cancel(job=job), role="viewer")[1])
    assert spool.reports()[-1].kind == "refused"


def test_a_start_that_was_cancelled_while_no_worker_was_there_is_ended_and_one_not_begun_is_left_alone(
    executor, spool, deeds, gate
):
    gate.clear()  # the handler sees that it was cancelled
    for name, begun in (("web", True), ("db", False)):
        job = uuid4()
        with spool.ledger.writing() as db:
            spool.ledger.take(db, job, {"op": "start", "name": name}, "ada", "accepted")
        if begun:
            spool.ledger.begin(job)
        spool.ledger.cancel(job)
    executor.adopt()
    assert {outcome.state for outcome in spool.wait_for("outcome", 2)} == {"cancelled"}
    assert deeds.done == ["begin start"]


def test_an_order_of_an_older_copy_of_the_panel_does_nothing_and_says_so(executor, spool, sealed, deeds):
    _, later = sealed(orders.Start(name="web"), epoch=1, sequence=9)
    executor.receive(later)
    spool.wait_for("outcome")
    job, older = sealed(orders.Terminate(name="web"), epoch=1, sequence=4)
    executor.receive(older)
    [refused] = spool.wait_for("refused")
    assert (refused.code, refused.job) == ("envelope-superseded", job)
    assert (refused.heard.epoch, refused.heard.sequence, refused.heard.latched) == (1, 9, False)
    assert spool.ledger.job(job) is None
    assert deeds.done == ["begin start", "end start"]


def test_a_cancel_of_an_older_copy_of_the_panel_does_nothing_but_it_may_ask_for_reports(executor, spool, sealed, deeds):
    executor.receive(sealed(orders.Start(name="web"), epoch=2, sequence=1)[1])
    spool.wait_for("outcome")
    unknown = uuid4()
    executor.receive(sealed(orders.Cancel(job=unknown), epoch=1, sequence=50)[1])
    assert spool.wait_for("refused")[0].code == "envelope-superseded"
    assert spool.ledger.job(unknown) is None
    executor.receive(sealed(orders.Refresh(), epoch=1, sequence=50)[1])
    assert executor._watch.refreshed == 1


def test_how_far_the_panel_was_heard_outlives_the_worker(executor, spool, sealed, paths):
    executor.receive(sealed(orders.Start(name="web"), epoch=3, sequence=7)[1])
    spool.wait_for("outcome")
    again = Ledger(paths.ledger, host=spool.host, generation=1)
    assert (again.heard().epoch, again.heard().sequence) == (3, 7)
    again.close()


# --- put back to an older copy


def test_a_host_that_was_put_back_goes_on_in_another_epoch_and_tells_everything_anew(executor, spool, sealed):
    job, message = sealed(orders.Start(name="web"))
    executor.receive(message)
    spool.wait_for("outcome")
    executor.receive(sealed(orders.Resynchronise(epoch=2, number=700), epoch=5, sequence=9)[1])
    assert [report.kind for report in spool.reports()] == ["heartbeat", "outcome"]
    assert spool.seen == [701, 702]
    assert (spool.epoch, spool.mailbox.set_back[-1]) == (2, 700)
    assert spool.reports()[0].heard == spool.ledger.heard() == reports.Heard(epoch=5, sequence=9)
    assert (spool.reports()[1].job, executor._watch.refreshed) == (job, 1)


def test_the_same_resynchronisation_twice_is_done_once(executor, spool, sealed):
    for _ in range(2):
        executor.receive(sealed(orders.Resynchronise(epoch=2, number=700))[1])
        spool.reporter.send(reports.Heartbeat())
    assert spool.reports()
    assert (spool.epoch, spool.seen) == (2, [701, 702, 703])


@pytest.mark.parametrize(
    ("epoch", "number", "done"), [(2, 3, False), (2, 2, False), (2, 4, True), (3, 0, True)],
    ids=["as far", "farther", "behind", "in an earlier epoch"],
)  # fmt: skip
def test_one_that_may_be_behind_finds_out_itself(executor, spool, sealed, epoch, number, done):
    spool.reporter.send(*[reports.Heartbeat()] * 3)
    executor.receive(sealed(orders.Resynchronise(epoch=epoch, number=number, if_behind=True))[1])
    spool.reports()
    assert spool.epoch == (epoch if done else 1)
    assert spool.seen == ([number + 1] if done else [1, 2, 3])


def test_only_an_administrator_may_have_a_host_resynchronised(executor, spool, sealed):
    executor.receive(sealed(orders.Resynchronise(epoch=2, number=700), role="viewer")[1])
    assert [report.kind for report in spool.reports()] == ["refused"]
