"""Reports: in order, twice, late, forged, from somebody else."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone
from nacl.signing import SigningKey

from machines.contract import envelope, orders, reports
from machines.contract.recipes import DebianRecipe
from machines.contract.states import JobState, MachineState
from machines.models import Event, Host, Job, LogChunk, Machine, ObservedFiles, Revision
from machines.panel.courier.intake import TAKE, Taken, take
from machines.panel.logs import log_reader
from tests import make

pytestmark = pytest.mark.django_db


class HostVoice:
    """A host's side: numbers and signs reports as the real one does."""

    def __init__(self, name: str = "alpha") -> None:
        self.key = SigningKey.generate()
        self.host = make.host(name, signing=self.key)
        self.number = 0
        self.ahead = 0.0  # seconds its clock is
        self.epoch = 0  # of its ledger; 0 for a host older than epochs

    def say(self, report: reports.Report, number: int | None = None) -> str:
        self.number = self.number + 1 if number is None else number
        signed = envelope.SignedReport(
            host=self.host.id,
            generation=self.host.generation,
            epoch=self.epoch,
            number=self.number,
            at=time.time() + self.ahead,
            report=reports.to_wire(report),
        )
        return envelope.sign_report(signed, self.key)

    def tell(self, report: reports.Report, number: int | None = None) -> Taken:
        return take(self.host.id, [(f"{self.number + 1}-0", self.say(report, number))])[0]


@pytest.fixture
def voice() -> HostVoice:
    return HostVoice()


@pytest.fixture
def job(voice: HostVoice) -> Job:
    return make.job(orders.Start(name="web"), on=voice.host, state=JobState.SENT)


def fact(name: str = "web", state: MachineState = MachineState.RUNNING, **fields) -> reports.MachineFact:
    return reports.MachineFact(name=name, state=state, **fields)


def lines(job: Job, first: int, *texts: str) -> reports.Lines:
    return reports.Lines(job=job.uuid, first=first, lines=[reports.Line(at=1.0, text=t) for t in texts])


def outcome(job: Job, state: str = "succeeded", **fields) -> reports.Outcome:
    return reports.Outcome(job=job.uuid, state=state, at=1.0, **fields)


def test_a_job_goes_from_sent_to_succeeded(voice, job):
    for report in (
        reports.Accepted(job=job.uuid),
        reports.Phase(job=job.uuid, name="start", number=1, of=1, at=1.0),
        outcome(job, machine=fact(addresses=[reports.Address(family="inet", address="10.0.0.7")])),
    ):
        assert voice.tell(report) is Taken.YES
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED
    assert job.phases[0]["name"] == "start"
    assert Machine.objects.get(name="web").addresses == ["10.0.0.7"]


def test_a_report_taken_twice_changes_nothing(voice, job):
    text = voice.say(lines(job, 1, "one", "two"))
    assert take(voice.host.id, [("1-0", text)]) == [Taken.YES]
    assert take(voice.host.id, [("2-0", text)]) == [Taken.AGAIN]
    assert LogChunk.objects.count() == 1


@pytest.mark.parametrize(
    "order",
    [make.build_order("db"), orders.BuildBase(recipe=DebianRecipe(release="trixie"))],
    ids=["build", "build_base"],
)
def test_a_build_that_waits_for_its_turn_has_not_begun(order, voice):
    build = make.job(order, on=voice.host, state=JobState.SENT)
    voice.tell(lines(build, 1, "Waiting for other jobs of this type on this host."))
    voice.tell(reports.Progress(job=build.uuid, fraction=0, note="number 2 in the queue"))
    build.refresh_from_db()
    assert (build.state, build.started_at, build.line_count) == (JobState.ACCEPTED, None, 1)
    assert (build.progress, build.progress_note) == (None, "number 2 in the queue")
    voice.tell(reports.Phase(job=build.uuid, name="prepare", number=1, of=5, at=1.0))
    voice.tell(lines(build, 2, "Building with mmdebstrap."))
    build.refresh_from_db()
    assert (build.state, build.line_count, build.progress_note) == (JobState.RUNNING, 2, "")


