"""Whose machines are: found ones are nobody's until claimed, by a person or by a rule, and what changes with the team."""

import pytest

from machines.contract import orders, reports
from machines.contract.problems import Problem
from machines.contract.states import MachineState
from machines.models import Event, Host, HostShare, Job, Machine, Preset, PresetUse, Revision, Team
from machines.panel.configs import ownership, presets
from machines.panel.courier import machine_facts
from tests import make
from tests.pages import text


@pytest.fixture
def shop(alpha) -> Team:
    team = make.team("shop")
    make.share(alpha, team="shop")
    return team


@pytest.fixture
def found(alpha) -> Machine:
    return make.machine("stray", on=alpha, team=None)


def fact(name: str) -> reports.MachineFact:
    return reports.MachineFact(name=name, state=MachineState.STOPPED, image_type="directory")


def tell(host: Host, *names: str) -> None:
    machine_facts.refresh(host, *map(fact, names))


def teams() -> dict[str, str | None]:
    return dict(Machine.objects.values_list("name", "team__slug"))


class TestRule:
    def claim(self, pattern: str, team: str = "ops") -> None:
        HostShare.objects.filter(team__slug=team).update(claims=True, name_pattern=pattern)

    def test_without_one_what_is_found_is_nobody_s(self, alpha):
        HostShare.objects.update(name_pattern="*")
        tell(alpha, "web-1")
        assert teams() == {"web-1": None}
        assert not Event.objects.exists()

    def test_names_that_match_are_the_team_s_at_once_and_the_history_says_why(self, alpha, as_viewer):
        self.claim("web-*")
        tell(alpha, "web-1", "web-2", "db-1")
        assert teams() == {"web-1": "ops", "web-2": "ops", "db-1": None}
        said = Event.objects.get()
        assert said.text == "Found on alpha and claimed for Ops, which claims web-* there: web-1, web-2."
        assert "web-1, web-2" in text(as_viewer.get("/events/"))

    def test_a_name_that_two_teams_claim_is_nobody_s(self, alpha, shop):
        self.claim("web-*")
        self.claim("*-1", "shop")
        tell(alpha, "web-1", "web-2", "db-1")
        assert teams() == {"web-1": None, "web-2": "ops", "db-1": "shop"}

    def test_it_never_takes_what_is_somebody_s_nor_what_was_found_before(self, alpha, shop, found):
        make.machine("theirs", on=alpha, team=shop)
        self.claim("")
        tell(alpha, "theirs", "stray")
        assert teams() == {"theirs": "shop", "stray": None}

    def test_one_that_was_removed_and_is_back_counts_as_found(self, alpha):
        machine = make.machine("web-1", on=alpha)
        machine.forget()
        self.claim("web-*")
        tell(alpha, "web-1")
        assert teams() == {"web-1": "ops"}

    def test_a_rule_of_another_host_claims_nothing_here(self, alpha):
        make.host("beta")
        HostShare.objects.filter(host__name="beta").update(claims=True)
        tell(alpha, "web-1")
        assert teams() == {"web-1": None}

    def test_five_hundred_at_once_cost_few_statements(self, alpha, django_assert_max_num_queries):
        self.claim("")
        with django_assert_max_num_queries(60):
            tell(alpha, *(f"m-{number}" for number in range(500)))
        assert set(teams().values()) == {"ops"}
        assert all(len(event.text) < 1000 for event in Event.objects.all())


class TestPage:
    def test_only_administrators_see_what_is_nobody_s(self, as_admin, as_viewer, found, web):
        page = text(as_admin.get("/machines/unclaimed/"))
        assert "stray" in page
        assert ">web<" not in page
        assert "1 machine found on hosts belongs to nobody" in text(as_admin.get("/teams/"))
        assert as_viewer.get("/machines/unclaimed/").status_code == 403
        assert as_viewer.get("/hosts/alpha/machines/stray/revisions/").status_code == 404
        assert "belongs to nobody" not in text(as_viewer.get("/teams/"))

    def test_claiming_says_who_may_do_what_then_and_does_it(self, as_admin, as_viewer, found):
        make.user("otto", "operator")
        page = text(as_admin.get(f"/machines/assign/?machine={found.pk}&team=ops"))
        assert "<dt>See it, its logs and its configuration</dt><dd>otto, vera</dd>" in page
        assert "<dt>Start, stop and restart it</dt><dd>otto</dd>" in page
        assert "<dt>Remove it with everything in it</dt><dd>nobody</dd>" in page
        assert teams() == {"stray": None}, "nothing is done by looking"
        answer = as_admin.post("/machines/assign/", {"machine": found.pk, "team": "ops"}, follow=True)
        assert "stray now belongs to Ops." in text(answer)
        assert as_viewer.get("/hosts/alpha/machines/stray/revisions/").status_code == 200
        assert Event.objects.get().text == "ada claimed stray on alpha for Ops."

    def test_several_at_once(self, as_admin, alpha, found):
        other = make.machine("other", on=alpha, team=None)
        answer = as_admin.post("/machines/assign/", {"machine": [found.pk, other.pk], "team": "ops"}, follow=True)
        assert "2 machines now belong to Ops." in text(answer)
        assert teams() == {"stray": "ops", "other": "ops"}

    @pytest.mark.parametrize("numbers", [[], ["x"], ["9" * 30], ["-1"]])
    def test_nonsense_chooses_nothing(self, as_admin, found, numbers):
        answer = as_admin.post("/machines/assign/", {"machine": numbers, "team": "ops"}, follow=True)
        assert "Choose at least one machine." in text(answer)
        assert teams() == {"stray": None}

    def test_without_a_team_it_asks_for_one(self, as_admin, found, shop):
        page = text(as_admin.post("/machines/assign/", {"machine": found.pk}))
        assert '<option value="shop">Shop</option>' in page
        assert as_admin.post("/machines/assign/", {"machine": found.pk, "team": "nope"}).status_code == 404
        assert teams() == {"stray": None}


