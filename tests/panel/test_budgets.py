"""A greedy host costs only itself: few statements and short transactions for much it says, and the rest left out."""

import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from machines.contract import envelope, orders, reports
from machines.contract.states import JobState, MachineState
from machines.models import Event, Host, Job, LogChunk, Machine, ObservedFiles, Revision
from machines.panel.configs import diffs
from machines.panel.courier import intake, machine_facts
from machines.panel.courier.intake import Taken, take
from machines.panel.hosts import budgets
from tests import make
from tests.panel.test_intake import HostVoice, fact, lines

pytestmark = pytest.mark.django_db


@pytest.fixture
def voice() -> HostVoice:
    return HostVoice()


@pytest.fixture
def job(voice) -> Job:
    return make.job(orders.Start(name="web"), on=voice.host, state=JobState.SENT)


def inventory(*facts: reports.MachineFact, **about) -> reports.Inventory:
    return reports.Inventory(host=reports.HostFact(**about), machines=list(facts))


def many(count: int, word: str = "m", **fields) -> list[reports.MachineFact]:
    return [fact(f"{word}{number}", **fields) for number in range(count)]


def tell_bare(voice: HostVoice, names: list[str]) -> Taken:
    """An inventory as short as a host can make it: of our own, a report holds some 2,000 machines."""
    voice.number += 1
    report = {"kind": "inventory", "host": {}, "machines": [{"name": name, "state": "running"} for name in names]}
    host = voice.host
    signed = envelope.SignedReport(
        host=host.id, generation=host.generation, number=voice.number, at=time.time(), report=report
    )
    return take(host.id, [(f"{voice.number}-0", envelope.sign_report(signed, voice.key))])[0]


def names(voice: HostVoice) -> set[str]:
    return set(Machine.objects.listed().on(voice.host).values_list("name", flat=True))


@contextmanager
def counting():
    """SQL statements, without those of transactions and without the parts SQLite is told a long one in."""
    with CaptureQueriesContext(connection) as queries:
        yield (found := [])
    found += [
        each["sql"] for each in queries if not each["sql"].startswith(("SAVEPOINT", "RELEASE", "BEGIN", "COMMIT"))
    ]


def test_a_hundred_machines_cost_as_many_statements_as_three(voice):
    """New ones, changed ones and those that are gone; SQLite takes some 25 rows in one."""
    for step in (many(3), many(3, state=MachineState.STOPPED), []):
        voice.tell(inventory(*step))
    figures = []
    for count in (3, 100):
        with counting() as said:
            for step in (many(count, "n"), many(count, "n", state=MachineState.STOPPED), []):
                assert voice.tell(inventory(*step)) is Taken.YES
        figures.append(len(said))
    assert figures[1] - figures[0] <= 16, figures
    assert names(voice) == set()


def test_files_of_fifty_machines_cost_as_many_statements_as_those_of_two(voice, monkeypatch):
    voice.tell(inventory(*many(50)))
    monkeypatch.setattr(
        "machines.panel.configs.effective_settings.catch_up", lambda *_: None
    )  # each counted later, by itself
    figures = []
    for count in (2, 50):
        machines = [reports.ObservedMachine(name=f"m{number}", unit_command=["x"]) for number in range(count)]
        with counting() as said:
            voice.tell(reports.ObservedFiles(machines=machines))
        figures.append(len(said))
    assert figures[1] - figures[0] <= 8, figures
    assert Machine.objects.filter(unit_command=["x"]).count() == 50


def test_an_inventory_of_thousands_of_names_is_written_in_short_transactions(voice, monkeypatch, settings):
    settings.MACHINES_PER_HOST = 600
    written = []
    real = machine_facts.refresh

    def noted(host, *facts, **how):
        written.append(len(facts))
        return real(host, *facts, **how)

    monkeypatch.setattr("machines.panel.courier.machine_facts.refresh", noted)
    assert tell_bare(voice, [f"m{number}" for number in range(5000)]) is Taken.YES
    assert max(written[:-1]) == machine_facts.AT_ONCE
    assert written[-1] == 5000, "what takes the number finds it all said"
    assert len(names(voice)) == 600
    assert budgets.left_out(Host.objects.get()) == [
        "4,400 machines of this host are not shown: the limit is 600 per host."
    ]


