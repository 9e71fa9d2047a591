"""A name on a host goes from one team's machine to another's: with the row goes nothing of the machine that was there before."""

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.utils import timezone

from machines.contract import orders, recipes, reports
from machines.contract.problems import Problem
from machines.models import Host, HostShare, Job, Machine, ObservedFiles, Preset, PresetUse, Revision, Team, User
from machines.panel.configs import ownership, presets
from machines.panel.courier import machine_facts
from machines.panel.images import builds, saved_recipes
from tests import make
from tests.pages import text

OURS, THEIRS = "nightingale", "kanarie"
PAGES = ("", "revisions/", "revisions/1/", "config/", "effective/?all=1", "doctor/", "limit-test/")
WEB = "/hosts/alpha/machines/web/"
PORT = {"code": "port-taken", "facts": {"port": "tcp 8080", "to": "80", "owner": THEIRS, "leads": "10.9.9.9"}}


@pytest.fixture
def shop(alpha) -> Team:
    team = make.team("shop")
    make.share(alpha, team="shop")
    return team


@pytest.fixture
def sue(shop) -> User:
    """Of the team that has the name afterwards."""
    return make.user("sue", "editor", team="shop")


def configured(machine: Machine, word: str) -> Revision:
    """With an applied revision that says it."""
    revision = Revision(machine=machine, author_name=f"{word}-author")
    revision.take_files(f"[Exec]\nHostname={word}\nEnvironment=TOKEN={word}\n", "")
    revision.save()
    revision.begin_apply()
    revision.mark_applied(timezone.now())
    revision.refresh_from_db()
    machine.mark_applied(revision.pk, nspawn_sha256=revision.nspawn_sha256, limits_sha256=revision.limits_sha256)
    return revision


def file_with(word: str) -> dict[str, Any]:
    return {"path": "/etc/systemd/nspawn/web.nspawn", "kind": "nspawn", "form": "text", "text": f"[Exec]\nHostname={word}\n",
            "sha256": "1" * 64, "size": 5, "changed": 0.0, "error": "", "target": ""}  # fmt: skip


@pytest.fixture
def former(alpha) -> Machine:
    """`web` of the team ops, with all that a machine can have."""
    machine = make.machine(
        "web", on=alpha, image_type="subvolume", unit_command=["systemd-nspawn", f"--hostname={THEIRS}"]
    )
    configured(machine, THEIRS)
    ObservedFiles.objects.create(machine=machine, told=[file_with(THEIRS)])
    preset = Preset.objects.create(
        name="P", team=machine.team, settings={"Exec.Environment": "X=1", "Exec.Hostname": "p"}
    )
    PresetUse.objects.create(preset=preset, machine=machine, content=preset.content)
    presets.update_notes([machine.pk])
    machine.refresh_from_db()
    make.job(
        orders.Diagnose(name="web"),
        on=alpha,
        state="succeeded",
        result={"findings": [PORT]},
        finished_at=timezone.now(),
    )
    make.job(
        orders.LimitTest(name="web"),
        on=alpha,
        state="succeeded",
        result={"measurements": []},
        finished_at=timezone.now(),
    )
    return machine


def leaks(who: User) -> list[str]:
    """Pages of the machine that say anything of the former one."""
    client = make.client(who)
    jobs = [f"/jobs/{job.pk}/" for job in Job.objects.filter(team__slug="ops")]
    said = {page: text(client.get(WEB + page)) for page in PAGES}
    assert "web" in said[""]
    return [page for page, body in said.items() if any(word in body for word in (THEIRS, *jobs))]


def built(host: Host, team: Team | None) -> Machine:
    """As the form of a new machine does."""
    begun = builds.begin(
        host, "web", by=make.user(f"builder-{team}", "administrator"), team_id=team.pk if team else None
    )
    return Machine.objects.get(pk=begun["machine"].pk)


def found(host: Host) -> Machine:
    machine_facts.refresh(host, reports.MachineFact(name="web", state="stopped", image_type="directory"))
    return Machine.objects.get(name="web")


class TestBuiltByAnotherTeam:
    @pytest.mark.parametrize("how", ["forget", "hide"])
    def test_its_pages_say_nothing_of_the_former(self, alpha, former, shop, sue, how):
        Machine.objects.filter(pk=former.pk).mark_missing()
        getattr(former, how)()
        machine = built(alpha, shop)
        assert (machine.pk, machine.team, machine.preset_words) == (former.pk, shop, [])
        assert (machine.unit_command, machine.effective, machine.revisions.count()) == ([], {}, 0)
        assert not PresetUse.objects.exists()
        assert leaks(sue) == []

    def test_the_former_team_reads_nothing_of_the_new_machine(self, alpha, former, shop):
        former.forget()
        configured(built(alpha, shop), OURS)
        Machine.objects.update(image_type="subvolume", state="stopped")
        ann = make.client(make.user("ann", "editor"))
        assert ann.get(WEB).status_code == 404
        preset = Preset.objects.get()
        for path in (f"/presets/{preset.pk}/roll-out/", f"/presets/{preset.pk}/", "/presets/"):
            assert OURS not in text(ann.get(path))

    def test_a_preset_that_is_left_on_it_shows_nothing_of_it(self, alpha, former, shop):
        Machine.objects.filter(pk=former.pk).update(team=shop)
        assert presets.with_preset(Preset.objects.get()) == []

    def test_the_same_team_has_its_history_still_and_only_that(self, alpha, former):
        former.forget()
        machine = built(alpha, make.team())
        assert [revision.number for revision in machine.revisions.all()] == [1]
        assert (machine.former_team, machine.preset_words, machine.applied) == (None, [], None)
        assert not ObservedFiles.objects.exists()

    def test_administrators_building_for_nobody_leave_nothing_of_it_either(self, alpha, former):
        former.forget()
        assert built(alpha, None).revisions.count() == 0

    def test_a_failed_build_of_a_team_that_is_gone_is_not_tried_again(self, alpha, former, admin):
        draft = Revision.objects.create(machine=former)
        job = make.job(make.build_order(), on=alpha, state="failed", revision=draft, finished_at=timezone.now())
        former.forget()
        make.team().delete()
        job.refresh_from_db()
        with pytest.raises(Problem, match="has been replaced or discarded since"):
            builds.again(job, by=admin)