def test_what_a_job_said_at_once_is_written_at_once(voice, job, django_assert_max_num_queries):
    parts = [
        reports.Phase(job=job.uuid, name="prepare", number=1, of=2, at=1.0), lines(job, 1, "one", "two"),
        reports.Phase(job=job.uuid, name="import", number=2, of=2, at=2.0),
        reports.Command(job=job.uuid, argv=["machinectl", "start", "web"]), lines(job, 3, "three"),
        reports.Progress(job=job.uuid, fraction=0.5, note="half"),
    ]  # fmt: skip
    text = voice.say(reports.JobOutput(job=job.uuid, parts=parts))
    with django_assert_max_num_queries(13):  # of them six for the three transactions, one for the host's key
        assert take(voice.host.id, [("1-0", text)]) == [Taken.YES]
    job.refresh_from_db()
    assert [(phase["name"], phase["line"]) for phase in job.phases] == [("prepare", 1), ("import", 3)]
    assert (job.state, job.line_count, job.commands, job.progress) == (
        "running",
        3,
        [["machinectl", "start", "web"]],
        0.5,
    )
    chunk = LogChunk.objects.get(job=job)
    assert (chunk.first, [text for _, _, text in chunk.lines]) == (1, ["one", "two", "three"])


def test_what_is_said_in_thousands_of_lines_is_read_whole(voice, job):
    parts = [lines(job, 1 + 400 * n, *(f"{n}-{k}" for k in range(400))) for n in range(8)]
    assert voice.tell(reports.JobOutput(job=job.uuid, parts=parts)) is Taken.YES
    job.refresh_from_db()
    assert job.line_count == 3200
    assert [number for number, *_ in log_reader.after(job.pk, 1200)] == list(range(1201, 3201))
    assert [text for *_, text in log_reader.after(job.pk, 3198)] == ["7-398", "7-399"]
    assert max(LogChunk.objects.values_list("count", flat=True)) == reports.LINES_AT_ONCE


def test_a_lost_job_whose_machine_another_has_since_loses_no_line(voice, job):
    Job.objects.filter(pk=job.pk).update(state=JobState.LOST)
    other = make.job(orders.Poweroff(name=job.machine_name), on=voice.host, state=JobState.QUEUED)
    told = [
        reports.JobOutput(job=job.uuid, parts=[reports.Command(job=job.uuid, argv=["ls"]), lines(job, 1, "one")]),
        reports.Inventory(host=reports.HostFact(systemd=252), machines=[fact("new")], jobs=[job.uuid]),
        outcome(job),
    ]
    assert [voice.tell(report) for report in told] == [Taken.YES] * 3
    job.refresh_from_db()
    other.refresh_from_db()
    assert (job.state, job.line_count, other.state) == (JobState.SUCCEEDED, 1, JobState.QUEUED)
    assert Machine.objects.filter(name="new").exists(), "the inventory was taken"
    assert not Event.objects.filter(kind="report-refused").exists()


def test_an_order_refused_once_and_taken_later_has_no_problem(voice, job):
    voice.tell(reports.Refused(code="envelope-early", message="The order is dated in the future.", job=job.uuid))
    job.refresh_from_db()
    assert job.problem
    voice.tell(reports.Accepted(job=job.uuid))
    job.refresh_from_db()
    assert job.problem is None


def test_reports_taken_together_are_taken_in_order_and_one_that_cannot_be_spoils_no_other(voice, job, monkeypatch):
    def unable(*_: object) -> None:
        Event.objects.create(host=voice.host, kind="half", text="")
        raise ValueError("no")

    monkeypatch.setitem(TAKE, "command", unable)
    told = [
        voice.say(reports.Accepted(job=job.uuid)),
        voice.say(reports.Phase(job=job.uuid, name="start", number=1, of=1, at=1.0)),
        voice.say(reports.Command(job=job.uuid, argv=["machinectl", "start", "web"])),
        "rubbish",
        voice.say(lines(job, 1, "one")),
        voice.say(outcome(job)),
    ]
    taken = take(voice.host.id, [(f"{number}-0", text) for number, text in enumerate(told, 1)])
    assert [each.name for each in taken] == ["YES", "YES", "YES", "REFUSED", "YES", "YES"]
    job.refresh_from_db()
    assert (job.state, job.line_count, len(job.phases)) == (JobState.SUCCEEDED, 1, 1)
    voice.host.refresh_from_db()
    assert (voice.host.stream_position, voice.host.report_number) == ("6-0", 5)
    assert not Event.objects.filter(kind="half").exists(), "half of it"