def test_a_report_cut_short_half_way_is_taken_again_from_the_beginning(voice, monkeypatch):
    text = voice.say(inventory(*many(500), fact("last")))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("machines.panel.courier.intake._take", killed)
        with pytest.raises(KeyboardInterrupt):
            take(voice.host.id, [("1-0", text)])
    assert len(names(voice)) == 501, "what was written beforehand stays"
    assert Host.objects.get().report_number == 0
    assert take(voice.host.id, [("1-0", text)]) == [Taken.YES]
    assert (len(names(voice)), Host.objects.get().report_number) == (501, 1)


def test_a_large_report_that_is_not_the_next_changes_nothing(voice):
    voice.tell(inventory(*many(500)))
    assert take(voice.host.id, [("9-0", voice.say(inventory(*many(500, "other")), number=9))]) == [Taken.GAP]
    assert take(voice.host.id, [("9-0", voice.say(inventory(*many(500, "old")), number=1))]) == [Taken.AGAIN]
    assert names(voice) == {f"m{number}" for number in range(500)}


def test_a_name_told_twice_in_a_large_inventory_is_refused_whole(voice):
    assert voice.tell(inventory(*many(500), fact("m7"))) is Taken.YES
    assert names(voice) == set()
    assert Event.objects.get().kind == "report-refused"


def test_other_machines_take_the_places_of_those_that_are_gone(voice, settings):
    settings.MACHINES_PER_HOST = 300
    voice.tell(inventory(*many(400, "a")))
    voice.tell(inventory(*many(300, "b")))
    assert {name[0] for name in names(voice)} == {"b"}
    assert len(names(voice)) == 300
    assert budgets.left_out(Host.objects.get()) == []


def test_machines_that_were_configured_stay_as_missing_among_hundreds_that_go(voice):
    voice.tell(inventory(*many(300)))
    Revision.objects.create(machine=Machine.objects.get(name="m5"), number=1, state="applied")
    make.job(orders.Start(name="m6"), on=voice.host, state=JobState.RUNNING, accepted_at=timezone.now())
    voice.tell(inventory())
    assert {(m.name, m.state) for m in Machine.objects.all()} == {("m5", "missing"), ("m6", "missing")}


def test_facts_without_end_are_left_out_and_named(voice):
    leftovers = [
        reports.NameWithFiles(
            name=f"n{n}", files=[reports.Leftover(path=f"/etc/{'x' * 900}{k}", kind="unit") for k in range(20)]
        )
        for n in range(50)
    ]
    voice.tell(inventory(kernel="6.1", leftovers=leftovers))
    host = Host.objects.get()
    assert (host.facts["kernel"], "leftovers" in host.facts) == ("6.1", False)
    assert budgets.left_out(host) == [
        "It reported more about itself than the panel keeps; omitted: files without a machine."
    ]
    voice.tell(inventory(kernel="6.1"))
    assert budgets.left_out(Host.objects.get()) == []


