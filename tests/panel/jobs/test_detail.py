"""One job: job-detail and its tabs."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders, reports
from machines.models import Job, Machine
from tests import make
from tests.pages import text
from tests.panel.jobs import cast


def page(client, job, query: str = "") -> str:
    return text(client.get(f"/jobs/{job.pk}/{query}"))


def test_it_says_what_it_is_and_where_it_stands(as_viewer, alpha, web):
    shown = page(as_viewer, cast.ended(alpha))
    for said in ("Start web", "succeeded", 'href="/hosts/alpha/machines/web/"', 'href="/hosts/alpha/"', "ada"):
        assert said in shown
    assert 'data-page-state="succeeded"' in shown


def test_it_shows_the_last_lines_and_offers_earlier_ones(as_viewer, alpha):
    job = cast.ended(alpha)
    cast.wrote(job, *(f"line {n}" for n in range(1, 2101)), chunk=500)
    shown = page(as_viewer, job)
    assert 'id="L101"' in shown
    assert 'id="L100"' not in shown
    assert 'id="L2100"' in shown
    assert f"/jobs/{job.pk}/log/older/?before=101" in shown


def test_an_unfinished_job_follows_its_stream(as_viewer, alpha):
    job = cast.job(alpha, state="running")
    cast.wrote(job, "one", "two")
    shown = page(as_viewer, job)
    assert f'data-stream-url="/jobs/{job.pk}/log/stream/"' in shown
    assert 'data-last="2"' in shown


def test_an_ended_job_has_no_stream_and_last_words(as_viewer, alpha):
    job = cast.ended(alpha, "failed")
    cast.began(job, "packages")
    cast.wrote(job, "fine", "E: Unable to locate package ngnix", "more")
    shown = page(as_viewer, job)
    assert "data-stream-url" not in shown
    assert "failed in phase packages after" in shown
    assert 'href="#L2"' in shown


def test_what_a_host_says_is_escaped_everywhere(as_viewer, alpha):
    evil = '<script>alert("x")</script>\x1b]0;title\x07'
    job = cast.ended(
        alpha, "failed", problem={"message": evil, "hint": evil, "details": evil}, commands=[["echo", evil]],
        result={evil: evil, "deep": {"x": [evil]}}, progress_note=evil,
    )  # fmt: skip
    cast.began(job, evil)
    cast.wrote(job, evil)
    for tab in ("", "?tab=commands", "?tab=order", "?tab=result"):
        shown = page(as_viewer, job, tab)
        assert "<script>alert" not in shown
        assert "&lt;script&gt;alert" in shown


@pytest.mark.parametrize("times", [(0, reports.LATEST), (reports.LATEST, 0)])
def test_a_clock_of_another_age_is_shown(as_viewer, alpha, times):
    phases = [{"name": "x", "at": at, "number": n, "line": 1} for n, at in enumerate(times, 1)]
    assert "x" in page(
        as_viewer, cast.job(alpha, state="running", phases=phases, phases_of=2, accepted_at=timezone.now())
    )


def test_a_problem_is_a_sentence_with_a_hint_and_the_tools_words(as_viewer, alpha):
    problem = {"message": "The mirror is away.", "hint": "Try later.", "details": "404 Not Found"}
    shown = page(as_viewer, cast.ended(alpha, "failed", problem=problem))
    for said in ("The mirror is away.", "Try later.", "404 Not Found"):
        assert said in shown


def test_a_failed_job_without_a_problem_is_still_a_page(as_viewer, alpha):
    for state in ("failed", "timed_out", "expired", "cancelled", "lost", "accepted", "sent"):
        assert page(as_viewer, cast.job(alpha, state=state, order=orders.Start(name=f"m-{len(state)}")))


def test_a_waiting_job_says_why(as_viewer, alpha):
    alpha.last_seen = timezone.now() - timedelta(minutes=3)
    alpha.save()
    assert "waiting: host alpha has been offline for" in page(as_viewer, cast.job(alpha))


def build(alpha, **fields):
    order = make.build_order("web")
    return cast.ended(alpha, order=order, **fields)


def test_a_build_waits_for_others_in_words(as_viewer, alpha):
    waits = build(alpha, state="accepted", accepted_at=timezone.now() - timedelta(seconds=9), finished_at=None)
    assert "waiting: other builds on alpha first" in page(as_viewer, waits)
    Job.objects.update(progress_note="number 2 in the queue")
    assert "waiting: number 2 in the queue on alpha, for" in page(as_viewer, waits)
    Job.objects.update(op="export", progress_note="")
    assert "waiting: other jobs on alpha first" in page(as_viewer, waits)


def test_the_steps_of_a_build_have_their_names_before_they_begin(as_viewer, alpha):
    job = build(alpha, state="running", finished_at=None)
    cast.began(job, "prepare", of=6)
    shown = page(as_viewer, job)
    assert shown.index("prepare</span>") < shown.index("bootstrap</span>") < shown.index("import</span>")


def test_a_build_leads_to_its_machine(as_viewer, alpha, web):
    assert "Open web" in page(as_viewer, build(alpha))


def applied(alpha, **fields):
    order = orders.Apply(name="web", configuration=orders.Configuration(revision=2, nspawn="", limits=""))
    return cast.ended(alpha, order=order, **fields)


def test_what_was_applied_says_when_it_acts(as_admin, as_viewer, alpha, web):
    job = applied(alpha)
    assert "takes effect when" not in page(as_viewer, job)
    Machine.objects.update(restart_needed=True)
    assert "takes effect when web restarts" in page(as_viewer, job)
    assert "Reboot now" in page(as_admin, job)
    assert "Reboot now" not in page(as_viewer, job)


def test_files_changed_by_hand_lead_to_the_decision(as_admin, alpha):
    assert "/config/review/" in page(as_admin, applied(alpha, state="failed", result={"found_nspawn": ""}))
    assert "/config/review/" not in page(as_admin, applied(alpha, state="failed"))


def test_a_failed_build_can_be_changed_by_those_who_may_build(as_admin, as_viewer, alpha):
    job = build(alpha, state="failed")
    assert f"/machines/new/?again={job.pk}" in page(as_admin, job)
    assert "again=" not in page(as_viewer, job)
    make.machine("web", on=alpha)
    assert "again=" not in page(as_admin, job)


def test_a_machine_that_is_not_there_is_no_link(as_viewer, alpha):
    assert "/hosts/alpha/machines/web/" not in page(as_viewer, build(alpha, state="failed"))


def test_phases_show_what_is_done_what_runs_and_how_many_follow(as_viewer, alpha):
    job = cast.job(alpha, state="running", started_at=timezone.now(), progress=0.4, progress_note="48 of 116 packages")
    cast.began(job, "prepare", of=4)
    cast.began(job, "packages", of=4)
    shown = page(as_viewer, job)
    assert shown.count('class="phase phase-later"') == 2
    assert 'class="phase phase-succeeded"' in shown
    assert 'aria-current="step"' in shown
    assert "48 of 116 packages" in shown


def test_commands_can_be_pasted_into_a_shell(as_viewer, alpha):
    job = cast.ended(alpha, commands=[["mount", "-o", "a b", "/x"], ["echo", "it's"]])
    shown = page(as_viewer, job, "?tab=commands")
    assert "mount -o &#x27;a b&#x27; /x" in shown
    assert "echo &#x27;it&#x27;&quot;&#x27;&quot;&#x27;s&#x27;" in shown


def test_the_order_is_shown_as_it_was_placed_without_secrets(as_viewer, alpha):
    job = cast.ended(alpha, sealed="SEALED-SECRET")
    shown = page(as_viewer, job, "?tab=order")
    assert "&quot;op&quot;: &quot;start&quot;" in shown
    assert "SEALED-SECRET" not in shown


def test_the_result_is_what_the_host_said(as_viewer, alpha):
    job = cast.ended(alpha, result={"image_size": 42, "note": "a\nb"})
    shown = as_viewer.get(f"/jobs/{job.pk}/?tab=result").content.decode()
    assert "image size" in shown
    assert "a\nb" in shown


def test_an_unknown_tab_is_the_log(as_viewer, alpha):
    assert 'id="log"' in page(as_viewer, cast.ended(alpha), "?tab=<x>")


def test_a_retry_and_what_it_retries_know_each_other(as_viewer, alpha, admin):
    first = cast.ended(alpha, "failed")
    again = cast.ended(alpha, retry_of=first)
    assert f'retried as <a href="/jobs/{again.pk}/">' in page(as_viewer, first)
    assert f'retries <a href="/jobs/{first.pk}/">' in page(as_viewer, again)


def test_buttons_are_for_those_who_may(as_admin, as_viewer, alpha):
    running, failed = cast.job(alpha), cast.ended(alpha, "failed", order=orders.Remove(name="db"))
    assert "Cancel…" in page(as_admin, running)
    assert "Cancel…" not in page(as_viewer, running)
    assert "Retry" in page(as_admin, failed)
    assert "Retry" not in page(as_viewer, failed)


def test_a_failed_apply_leads_to_its_draft_and_not_to_a_retry(as_admin, alpha, web):
    configuration = orders.Configuration(revision=1, nspawn="", limits="")
    shown = page(as_admin, cast.ended(alpha, "failed", order=orders.Apply(name="web", configuration=configuration)))
    assert 'href="/hosts/alpha/machines/web/config/"' in shown
    assert "Retry" not in shown


def test_it_is_not_found_when_there_is_none(as_viewer, db):
    assert as_viewer.get("/jobs/999/").status_code == 404


def test_it_needs_login_and_a_role(client, alpha, stranger):
    job = cast.job(alpha)
    assert client.get(f"/jobs/{job.pk}/").status_code == 302
    assert make.client(stranger).get(f"/jobs/{job.pk}/").status_code == 403


@pytest.mark.parametrize("tab", ["log", "commands", "order", "result"])
def test_a_page_costs_five_queries(as_viewer, alpha, tab, django_assert_max_num_queries):
    job = cast.job(alpha, state="running")
    cast.began(job, "prepare")
    cast.wrote(job, *(f"line {n}" for n in range(600)), chunk=50)
    with django_assert_max_num_queries(5):
        as_viewer.get(f"/jobs/{job.pk}/?tab={tab}")