def test_a_gap_is_noticed_and_nothing_after_it_is_taken(voice, job):
    voice.tell(reports.Accepted(job=job.uuid))
    assert voice.tell(outcome(job), number=5) is Taken.GAP
    job.refresh_from_db()
    assert job.state == JobState.ACCEPTED


def test_log_lines_are_kept_once_each_when_batches_overlap(voice, job):
    voice.tell(lines(job, 1, "a", "b", "c"))
    voice.tell(lines(job, 2, "b", "c", "d"))
    kept = [text for chunk in LogChunk.objects.all() for _, _, text in chunk.lines]
    assert kept == ["a", "b", "c", "d"]


def test_another_hosts_signature_is_refused_and_noted(voice, job):
    thief = HostVoice("beta")
    assert take(voice.host.id, [("1-0", thief.say(outcome(job)))]) == [Taken.REFUSED]
    assert Event.objects.filter(host=voice.host, kind="report-refused").exists()
    job.refresh_from_db()
    assert job.state == JobState.SENT


def test_a_host_cannot_end_another_hosts_job(voice, job):
    other = HostVoice("beta")
    assert other.tell(outcome(job)) is Taken.YES
    job.refresh_from_db()
    assert job.state == JobState.SENT


def test_rubbish_is_refused(voice):
    assert take(voice.host.id, [("1-0", "rubbish")]) == [Taken.REFUSED]


def test_an_ended_job_stays_as_it_ended(voice, job):
    voice.tell(outcome(job, "failed", problem={"code": "x", "message": "no"}))
    voice.tell(outcome(job))
    job.refresh_from_db()
    assert job.state == JobState.FAILED


def test_a_lost_job_becomes_what_its_host_says(voice, job):
    Job.objects.filter(pk=job.pk).update(state=JobState.LOST, accepted_at=timezone.now())
    voice.tell(outcome(job))
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED


@pytest.mark.parametrize(("begun", "state"), [(True, JobState.RUNNING), (False, JobState.ACCEPTED)])
def test_a_lost_job_that_its_host_still_has_goes_on_where_it_was(voice, job, begun, state):
    now = timezone.now()
    Job.objects.filter(pk=job.pk).update(state=JobState.LOST, accepted_at=now, started_at=now if begun else None)
    voice.tell(reports.Inventory(host=reports.HostFact(), machines=[], jobs=[job.uuid]))
    job.refresh_from_db()
    assert job.state == state


def test_an_order_cancelled_while_its_host_was_silent_may_have_been_taken_after_all(voice, job):
    Job.objects.filter(pk=job.pk).update(state=JobState.CANCELLED, sends=1)
    voice.tell(outcome(job))
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED


def test_an_inventory_is_the_truth(voice):
    make.machine("gone", on=voice.host)
    voice.tell(reports.Inventory(host=reports.HostFact(systemd=257), machines=[fact("here")]))
    assert set(Machine.objects.listed().values_list("name", flat=True)) == {"here"}
    assert Host.objects.get().facts["systemd"] == 257


def test_a_configured_machine_that_vanishes_reads_missing(voice):
    machine = make.machine("web", on=voice.host, state=MachineState.RUNNING)
    Revision.objects.create(machine=machine, number=1, state="applied")
    voice.tell(reports.Inventory(host=reports.HostFact(), machines=[]))
    machine.refresh_from_db()
    assert machine.state == MachineState.MISSING


def test_a_job_the_host_forgot_is_lost_not_failed(voice, job):
    long_ago = timezone.now() - timedelta(minutes=5)
    Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING, accepted_at=long_ago)
    voice.tell(reports.Inventory(host=reports.HostFact(), machines=[], jobs=[]))
    job.refresh_from_db()
    assert job.state == JobState.LOST