class TestFoundAgain:
    def claim(self, team: str) -> None:
        HostShare.objects.filter(team__slug=team).update(claims=True)

    @pytest.mark.parametrize("how", ["forget", "hide"])
    def test_claimed_by_a_rule_of_another_team_it_has_nothing_of_the_former(self, alpha, former, shop, sue, how):
        if how == "hide":  # as nobody's, for a team's stays that team's
            Machine.objects.filter(pk=former.pk).update(team=None)
            Machine.objects.filter(pk=former.pk).mark_missing()
        getattr(former, how)()
        self.claim("shop")
        machine = found(alpha)
        assert (machine.team, machine.former_team, machine.revisions.count()) == (shop, None, 0)
        assert (machine.preset_words, machine.unit_command, machine.applied) == ([], [], None)
        assert leaks(sue) == []

    def test_claimed_by_a_rule_of_the_same_team_it_has_its_history_still(self, alpha, former):
        former.forget()
        self.claim("ops")
        machine = found(alpha)
        assert (machine.team, machine.former_team, machine.revisions.count()) == (make.team(), None, 1)

    def test_given_to_another_team_it_has_nothing_of_the_former(self, alpha, former, shop, sue, admin):
        former.forget()
        machine = found(alpha)
        assert (machine.team, machine.revisions.count()) == (None, 1)
        own = configured(machine, OURS)  # since, by an administrator
        ownership.assign([machine.pk], shop, admin)
        machine = Machine.objects.get()
        assert (machine.former_team, machine.applied, list(machine.revisions.all())) == (None, own, [own])
        assert leaks(sue) == []

    def test_given_back_to_its_team_it_has_its_history_still(self, alpha, former, admin):
        former.forget()
        ownership.assign([found(alpha).pk], make.team(), admin)
        assert Machine.objects.get().revisions.count() == 1

    def test_one_that_was_never_removed_goes_with_its_history(self, alpha, former, shop, admin):
        ownership.assign([former.pk], None, admin)
        ownership.assign([former.pk], shop, admin)
        assert Machine.objects.get().revisions.count() == 1

    def test_nobody_s_that_is_removed_and_found_is_no_team_s_to_read(self, alpha, former, shop, admin):
        Machine.objects.filter(pk=former.pk).update(team=None)
        former.refresh_from_db()
        former.forget()
        ownership.assign([found(alpha).pk], shop, admin)
        assert Machine.objects.get().revisions.count() == 0


def test_what_was_removed_before_this_was_written_down_is_its_last_job_s_team_s(alpha):
    gone = [make.machine(name, on=alpha, team=None, removed_at=timezone.now()) for name in ("web", "stray")]
    listed = make.machine("listed", on=alpha, team=None)
    make.job(orders.Remove(name="web"), on=alpha, state="succeeded")
    import_module("machines.migrations.0040_former_team").whose_they_were(apps, None)
    for machine in (*gone, listed):
        machine.refresh_from_db()
    assert [machine.former_team for machine in (*gone, listed)] == [make.team().pk, 0, None]


class TestBuiltFrom:
    """What a machine's page says of the build it came from, after it went to another team."""

    @pytest.fixture
    def moved(self, alpha, shop, admin) -> Job:
        recipe = saved_recipes.create(
            f"A {THEIRS} recipe", "", recipes.DebianRecipe(release="trixie"), by=admin, team=make.team(), reason=""
        )
        job = make.job(
            make.build_order(), on=alpha, state="succeeded", recipe_version=recipe.current, finished_at=timezone.now(),
            result={"base": {"fresh": True}},
        )  # fmt: skip
        machine = make.machine("web", on=alpha, image_type="subvolume", built_by=job)
        ownership.assign([machine.pk], shop, admin)
        return job

    def said_to(self, who: User) -> str:
        return " ".join(text(make.client(who).get(WEB)).split())

    def test_the_new_team_reads_what_it_is_and_not_whose_recipe_and_job_it_was(self, moved, sue):
        page = self.said_to(sue)
        assert "Built from" in page
        assert "fresh build" in page
        for word in (THEIRS, f"/jobs/{moved.pk}/", f"job {moved.pk}", "/recipes/1/"):
            assert word not in page

    def test_an_administrator_and_who_is_in_both_teams_read_all_of_it(self, moved, admin, sue):
        make.member(sue, "viewer", team="ops")
        for who in (admin, User.objects.get(pk=sue.pk)):
            page = self.said_to(who)
            assert f"A {THEIRS} recipe, version 1" in page
            assert f'<a href="/jobs/{moved.pk}/">job {moved.pk}</a>, fresh build' in page