def told(name: str, characters: int) -> reports.ObservedMachine:
    texts = [characters // 4] * 4
    files = [reports.ObservedFile(path=f"/etc/{n}", kind="dropin", text="x" * size) for n, size in enumerate(texts)]
    return reports.ObservedMachine(name=name, files=files)


def test_files_beyond_the_budget_are_left_out_and_come_when_there_is_room(voice, settings):
    settings.FILES_PER_HOST = 500_000
    voice.tell(inventory(*many(3)))
    voice.tell(reports.ObservedFiles(machines=[told("m0", 240_000), told("m1", 240_000), told("m2", 240_000)]))
    assert set(ObservedFiles.objects.values_list("machine__name", flat=True)) == {"m0", "m1"}
    assert "The files of one machine are not shown" in budgets.left_out(Host.objects.get())[0]
    voice.tell(reports.ObservedFiles(machines=[told("m0", 1000)]))
    assert budgets.left_out(Host.objects.get()), "still"
    voice.tell(reports.ObservedFiles(machines=[told("m2", 240_000)]))
    assert budgets.left_out(Host.objects.get()) == []


# --- logs


def test_a_log_is_cut_at_the_job_s_budget_of_lines_and_says_so(voice, job, settings):
    settings.LOG_LINES_PER_JOB = 3
    voice.tell(lines(job, 1, "one", "two"))
    voice.tell(lines(job, 3, "three", "four"))
    voice.tell(lines(job, 5, "five"))
    job.refresh_from_db()
    assert (job.line_count, job.log_cut) == (3, budgets.OF_JOB)
    assert "this job wrote more than 3 lines or" in budgets.why_cut(job)


def test_a_log_is_cut_at_the_job_s_budget_of_bytes(voice, job, settings):
    settings.LOG_PER_JOB = 100_000
    for number in range(1, 20):
        voice.tell(lines(job, number, "é" * 16_000))
    job.refresh_from_db()
    assert (job.line_count, job.log_cut) == (3, budgets.OF_JOB)
    assert job.log_bytes <= 100_000


def test_all_jobs_of_a_host_share_the_day_s_budget_and_another_host_s_are_whole(voice, job, settings):
    settings.LOG_LINES_PER_DAY = 5
    other = make.job(orders.Start(name="db"), on=voice.host, state=JobState.SENT)
    voice.tell(lines(job, 1, *"abcd"))
    voice.tell(lines(other, 1, *"ab"))
    other.refresh_from_db()
    assert (other.line_count, other.log_cut) == (1, budgets.OF_DAY)
    beta = HostVoice("beta")
    theirs = make.job(orders.Start(name="web"), on=beta.host, state=JobState.SENT)
    beta.tell(lines(theirs, 1, *"abcd"))
    theirs.refresh_from_db()
    assert (theirs.line_count, theirs.log_cut) == (4, "")


def test_the_next_day_begins_anew(voice, job, settings, monkeypatch):
    settings.LOG_LINES_PER_DAY = 2
    voice.tell(lines(job, 1, *"abc"))
    monkeypatch.setattr("machines.panel.hosts.budgets.today", lambda: "2999-01-01")
    later = make.job(orders.Start(name="db"), on=voice.host, state=JobState.SENT)
    voice.tell(lines(later, 1, *"ab"))
    later.refresh_from_db()
    job.refresh_from_db()
    assert (later.line_count, later.log_cut) == (2, "")
    assert job.log_cut == budgets.OF_DAY, "what is missing does not come back"


def test_a_job_whose_log_is_cut_still_ends_as_its_host_says(voice, job, settings):
    settings.LOG_LINES_PER_JOB = 1
    voice.tell(lines(job, 1, *"abc"))
    voice.tell(reports.Outcome(job=job.uuid, state="failed", at=time.time(), lines=3, problem={"message": "no"}))
    job.refresh_from_db()
    assert (job.state, job.problem) == ("failed", {"message": "no"})


def test_lines_are_stored_in_pieces_that_can_be_read_one_by_one(voice, job):
    for first in range(1, 101, 20):
        voice.tell(lines(job, first, *(["x" * 16_000] * 20)))
    sizes = [sum(len(text) for _, _, text in chunk.lines) for chunk in LogChunk.objects.all()]
    assert max(sizes) <= budgets.CHUNK_CHARACTERS
    assert [chunk.first for chunk in LogChunk.objects.all()][:3] == [1, 17, 21]


def test_a_host_that_has_said_too_much_today_is_heard_in_a_few_words(voice, job, settings):
    settings.REPORTS_PER_DAY = 100
    voice.tell(inventory(fact("web")))
    voice.tell(reports.Observed(machines=[fact("new")]))
    voice.tell(lines(job, 1, "one"))
    voice.tell(inventory(fact("web"), fact("again")))
    assert names(voice) == {"web"}, "the next list of machines is taken a minute later"
    assert voice.tell(reports.Outcome(job=job.uuid, state="succeeded", at=time.time())) is Taken.YES
    job.refresh_from_db()
    assert (job.state, job.line_count) == ("succeeded", 0)
    Host.objects.update(inventory_at=timezone.now() - timedelta(seconds=61))
    voice.tell(inventory(fact("web"), fact("again")))
    assert names(voice) == {"web", "again"}
    assert "It has sent more than" in budgets.left_out(Host.objects.get())[0]


def test_a_job_that_waits_says_so_without_a_statement_for_each_line(voice):
    build = make.job(make.build_order("db"), on=voice.host, state=JobState.SENT)
    parts = [lines(build, number, "waiting") for number in range(1, 101)]
    with counting() as said:
        voice.tell(reports.JobOutput(job=build.uuid, parts=parts))
    assert len(said) < 12, said


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_while_a_report_is_verified_and_read(voice, monkeypatch):
    seen = []
    real = intake._open
    monkeypatch.setattr(
        "machines.panel.courier.intake._open",
        lambda *args: (seen.append(transaction.get_connection().in_atomic_block), real(*args))[1],
    )
    voice.tell(inventory(*many(5)))
    assert seen == [False]


# --- what pages are made of


def test_files_that_would_take_minutes_to_compare_are_shown_as_taken_out_and_put_in():
    before, after = ("same\n" + f"{word}\n" * 40_000 + "end\n" for word in "ab")
    lines = diffs.unified(before, after)
    assert [line.sign for line in lines[:3]] == [" ", "-", "-"]
    assert len(lines) == diffs.SHOWN_LINES + 1
    assert lines[-1] == diffs.DiffLine("@", [("78,002 more lines", False)])


def test_a_small_change_of_a_long_file_is_found_all_the_same():
    text = "".join(f"line {number}\n" for number in range(20_000))
    lines = diffs.unified(text, text.replace("line 7777\n", "line x\n"))
    assert [line.sign for line in lines] == ["@", " ", " ", " ", "-", "+", " ", " ", " "]


def test_lines_of_many_words_in_common_are_not_compared_word_by_word():
    assert diffs.words("' " * 240, "' " * 241) == ([("' " * 240, False)], [("' " * 241, False)])
    assert diffs.words("a b c", "a x c")[0] == [("a ", False), ("b", True), (" c", False)]


def test_what_an_outcome_brings_is_kept_within_bounds_and_the_rest_is_named(voice, job):
    result = {"applied_at": 5.0, "long": "x" * 600_000, "other": "kept"}
    problem = {"code": "x", "message": "m" * 5000, "hint": "h", "retryable": True}
    voice.tell(reports.Outcome(job=job.uuid, state="failed", at=time.time(), result=result, problem=problem))
    job.refresh_from_db()
    assert job.result == {"applied_at": 5.0, "other": "kept", "left_out": "long"}
    assert len(job.problem["message"]) == 2001
    assert (job.problem["hint"], job.problem["retryable"]) == ("h", True)


def test_the_job_s_page_says_that_its_log_was_cut(voice, job, settings, as_viewer):
    settings.LOG_LINES_PER_JOB, settings.LOG_PER_JOB = 2, 64 * 1024 * 1024
    assert "The log is truncated" not in as_viewer.get(f"/jobs/{job.pk}/").content.decode()
    seen = as_viewer.get(f"/jobs/{job.pk}/status/", headers={"HX-Request": "true"}).context["seen"]
    voice.tell(lines(job, 1, *"abc"))
    page = as_viewer.get(f"/jobs/{job.pk}/status/?v={seen}", headers={"HX-Request": "true"}).content.decode()
    assert "this job wrote more than 2 lines or 64\xa0MiB" in page


def test_the_host_s_page_says_what_was_left_out_and_what_it_has_sent_today(voice, settings, as_admin):
    settings.MACHINES_PER_HOST = 2
    voice.tell(inventory(*many(5)))
    page = as_admin.get("/hosts/alpha/").content.decode()
    assert "3 machines of this host are not shown: the limit is 2 per host." in page
    assert "Received today" in page