class TestRevisions:
    @pytest.fixture
    def machine(self, voice) -> Machine:
        return make.machine("web", on=voice.host, state=MachineState.RUNNING)

    @pytest.fixture
    def revision(self, machine) -> Revision:
        return Revision.objects.create(
            machine=machine, number=1, state="applying", nspawn_text="# 1\n[Exec]\nBoot=no\n"
        )

    @pytest.fixture
    def apply(self, voice, revision) -> Job:
        configuration = orders.Configuration(revision=1, nspawn=revision.nspawn_text, limits="")
        order = orders.Apply(name="web", configuration=configuration)
        return make.job(order, on=voice.host, revision=revision, state=JobState.RUNNING)

    def test_an_apply_that_succeeded_makes_it_the_applied_one(self, voice, apply, machine, revision):
        voice.tell(outcome(apply, result={"applied_at": 2000.0}, machine=fact(since=1000.0)))
        machine.refresh_from_db()
        assert machine.applied == revision
        assert machine.restart_needed

    def test_a_restart_clears_the_mark(self, voice, apply, machine):
        voice.tell(outcome(apply, result={"applied_at": 2000.0}, machine=fact(since=1000.0)))
        voice.tell(reports.Observed(machines=[fact(since=3000.0)]))
        machine.refresh_from_db()
        assert not machine.restart_needed

    def test_an_apply_that_failed_leaves_a_draft(self, voice, apply, machine, revision):
        voice.tell(outcome(apply, "failed", problem={"code": "config-refused", "message": "no"}))
        revision.refresh_from_db()
        machine.refresh_from_db()
        assert (revision.state, revision.number, machine.applied) == ("draft", None, None)

    def test_an_apply_given_up_here_and_done_there_is_the_applied_one(self, voice, apply, machine, revision):
        Job.objects.filter(pk=apply.pk).update(state=JobState.CANCELLED, sends=1)
        Revision.objects.filter(pk=revision.pk).update(state="draft", number=None)
        voice.tell(outcome(apply, result={"applied_at": 2000.0}, machine=fact(since=1000.0)))
        machine.refresh_from_db()
        assert (machine.applied, machine.applied.number) == (revision, 1)

    def test_a_failed_build_leaves_no_machine_but_its_configuration_for_a_retry(self, voice, machine, revision):
        order = orders.Remove(name="web")
        job = make.job(order, on=voice.host, revision=revision, state=JobState.RUNNING)
        Job.objects.filter(pk=job.pk).update(op="build")
        voice.tell(outcome(job, "failed", problem={"code": "x", "message": "no"}))
        assert not Machine.objects.listed().exists()
        revision.refresh_from_db()
        assert (revision.state, revision.number) == ("draft", None)

    def build(self, voice, revision, leftovers: str) -> Job:
        configuration = orders.Configuration(revision=1, nspawn=revision.nspawn_text, limits="")
        order = make.build_order().model_copy(update={"configuration": configuration, "leftovers": leftovers})
        return make.job(order, on=voice.host, revision=revision, state=JobState.RUNNING)

    def test_files_that_a_new_machine_was_to_keep_are_no_change_by_hand_but_wait_to_be_taken_over(
        self, voice, machine, revision
    ):
        """Also where the name had a machine with a revision before."""
        Machine.objects.update(applied=Revision.objects.create(machine=machine, number=7, state="applied"))
        hand = fact(nspawn_sha256="f" * 64)
        voice.tell(outcome(self.build(voice, revision, "keep"), result={"applied_at": 2000.0}, machine=hand))
        voice.tell(reports.Observed(machines=[hand]))
        machine.refresh_from_db()
        assert (machine.applied, machine.drifted, machine.mismatches) == (None, False, 0)
        assert machine.nspawn_sha256 == "f" * 64
        assert not Revision.objects.filter(pk=revision.pk).exists()

    @pytest.mark.parametrize(("leftovers", "there"), [("keep", None), ("replace", "f" * 64), ("refuse", "f" * 64)])
    def test_files_that_were_written_are_the_applied_revision(self, voice, machine, revision, leftovers, there):
        """Kept was something else: a limit, a link. And what differs though ours were written is a change by hand."""
        told = fact(nspawn_sha256=there or revision.nspawn_sha256)
        voice.tell(outcome(self.build(voice, revision, leftovers), result={"applied_at": 2000.0}, machine=told))
        machine.refresh_from_db()
        assert machine.applied == revision