class TestMove:
    def test_each_team_reads_its_own_side_and_nothing_of_the_other(self, admin, web, shop, as_viewer):
        theirs = make.client(make.user("sue", team="shop"))
        job = make.job(orders.Start(name="web"), on=web.host, by=admin, state="succeeded")
        ownership.assign([web.pk], shop, admin)
        assert teams() == {"web": "shop"}
        assert as_viewer.get("/hosts/alpha/machines/web/revisions/").status_code == 404
        assert theirs.get("/hosts/alpha/machines/web/revisions/").status_code == 200
        assert as_viewer.get(f"/jobs/{job.pk}/log/raw/").status_code == 200, "jobs stay with the team that ordered them"
        assert theirs.get(f"/jobs/{job.pk}/log/raw/").status_code == 404
        history = text(as_viewer.get("/events/"))
        assert "ada took web on alpha from Ops." in history
        assert "Shop" not in history
        history = text(theirs.get("/events/"))
        assert "ada claimed web on alpha for Shop." in history
        assert "Ops" not in history

    def test_presets_of_other_teams_are_detached_and_drafts_go_with_it(self, admin, web, shop):
        Revision.objects.create(machine=web, state=Revision.State.DRAFT, author=admin)
        for name, team in (("ours", web.team), ("theirs", shop), ("nobody's", None)):
            preset = Preset.objects.create(name=name, team=team, settings={"MemoryMax": "1G"})
            PresetUse.objects.create(preset=preset, machine=web, content=preset.content)
        presets.update_notes([web.pk])
        ownership.assign([web.pk], shop, admin)
        web.refresh_from_db()
        assert [word[1] for word in web.preset_words] == ["theirs"]
        assert list(PresetUse.objects.values_list("preset__name", flat=True)) == ["theirs"]
        assert web.revisions.filter(state="draft").exists()

    def test_released_to_nobody_only_administrators_see_it(self, as_admin, as_viewer, web):
        page = text(as_admin.get(f"/machines/assign/?machine={web.pk}&release=1"))
        assert "From now on only administrators see it." in page
        assert (
            as_admin.post("/machines/assign/", {"machine": web.pk, "release": "1"}).url == "/hosts/alpha/machines/web/"
        )
        assert teams() == {"web": None}
        assert as_viewer.get("/hosts/alpha/machines/web/revisions/").status_code == 404

    def test_not_to_a_team_without_the_host(self, as_admin, web):
        make.team("shop")
        answer = as_admin.post("/machines/assign/", {"machine": web.pk, "team": "shop"})
        assert answer.status_code == 409
        assert "Not shared to Shop: alpha. Share the host to Shop first." in text(answer)
        assert teams() == {"web": "ops"}

    def test_not_while_a_job_is_in_progress_and_then_none_of_them(self, admin, web, found, shop):
        make.job(orders.Start(name="web"), on=web.host)
        with pytest.raises(Problem, match=r"A job is in progress: web\."):
            ownership.assign([web.pk, found.pk], shop, admin)
        assert teams() == {"web": "ops", "stray": None}
        assert not Event.objects.exists()
        Job.objects.update(state="succeeded")
        assert len(ownership.assign([web.pk, found.pk], shop, admin)) == 2

    def test_what_is_the_team_s_already_stays_as_it_is(self, admin, web, found):
        assert ownership.assign([web.pk, found.pk], web.team, admin) == [found]
        assert Event.objects.count() == 1
