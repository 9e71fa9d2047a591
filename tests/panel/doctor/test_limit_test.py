"""The page that proves limits: a sentence for each verdict, a chart, and when it may be ordered."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import limit_test, orders
from machines.contract.limit_test import Measurement
from machines.models import Job
from machines.panel.pages import limit_test_page
from tests import make

URL = "/hosts/alpha/machines/web/limit-test/"
MIB = 1 << 20
CPU = Measurement(
    key="CPUQuota",
    verdict="enforced",
    asked=20,
    measured=19.8,
    seconds=10,
    throttled=98,
    samples=[(0.25, 25.2), (0.5, 15.9)],
)
MEMORY = Measurement(key="MemoryMax", verdict="enforced", asked=128 * MIB, measured=128 * MIB, own=9 * MIB, seconds=4, killed=True,
               samples=[(0.0, 12.0 * MIB), (2.0, 128.0 * MIB), (4.0, 12.0 * MIB)])  # fmt: skip


def text(answer) -> str:
    return answer.content.decode().replace("\u00a0", " ")


@pytest.fixture
def web(alpha):
    return make.machine("web", on=alpha, state="running")


def proved(web, *trials: Measurement, **fields) -> Job:
    return make.job(
        orders.LimitTest(name="web"), on=web.host,
        **{"state": "succeeded", "result": limit_test.to_wire(list(trials)), "finished_at": timezone.now()} | fields,
    )  # fmt: skip


def test_pressing_it_places_the_order(as_admin, web):
    assert "Not tested yet" in text(as_admin.get(URL))
    assert as_admin.post(f"{URL}run/").status_code == 302
    assert Job.objects.get().order == {"op": "limit_test", "name": "web"}
    assert "A test load is running" in text(as_admin.get(URL))


@pytest.mark.parametrize("fields", [{"state": "stopped"}, {"state": "starting"}])
def test_a_machine_that_is_not_running_is_not_loaded(as_admin, alpha, fields):
    make.machine("down", on=alpha, **fields)
    url = "/hosts/alpha/machines/down/limit-test/"
    assert "run/" not in text(as_admin.get(url))
    assert as_admin.post(f"{url}run/").status_code == 409
    assert not Job.objects.exists()


def test_nor_one_whose_host_is_silent(as_admin):
    beta = make.host("beta", last_seen=timezone.now() - timedelta(hours=1))
    make.machine("far", on=beta, state="running")
    assert as_admin.post("/hosts/beta/machines/far/limit-test/run/").status_code == 409


def test_both_verdicts_in_a_sentence_with_a_chart_and_its_figures(as_viewer, web):
    proved(web, CPU, MEMORY)
    page = text(as_viewer.get(URL))
    assert "CPUQuota=20 % is enforced: 19.8 % over 10 s. The kernel throttled the load 98 times." in page
    assert (
        "MemoryMax=128 MiB is enforced: the kernel killed the load at 128 MiB. None of its own processes "
        "was touched." in page
    )
    assert page.count('<svg class="chart-drawing"') == 2
    assert page.count("<table") == 2
    assert "25.2 %" in page
    assert "run/" not in page  # a viewer


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"verdict": "exceeded", "measured": 55.0}, "CPUQuota=20 % is not enforced: 55 % over 10 s."),
        ({"verdict": "not_reached", "measured": 9.0}, "too busy to reach CPUQuota=20 %"),
        ({"verdict": "no_limit"}, "It has no CPUQuota"),
        ({"verdict": "skipped", "why": "more-than-host", "asked": 400.0}, "CPUQuota=400 % was not tested: that is all "
        "the CPUs"),
        ({"verdict": "skipped", "why": "no-meter"}, "does not account this"),
    ],
)  # fmt: skip
def test_sentences_on_cpu_time(changed, said):
    assert said in limit_test_page.sentence(CPU.model_copy(update=changed)).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"others": 2}, "2 of its own processes were killed too."),
        ({"killed": False}, "the rest went to swap"),
        ({"verdict": "exceeded", "measured": 200.0 * MIB}, "MemoryMax=128 MiB is not enforced: usage reached 200 MiB."),
        ({"verdict": "not_reached", "measured": 90.0 * MIB}, "reached only 90 MiB"),
        ({"verdict": "skipped", "why": "too-near", "own": 110.0 * MIB}, "its own processes use 110 MiB"),
        ({"verdict": "skipped", "why": "host-small", "needed": 160.0 * MIB}, "would take 160 MiB"),
        ({"verdict": "skipped", "why": "group-kill"}, "OOMPolicy="),
    ],
)
def test_sentences_on_memory(changed, said):
    assert said in limit_test_page.sentence(MEMORY.model_copy(update=changed)).replace("\u00a0", " ")


def test_the_chart_stays_inside_its_drawing_and_the_cap_inside_too():
    drawn = limit_test_page.chart(MEMORY)
    assert drawn is not None
    numbers = [float(number) for number in re.split(r"[ ,]", drawn.line)]
    assert all(0 <= x <= limit_test_page.WIDTH for x in numbers[::2])
    assert all(0 <= y <= limit_test_page.HEIGHT for y in numbers[1::2])
    assert drawn.cap == pytest.approx(limit_test_page.HEIGHT * 0.2)
    assert limit_test_page.chart(Measurement(key="CPUQuota", verdict="no_limit")) is None


@pytest.mark.parametrize("result", [{}, {"measurements": "x"}, {"measurements": [{"key": "rm"}]}], ids=str)
def test_what_a_host_says_amiss_is_not_shown(as_viewer, web, result):
    proved(web, result=result)
    assert "cannot be read" in text(as_viewer.get(URL))


def test_a_proof_that_failed_says_why(as_viewer, web):
    proved(
        web,
        state="failed",
        problem={"message": "web is not running, so its limits cannot be tested.", "hint": "Start it first."},
    )
    assert "Start it first." in text(as_viewer.get(URL))


def test_it_costs_few_queries(as_viewer, web, django_assert_max_num_queries):
    proved(web, CPU, MEMORY)
    with django_assert_max_num_queries(5):
        as_viewer.get(URL)