def test_a_hosts_flood_of_refusals_is_bounded(voice):
    for number in range(60):
        voice.tell(reports.Refused(code="envelope-forged", message=f"no {number}"))
    assert Event.objects.count() <= 20


def test_an_unknown_job_is_no_trouble(voice):
    assert voice.tell(reports.Accepted(job=uuid4())) is Taken.YES


def test_a_report_we_cannot_take_holds_up_nothing(voice, job):
    twice = reports.Inventory(host=reports.HostFact(), machines=[fact("a"), fact("a")])
    assert voice.tell(twice) is Taken.YES
    assert Event.objects.filter(host=voice.host, kind="report-refused").exists()
    assert voice.tell(reports.Accepted(job=job.uuid)) is Taken.YES
    job.refresh_from_db()
    assert job.state == JobState.ACCEPTED


def test_no_database_is_told_more_than_its_columns_hold(voice):
    """PostgreSQL refuses what is longer; then the same report would be read for ever."""
    for code in ("x" * 300, "y" * 300):
        assert voice.tell(reports.Refused(code=code, message="m" * 4000)) is Taken.YES
    latest = f"{2**64 - 1}-{2**64 - 1}"
    assert take(voice.host.id, [(latest, voice.say(reports.Heartbeat()))]) == [Taken.YES]
    assert {event.kind for event in Event.objects.all()} == {"order-refused"}
    assert Host.objects.get().stream_position == latest


def test_commands_of_a_job_are_kept_up_to_a_size(voice, job):
    for _ in range(5):
        voice.tell(reports.Command(job=job.uuid, argv=["x" * 8000] * 20))
    job.refresh_from_db()
    assert len(job.commands) == 2


@pytest.mark.parametrize("moment", [-62135596800.0, 253402300799.0, "nan", 1e300, [], None, True])
def test_a_moment_that_no_page_can_show_is_now(voice, moment):
    applied = make.job(orders.Start(name="web"), on=voice.host, state=JobState.RUNNING)
    machine = make.machine("web", on=voice.host)
    revision = Revision.objects.create(machine=machine, number=1, state="applying", nspawn_text="x")
    Job.objects.filter(pk=applied.pk).update(revision=revision)
    voice.tell(outcome(applied, result={"applied_at": moment}, machine=fact()))
    revision.refresh_from_db()
    assert 1970 <= revision.applied_at.year < 9000


def test_a_line_far_away_is_not_kept(voice, job):
    """A download reads all numbers up to the last one."""
    voice.tell(lines(job, 2**31 - 1, "far"))
    job.refresh_from_db()
    assert job.line_count == 0


# --- files


def found(name: str = "web", **fields) -> reports.ObservedFiles:
    return reports.ObservedFiles(machines=[reports.ObservedMachine(name=name, **fields)])


def file(path: str = "/etc/systemd/nspawn/web.nspawn", text: str = "[Exec]\n", **fields) -> reports.ObservedFile:
    return reports.ObservedFile(path=path, kind="nspawn", text=text, **fields)


def test_what_lies_on_the_host_is_kept_and_replaced(voice):
    voice.tell(reports.Observed(machines=[fact()]))
    assert voice.tell(found(files=[file()], shown={"MemoryMax": "512"}, needs_reload=True)) is Taken.YES
    machine = Machine.objects.get()
    assert machine.observed_files.counting.text == "[Exec]\n"
    assert machine.observed_files.needs_reload
    voice.tell(found(files=[file("/run/systemd/nspawn/web.nspawn", "[Files]\n")]))
    machine = Machine.objects.get()
    assert [f.path for f in machine.observed_files.files] == ["/run/systemd/nspawn/web.nspawn"]
    assert machine.observed_files.shown == {}


def test_files_of_a_machine_nobody_knows_and_of_another_host_are_passed_over(voice):
    make.machine("web", on=make.host("beta"))
    assert voice.tell(found(files=[file()])) is Taken.YES
    assert not ObservedFiles.objects.exists()


def test_a_nul_in_a_file_s_text_is_no_way_in(voice):
    voice.tell(reports.Observed(machines=[fact()]))
    voice.tell(found(files=[file(text="a\0b")]))
    assert Machine.objects.get().observed_files.counting.text == "a�b"


