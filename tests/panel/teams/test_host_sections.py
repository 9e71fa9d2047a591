"""A team's section of a host's policy is shown to those whose it is, and what it forbids is said before the host has to refuse it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract.permissions import Role
from machines.contract.quantities import NBSP
from machines.models import Host, Job, Machine
from machines.panel.configs import drafts
from machines.panel.teams.quotas import QuotaExceeded
from tests import make
from tests.pages import text
from tests.panel.configs import cast
from tests.panel.machines.test_new import form

GIB = 1 << 30
NEW = "/machines/new/"
OPS = {
    "operations": ["apply", "build", "start"], "machines": ["web*", "db"], "bind_sources": ["/srv/ops"], "networks": ["veth"],
    "lowest_port": 1024, "max_machines": 2, "max_memory": 8 * GIB, "max_cpu": 400.0,
}  # fmt: skip


@pytest.fixture
def edith(db):
    return make.user("edith", Role.EDITOR)


@pytest.fixture
def told(alpha) -> Host:
    alpha.facts |= {
        "networkd": True,
        "policy": {"machines": ["*"], "teams": {"ops": OPS, "secret": {"machines": ["hidden-*"]}}},
    }
    alpha.save()
    return alpha


def said(answer) -> str:
    return " ".join(text(answer).replace(NBSP, " ").replace("\xa0", " ").split())


def test_people_read_their_own_team_s_section_and_administrators_all(told, as_viewer, as_admin):
    page = said(as_viewer.get("/hosts/alpha/"))
    assert 'Team <span class="mono">ops</span>' in page
    assert "8 GiB" in page
    assert "400 %" in page
    assert "hidden-" not in page
    assert "secret" not in page
    assert "hidden-*" in said(as_admin.get("/hosts/alpha/"))


def test_a_team_without_a_section_reads_that_of_every_other_team(told, as_viewer):
    told.facts["policy"]["teams"] = {"*": {"max_machines": 7}, "secret": {}}
    told.save()
    page = said(as_viewer.get("/hosts/alpha/"))
    assert "Every other team" in page
    assert "secret" not in page


@pytest.mark.parametrize(
    "teams", [3, [], {"ops": 3}, {"ops": {"machines": 3, "max_memory": "x", "networks": [1]}}, None]
)
def test_odd_sections_break_nothing(told, as_viewer, edith, teams):
    told.facts["policy"]["teams"] = teams
    told.save()
    assert as_viewer.get("/hosts/alpha/").status_code == 200
    assert make.client(edith).post(NEW, form(memory_max="1G", cpu_quota="50%")).status_code == 302


@pytest.mark.parametrize(
    ("given", "field", "sentence"),
    [
        ({"name": "mail"}, "id_name", "the machine name “mail”; allowed: web*, db."),
        ({"memory_max": ""}, "id_memory_max", "a machine without MemoryMax=; the team may use 8 GiB here."),
        ({"memory_max": "9G"}, "id_memory_max", "MemoryMax=9 GiB; the team's other machines have 0 B of 8 GiB here."),
        ({"cpu_quota": "500%"}, "id_cpu_quota", "CPUQuota=500%;"),
        ({"network_mode": "host"}, "id_network_mode", "the network mode “host”."),
        (
            {"binds-TOTAL_FORMS": "1", "binds-0-source": "/srv/x"},
            "id_binds-0-source",
            "Bind= of /srv/x; allowed are /srv/ops.",
        ),
    ],
)
def test_what_the_host_would_refuse_of_a_new_machine_is_said_on_its_field(told, edith, given, field, sentence):
    answer = make.client(edith).post(NEW, form(**{"memory_max": "1G", "cpu_quota": "50%", **given}))
    assert answer.status_code == 422
    assert sentence.replace("'", "&#x27;") in said(answer) or sentence in said(answer)
    assert f'href="#{field}' in text(answer)
    assert "of [teams.ops] in /etc/nspawnpanel/policy.toml" in said(answer)
    assert not Job.objects.exists()


def test_what_it_allows_is_built(told, edith):
    assert make.client(edith).post(NEW, form(memory_max="1G", cpu_quota="50%")).status_code == 302


def test_a_change_beyond_it_is_said_on_the_review_and_refused(told, edith):
    web = make.machine("web", on=told)
    cast.applied(web, memory_max="1G", cpu_quota="50%")
    cast.draft(web, edith, memory_max="9G")
    assert "The policy of alpha does not allow it for team Ops: MemoryMax=9 GiB;" in said(
        make.client(edith).get("/hosts/alpha/machines/web/config/review/")
    )
    with pytest.raises(QuotaExceeded, match="team Ops: MemoryMax=9"):
        drafts.apply(web, by=edith, seen=cast.stamp(web))
    assert not Job.objects.exists()


def test_what_a_machine_has_already_is_not_held_against_it(told, edith):
    web = make.machine("web", on=told)
    cast.applied(web, memory_max="9G", cpu_quota="50%", network_mode="host")
    cast.draft(web, edith, tasks_max="100")
    assert drafts.apply(web, by=edith, seen=cast.stamp(web)).op == "apply"


def test_of_a_silent_host_nothing_is_claimed(told, edith):
    Host.objects.update(last_seen=timezone.now() - timedelta(days=1))
    assert make.client(edith).post(NEW, form(memory_max="9G")).status_code == 302
    assert Machine.objects.get().team.slug == "ops"
