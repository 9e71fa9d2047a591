"""Ends of jobs with results that no host of ours would send: the job ends all the same, and the rest is passed over."""

import logging
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from machines.contract import orders, reports
from machines.contract.states import JobState
from machines.models import Event, Host, Job, Machine, Revision
from machines.panel.courier.intake import Taken
from machines.panel.images import base_images
from tests import make
from tests.contract.test_orders import ONE_OF_EACH
from tests.panel.test_intake import HostVoice, fact

pytestmark = pytest.mark.django_db

ORDERS = [order for order in ONE_OF_EACH if order.runs is not orders.Runs.CONTROL]
BASE = {"id": "0123456789abcdef", "fresh": True, "built": 1.0}


@pytest.mark.parametrize(
    "order", [each for each in ORDERS if each.op not in orders.RECIPE_OPS], ids=lambda each: each.op
)
def test_a_base_that_this_job_was_not_to_build_is_none(order):
    voice = HostVoice()
    job = make.job(order, on=voice.host, state=JobState.RUNNING)
    before = voice.host.facts.get("bases")
    told = reports.Outcome(job=job.uuid, state="succeeded", at=1.0, result={"base": BASE, "bytes": 7})
    assert voice.tell(told) is Taken.YES
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED
    assert Host.objects.get().facts.get("bases", before) in (before, [])
    assert not Event.objects.filter(kind="report-refused").exists()


def test_one_that_it_was_to_build_is_known_at_once():
    voice = HostVoice()
    job = make.job(make.build_order("db"), on=voice.host, state=JobState.RUNNING)
    voice.tell(reports.Outcome(job=job.uuid, state="succeeded", at=1.0, machine=fact("db"), result={"base": BASE}))
    assert [base.id for base in base_images.of_all(by=make.user("eve", "administrator"))] == [BASE["id"]]


ANYTHING: Any = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**62), 2**62) | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(max_size=20) | some.sampled_from(["nan", "inf", "1e999", "9" * 400, "0" * 64, "\ud800", "\0"]),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = (
    "base", "packages", "bytes", "sha256", "applied_at", "nspawn", "limits", "findings", "leftovers", "found_nspawn",
    "found_limits", "left_out", "steps",
)  # fmt: skip
ODD_BASE = some.fixed_dictionaries(
    {"fresh": some.just(True), "id": some.just(BASE["id"]) | ANYTHING, "built": ANYTHING}
)
RESULTS = some.dictionaries(some.sampled_from(NAMES), ANYTHING | ODD_BASE, max_size=6)


@settings(
    max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    order=some.sampled_from(ORDERS), result=RESULTS,
    ended=some.sampled_from(["succeeded", "failed", "cancelled", "timed_out"]), problem=some.none() | RESULTS,
    at=some.floats(0, reports.LATEST), is_there=some.booleans(),
)  # fmt: skip
def test_whatever_a_result_says_the_job_ends(caplog, order, result, ended, problem, at, is_there):
    Host.objects.all().delete()
    caplog.clear()
    voice = HostVoice()
    name = getattr(order, "name", "")
    machine = make.machine(name, on=voice.host) if name else None
    revision = Revision.objects.create(machine=machine, number=1, state="applying") if order.op == "apply" else None
    job = make.job(order, on=voice.host, state=JobState.RUNNING, revision=revision, sent_at=timezone.now())
    said = reports.Outcome(
        job=job.uuid,
        state=ended,
        at=at,
        result=result,
        problem=problem,
        machine=fact(name) if name and is_there else None,
    )
    with caplog.at_level(logging.ERROR):
        assert voice.tell(said) is Taken.YES
    assert [record.getMessage() for record in caplog.records] == []
    assert Job.objects.get(pk=job.pk).state == ended
    assert Machine.objects.filter(host=voice.host).count() <= 1