@pytest.mark.parametrize("load", ["inf", "-inf", "nan", "1e400", -1, 1e300])
def test_a_load_without_end_holds_up_nobody(voice, load):
    voice.number += 1
    signed = envelope.SignedReport(
        host=voice.host.id,
        generation=voice.host.generation,
        number=voice.number,
        at=1.0,
        report={"kind": "heartbeat", "load": load},
    )
    before = voice.host.facts
    assert take(voice.host.id, [("1-0", envelope.sign_report(signed, voice.key))]) == [Taken.YES], "it is stepped over"
    voice.host.refresh_from_db()
    assert voice.host.facts == before
    assert Event.objects.filter(kind="report-refused").exists()


def test_facts_that_no_database_takes_are_passed_over(voice, monkeypatch):
    def take_over(host, _report, _signed):
        host.facts = {"load": float("inf")}

    monkeypatch.setitem(TAKE, "heartbeat", take_over)
    before = voice.host.facts
    assert voice.tell(reports.Heartbeat(load=1.0)) is Taken.YES
    voice.host.refresh_from_db()
    assert voice.host.facts == before
    assert voice.host.report_number == 1


def test_what_a_newer_host_says_is_stepped_over(voice, job):
    unknown = envelope.SignedReport(
        host=voice.host.id, generation=voice.host.generation, number=1, at=1.0, report={"kind": "tomorrow"}
    )
    assert take(voice.host.id, [("1-0", envelope.sign_report(unknown, voice.key))]) == [Taken.YES]
    voice.number = 1
    voice.tell(outcome(job))
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED
    assert "cannot be read" in Event.objects.get(kind="report-refused").text


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_orders_are_placed_while_reports_are_taken(voice, monkeypatch):
    """An order refers to the row of its host, which whoever takes reports holds."""
    placed: list[Job] = []

    def place() -> Job:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '3s'")
        try:
            return make.job(orders.Start(name="web"), on=voice.host)
        finally:
            connection.close()

    def meanwhile(*_):
        with ThreadPoolExecutor(1) as another:
            placed.append(another.submit(place).result())

    monkeypatch.setitem(TAKE, "heartbeat", meanwhile)
    voice.tell(reports.Heartbeat())
    assert placed == [Job.objects.get()]


# --- how old each fact is


def partial(*machines: reports.MachineFact, why: str = "machined does not respond; it is masked.") -> reports.Inventory:
    return reports.Inventory(host=reports.HostFact(), machines=list(machines), partial=why)


def test_what_only_machined_knows_is_unknown_while_it_does_not_answer(voice):
    told = [fact("web", os="Debian 12", image_id="1-2"), fact("db", MachineState.STOPPED), fact("old")]
    voice.tell(reports.Inventory(host=reports.HostFact(), machines=told))
    voice.tell(
        partial(fact("web", MachineState.FAILED, why="killed"), fact("db", MachineState.UNKNOWN, why="who knows"))
    )
    states = {m.name: (m.state, m.why) for m in Machine.objects.all()}
    assert states == {
        "web": ("failed", "killed"),
        "db": ("unknown", "who knows"),
        "old": ("unknown", "machined does not respond; it is masked."),
    }
    web = Machine.objects.get(name="web")
    assert (web.os, web.image_id) == ("Debian 12", "1-2")
    host = Host.objects.get()
    assert host.trouble == {"machines": "machined does not respond; it is masked."}
    assert host.inventory_at > host.listed_at
    voice.tell(reports.Inventory(host=reports.HostFact(), machines=told[:2]))
    assert {m.name: m.state for m in Machine.objects.all()} == {"web": "running", "db": "stopped"}
    assert Host.objects.get().trouble == {}


def test_a_heartbeat_makes_no_older_fact_young(voice):
    voice.tell(reports.Inventory(host=reports.HostFact(), machines=[fact()]))
    before = Host.objects.get()
    voice.tell(reports.Heartbeat(trouble={"files": "The disk does not answer."}))
    after = Host.objects.get()
    assert after.facts_at > before.facts_at
    assert (after.inventory_at, after.listed_at) == (before.inventory_at, before.listed_at)
    assert after.trouble == {"files": "The disk does not answer."}


