"""Hosts are told whose machines are, and a host that says something else is never followed by itself."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract.reports import MachineFact
from machines.models import Job, Machine
from machines.panel.configs import ownership
from machines.panel.courier import courier, machine_facts
from machines.panel.orders import assignments
from tests import make
from tests.pages import text


def told(machine, team):
    Machine.objects.filter(pk=machine.pk).update(host_team=team)


def due():
    return assignments.place_due(timezone.now(), 50)


def test_what_a_host_says_is_kept(alpha):
    fact = MachineFact(name="web", state="stopped", team="ops")
    machine_facts.refresh(alpha, fact)
    assert Machine.objects.get().host_team == "ops"
    machine_facts.refresh(alpha, fact.model_copy(update={"team": None}))
    assert Machine.objects.get().host_team is None


def test_a_machine_that_was_a_team_s_before_its_host_kept_that_is_assigned_by_itself(web):
    assert due() == 0  # its host is older
    told(web, "")
    assert due() == 1
    job = Job.objects.get()
    assert (job.order, job.actor_name, job.actor_role, job.team) == (
        {"op": "assign", "name": "web", "team": "ops"}, "courier", "administrator", web.team,
    )  # fmt: skip
    assert courier._actor(job).team == ""
    assert due() == 0


def test_one_that_could_not_be_assigned_is_tried_again_after_an_hour(web):
    told(web, "")
    due()
    Job.objects.update(state="failed")
    assert due() == 0
    Job.objects.update(created_at=timezone.now() - timedelta(hours=2))
    assert due() == 1


@pytest.mark.parametrize("changed", [{"state": "missing"}, {"team": None}, {"host_team": "lab"}, {"host_team": "ops"}])
def test_nothing_else_is_assigned_by_itself(web, changed):
    told(web, "")
    Machine.objects.filter(pk=web.pk).update(**changed)
    assert due() == 0


def test_a_machine_that_moves_moves_on_its_host_too(admin, web, alpha):
    lab = make.team("lab")
    make.share(alpha, team="lab")
    told(web, "ops")
    ownership.assign([web.pk], lab, by=admin)
    assert [(job.order["team"], job.actor, job.team) for job in Job.objects.all()] == [("lab", admin, lab)]
    Job.objects.update(state="succeeded")
    told(web, "lab")
    ownership.assign([web.pk], None, by=admin)
    assert Job.objects.order_by("-pk")[0].order["team"] == ""


def test_a_host_that_is_older_is_not_asked(admin, web, alpha):
    make.share(alpha, team="lab")
    ownership.assign([web.pk], make.team("lab"), by=admin)
    assert not Job.objects.exists()


def test_machines_that_a_host_calls_another_team_s_are_named(web, alpha):
    for name, team, said in (
        ("a", "ops", "ops"),
        ("b", "ops", "lab"),
        ("c", "", "lab"),
        ("d", "ops", ""),
        ("e", "ops", None),
    ):
        make.machine(name, on=alpha, team=make.team(team) if team else None, host_team=said)
    assert [machine.name for machine in assignments.strange()] == ["b", "c"]


def test_a_host_that_keeps_a_machine_for_another_team_is_told_again_by_an_administrator(admin, web, as_viewer):
    assert "keeps web for another team" not in text(as_viewer.get("/hosts/alpha/machines/web/"))
    told(web, "lab")
    assert "keeps web for another team" in text(as_viewer.get("/hosts/alpha/machines/web/"))
    ownership.assign([web.pk], web.team, by=admin)
    assert [job.order["team"] for job in Job.objects.all()] == ["ops"]