def test_an_inventory_that_cannot_be_taken_makes_nothing_young(voice, monkeypatch):
    """Neither by itself nor by the heartbeat that comes with it."""
    told = reports.Inventory(host=reports.HostFact(), machines=[fact()])
    voice.tell(told)
    before = Host.objects.get()
    listed = TAKE["inventory"]

    def broken(host, report, jobs):
        listed(host, report, jobs)
        raise ValueError("a name that no column takes")

    monkeypatch.setitem(TAKE, "inventory", broken)
    take(voice.host.id, [(f"{voice.number + 1}-0", voice.say(report)) for report in (told, reports.Heartbeat())])
    after = Host.objects.get()
    assert after.facts_at > before.facts_at
    assert (after.inventory_at, after.listed_at) == (before.inventory_at, before.listed_at)


def test_a_file_that_cannot_be_read_is_no_drift_and_clears_none(voice):
    alpha = voice.host
    machine = make.machine("web", on=alpha, nspawn_sha256="a", limits_sha256="absent")
    machine.applied = Revision.objects.create(machine=machine, number=1, state=Revision.State.APPLIED)
    machine.save()
    voice.tell(reports.Observed(machines=[fact(nspawn_sha256="unreadable", unreadable="It is a FIFO.")]))
    machine.refresh_from_db()
    assert (machine.drifted, machine.unreadable) == (False, "It is a FIFO.")
    voice.tell(reports.Observed(machines=[fact(nspawn_sha256="other")]))
    machine.refresh_from_db()
    assert (machine.drifted, machine.unreadable) == (True, "")


def test_a_host_that_has_booted_again_leaves_an_event_whichever_report_says_it_first(voice):
    voice.tell(reports.Heartbeat(boot_id="one"))
    voice.tell(reports.Inventory(host=reports.HostFact(boot_id="one"), machines=[]))
    assert not Event.objects.filter(kind="host-rebooted").exists()
    voice.tell(reports.Heartbeat(boot_id="two"))
    voice.tell(reports.Inventory(host=reports.HostFact(boot_id="two"), machines=[]))
    voice.tell(reports.Inventory(host=reports.HostFact(boot_id="three"), machines=[]))
    told = [event.text for event in Event.objects.filter(kind="host-rebooted")]
    assert len(told) == 2
    assert all("alpha has booted again. It was last seen at " in text for text in told)


def test_what_a_unit_does_is_kept_without_what_is_as_ever(voice):
    activity = reports.Activity(sub="auto-restart", restarts=4, ended="exit status 1", policy="always")
    voice.tell(reports.Observed(machines=[fact(state=MachineState.RESTARTING, activity=activity)]))
    machine = Machine.objects.get()
    assert (machine.state, machine.rank) == ("restarting", 0)
    assert machine.activity == {"sub": "auto-restart", "restarts": 4, "ended": "exit status 1", "policy": "always"}
    voice.tell(reports.Observed(machines=[fact(state=MachineState.STOPPED)]))
    machine.refresh_from_db()
    assert machine.activity == {}


# --- clocks, and when things really were


def skew(voice: HostVoice, *ahead: float) -> float | None:
    for voice.ahead in ahead:
        voice.tell(reports.Heartbeat())
    return Host.objects.get().clock_skew


@pytest.mark.parametrize("ahead", [-300.0, 0.0, 300.0])
def test_a_clock_is_measured_by_two_heartbeats_that_agree(voice, ahead):
    assert skew(voice, ahead) is None
    assert skew(voice, ahead - 0.5) == pytest.approx(ahead, abs=2)


def test_reports_that_waited_say_nothing_of_the_clock(voice):
    """Heartbeats of half a minute that come at once; the last one is fresh."""
    skew(voice, 0.0, 0.0)
    waited = []
    for voice.ahead in (-40.0, -39.0, -38.0, 0.0):
        waited.append((f"{voice.number + 1}-0", voice.say(reports.Heartbeat())))
    take(voice.host.id, waited)
    assert Host.objects.get().clock_skew == pytest.approx(0, abs=2)


def test_a_clock_that_was_set_right_is_seen_right(voice):
    skew(voice, -300.0, -300.0)
    assert skew(voice, 0.0, 0.0) == pytest.approx(0, abs=2)


@pytest.mark.parametrize("ahead", [-300.0, 0.0, 300.0])
def test_a_job_ended_when_its_host_ended_it_and_not_when_that_was_told(voice, job, ahead):
    skew(voice, ahead, ahead)
    now = timezone.now()
    Job.objects.update(created_at=now - timedelta(minutes=10), sent_at=now - timedelta(minutes=10))
    began, ended = now.timestamp() - 300, now.timestamp() - 200
    voice.tell(reports.Phase(job=job.uuid, name="start", number=1, of=1, at=began + ahead))
    voice.tell(reports.Outcome(job=job.uuid, state="succeeded", at=ended + ahead))
    job.refresh_from_db()
    assert job.started_at.timestamp() == pytest.approx(began, abs=3)
    assert job.finished_at.timestamp() == pytest.approx(ended, abs=3)


@pytest.mark.parametrize("at", [0.0, 3e10])
def test_no_host_ends_a_job_before_it_was_ordered_or_tomorrow(voice, job, at):
    voice.tell(reports.Phase(job=job.uuid, name="start", number=1, of=1, at=at))
    voice.tell(reports.Outcome(job=job.uuid, state="succeeded", at=at))
    job.refresh_from_db()
    assert job.created_at <= job.accepted_at <= job.started_at <= job.finished_at <= timezone.now()


@pytest.mark.parametrize("code", ["envelope-early", "envelope-expired"])
def test_an_order_refused_for_its_date_says_whose_clock_is_off(voice, job, code):
    skew(voice, -300.0, -300.0)
    voice.tell(reports.Refused(code=code, message="The order is dated in the future.", job=job.uuid))
    job.refresh_from_db()
    assert job.problem["message"].replace("\xa0", " ") == "The clock of alpha is 5 m 0 s behind the panel's."
    assert "timedatectl" in job.problem["hint"]


def test_a_bridge_that_is_new_is_known_at_once(voice):
    voice.tell(reports.Inventory(host=reports.HostFact(bridges=["br0"], systemd=257), machines=[]))
    voice.tell(reports.Observed(links=reports.LinkFact(bridges=["br0", "br9"], interfaces=["br0", "br9", "eth0"])))
    facts = Host.objects.get().facts
    assert (facts["bridges"], facts["interfaces"], facts["systemd"]) == (["br0", "br9"], ["br0", "br9", "eth0"], 257)


# --- a host that cannot write


def unnumbered(voice: HostVoice, report: reports.Report, ahead: float = 0.0) -> Taken:
    voice.ahead = ahead
    return take(voice.host.id, [(f"{time.time_ns()}-0", voice.say(report, number=0))])[0]


def test_a_host_whose_disk_is_full_lives_and_says_why_it_takes_nothing(voice, job):
    voice.tell(reports.Heartbeat())
    Host.objects.update(last_seen=timezone.now() - timedelta(minutes=5))
    full = reports.Heartbeat(trouble={"spool": "The worker cannot write to /var/lib/nspawnpanel."})
    assert unnumbered(voice, full) is Taken.YES
    host = Host.objects.get()
    assert (host.is_silent, host.report_number) == (False, 1)
    assert host.trouble["spool"].startswith("The worker cannot write")
    voice.number = 1
    assert voice.tell(reports.Heartbeat()) is Taken.YES
    assert Host.objects.get().trouble == {}


def test_nobody_keeps_a_dead_host_alive_with_its_last_words(voice):
    kept = voice.say(reports.Heartbeat(), number=0)
    assert take(voice.host.id, [("1-0", kept)]) == [Taken.YES]
    Host.objects.update(last_seen=timezone.now() - timedelta(minutes=5))
    assert take(voice.host.id, [("2-0", kept)]) == [Taken.AGAIN]
    assert unnumbered(voice, reports.Heartbeat(), ahead=-90) is Taken.AGAIN
    assert unnumbered(voice, reports.Observed(machines=[fact()])) is Taken.REFUSED
    assert Host.objects.get().is_silent
    assert not Machine.objects.exists()
