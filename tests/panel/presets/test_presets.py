"""Presets: what they put into files and take out again, and how a change reaches many machines."""

import re
import tomllib
from html import unescape
from pathlib import Path

import pytest
from django.urls import reverse

from machines.contract import reports
from machines.contract.configuration import file_policy, nspawn
from machines.contract.states import JobState, MachineState
from machines.host.policy import policy
from machines.host.policy.policy import Policy
from machines.models import GroupMember, Job, JobGroup, Machine, Preset, PresetUse, Revision
from machines.panel.configs import drafts, presets, rollouts
from machines.panel.configs.diffs import Files
from machines.panel.courier import completion, intake
from tests import make
from tests.pages import text


def says(settings, network=("", "")):
    return {"network": list(network), "settings": settings}


class TestPut:
    def test_it_says_what_it_says_and_leaves_the_rest_as_it_is(self):
        before = Files("# mine\n[Exec]\nBoot=yes\n", "[Service]\nTasksMax=9\n")
        after = presets.put(before, says({"Files.Volatile": "overlay", "MemoryMax": "1G"}))
        assert after.nspawn.startswith("# mine\n[Exec]\nBoot=yes\n")
        assert "[Files]\nVolatile=overlay" in after.nspawn
        assert "TasksMax=9" in after.limits
        assert "MemoryMax=1G" in after.limits

    def test_a_second_time_changes_nothing(self):
        wanted = says({"Files.Bind": "/srv/a:/a\n/srv/b:/b", "MemoryMax": "1G"}, ("zone", "lab"))
        once = presets.put(Files(), wanted)
        assert presets.put(once, wanted, wanted) == once

    def test_values_of_a_repeated_key_are_added_and_only_its_own_go_again(self):
        mine = Files("[Files]\nBind=/home/me\n")
        with_it = presets.put(mine, says({"Files.Bind": "/srv/a:/a"}))
        assert with_it.nspawn.count("Bind=") == 2
        assert (
            presets.put(with_it, presets.NOTHING, says({"Files.Bind": "/srv/a:/a"})).nspawn.strip()
            == mine.nspawn.strip()
        )

    def test_what_it_no_longer_says_goes_unless_somebody_changed_it(self):
        previous = says({"MemoryMax": "1G", "Exec.NoNewPrivileges": "yes"})
        had = presets.put(Files(), previous)
        assert presets.put(had, presets.NOTHING, previous) == Files()
        changed = Files(had.nspawn, had.limits.replace("1G", "2G"))
        assert "MemoryMax=2G" in presets.put(changed, presets.NOTHING, previous).limits

    def test_a_network_mode_is_put_whole(self):
        after = presets.put(Files("[Network]\nZone=old\n"), says({}, ("none", "")))
        assert "Private=yes" in after.nspawn
        assert "Zone" not in after.nspawn

    @pytest.mark.parametrize(
        ("name", "text"),
        [("MemoryMax", "lots"), ("Nope", "1"), ("MemoryMax", ""), ("MemoryMax", "1G\n2G"), ("Network.Zone", "a")],
    )
    def test_a_wrong_value_is_refused(self, name, text):
        with pytest.raises(presets.BadValue):
            presets.check(name, text)

    @pytest.mark.parametrize("word", presets.STARTERS)
    def test_the_starters_say_nothing_that_would_be_refused(self, word):
        for name, value in presets.STARTERS[word][2].items():
            presets.check(name, value)


EXAMPLE = tomllib.loads((Path(policy.__file__).parent / "policy.toml").read_text())
SHIPPED = [Policy().facts(), Policy().facts() | EXAMPLE]


def refused_by(rules: dict, word: str) -> set[str]:
    """The rules that a starter breaks on a host with this policy, by what its files would say."""
    files = presets.put(Files(), {"network": ["", ""], "settings": presets.STARTERS[word][2]})
    told = file_policy.as_told(rules)
    return {each.rule for each in file_policy.refusals(told, nspawn.parse(files.nspawn), nspawn.parse(files.limits))}


@pytest.mark.parametrize("rules", SHIPPED, ids=["no file", "the example"])
def test_starters_pass_the_policy_that_is_shipped_or_say_what_they_need(rules):
    assert {word: refused_by(rules, word) for word in presets.STARTERS} == {
        "ci": set(), "hardened": set(), "nested": {"system_calls"}
    }  # fmt: skip
    assert "the host's policy must allow them" in presets.STARTERS["nested"][1]


def test_what_a_host_s_policy_forbids_is_said_before_and_keeps_its_reason(as_admin, admin, fleet):
    one, two, _ = fleet
    strict = {**Policy().facts(), "unit_settings": ["TasksMax"]}
    one.host.facts |= {"policy": strict}
    one.host.save()
    preset = Preset.objects.create(team=make.team(), name="Strict", settings={"MemoryMax": "1G"})
    page = unescape(text(as_admin.get(f"/presets/{preset.pk}/roll-out/?machine={one.pk}")))
    assert "MemoryMax=: The policy of alpha does not allow it" in page
    group = rollouts.roll_out(preset, [one, two], by=admin, stop_at_failure=False, restart=False)
    said = [member.problem for member in members(group)]
    assert all("“unit_settings” in /etc/nspawnpanel/policy.toml" in problem for problem in said)
    assert not Job.objects.exists()


@pytest.fixture
def fleet(alpha):
    return [make.machine(name, on=alpha, image_type="directory", image_id=name) for name in ("one", "two", "three")]


@pytest.fixture
def small(db):
    return Preset.objects.create(team=make.team(), name="Small", settings={"MemoryMax": "1G"})


def end(member: GroupMember, state: str = "succeeded") -> None:
    """What a host's outcome does to the job of a member."""
    job = Job.objects.get(pk=member.job_id)
    Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING)
    fact = reports.MachineFact(
        name=member.machine.name, state=MachineState.STOPPED,
        nspawn_sha256=job.revision.nspawn_sha256 if state == "succeeded" else "absent",
        limits_sha256=job.revision.limits_sha256 if state == "succeeded" else "absent",
    )  # fmt: skip
    outcome = reports.Outcome(job=job.uuid, state=state, at=1.0, machine=fact)
    intake._outcome(job.host, outcome, intake.Jobs(job.host))


def members(group: JobGroup) -> list[GroupMember]:
    return list(group.members.select_related("job", "machine"))


class TestGroups:
    @pytest.mark.parametrize("how", ["moved", "removed"])
    def test_one_that_left_the_team_meanwhile_is_refused_unread(self, admin, fleet, small, how):
        one, two, _ = fleet
        group = rollouts.roll_out(small, [one, two], by=admin, stop_at_failure=True, restart=False)
        if how == "removed":
            two.forget()
        Machine.objects.filter(pk=two.pk).update(team=make.team("shop") if how == "moved" else None)
        there = Revision(
            machine=two, number=1, state="applied"
        )  # as the preset would have it: "nothing to be done" would tell so
        there.take_files("", "[Service]\nMemoryMax=1G\n")
        there.limits_text = there.base_limits
        there.save()
        Machine.objects.filter(pk=two.pk).update(applied=there)
        end(members(group)[0])
        said = [(m.state, m.problem) for m in members(group)]
        assert said == [("done", ""), ("refused", "It does not belong to the team of this preset any more.")]
        assert list(PresetUse.objects.values_list("machine", flat=True)) == [one.pk]
        assert Job.objects.count() == 1
        assert not two.revisions.exclude(pk=there.pk).exists()

    def test_one_that_left_the_team_when_it_was_done_does_not_have_the_preset(self, admin, fleet, small):
        group = rollouts.roll_out(small, fleet[:1], by=admin, stop_at_failure=True, restart=False)
        Machine.objects.update(team=make.team("shop"))
        end(members(group)[0])
        assert members(group)[0].state == "done"
        assert not PresetUse.objects.exists()

    def test_all_at_once(self, admin, fleet, small):
        group = rollouts.roll_out(small, fleet, by=admin, stop_at_failure=False, restart=False)
        assert [m.state for m in members(group)] == ["placed"] * 3
        for member in members(group):
            assert "MemoryMax=1G" in member.job.revision.limits_text
            end(member)
        group.refresh_from_db()
        assert group.ended_at
        assert PresetUse.objects.filter(preset=small).count() == 3

    def test_an_older_group_that_goes_on_does_not_overwrite_what_a_newer_one_put(self, admin, fleet, small):
        older = rollouts.roll_out(small, fleet[:2], by=admin, stop_at_failure=False, restart=False)
        end(members(older)[0])
        small.settings = {"MemoryMax": "2G"}
        small.save()
        fleet[0].refresh_from_db()
        end(members(rollouts.roll_out(small, fleet[:1], by=admin, stop_at_failure=False, restart=False))[0])
        end(members(older)[1])
        said = {use.machine_id: use.content["settings"]["MemoryMax"] for use in PresetUse.objects.all()}
        assert said == {fleet[0].pk: "2G", fleet[1].pk: "1G"}

    def test_one_after_the_other(self, admin, fleet, small):
        group = rollouts.roll_out(small, fleet, by=admin, stop_at_failure=True, restart=False)
        assert [m.state for m in members(group)] == ["placed", "waiting", "waiting"]
        end(members(group)[0])
        assert [m.state for m in members(group)] == ["done", "placed", "waiting"]
        rollouts.advance(group.pk)
        rollouts.advance(group.pk)
        assert Job.objects.count() == 2, "looking again places nothing twice"

    def test_it_ends_with_whoever_was_shut_out_since(self, admin, fleet, small):
        group = rollouts.roll_out(small, fleet, by=admin, stop_at_failure=True, restart=False)
        admin.is_active = False
        admin.save()
        end(members(group)[0])
        assert [m.state for m in members(group)] == ["done", "refused", "skipped"]
        assert Job.objects.count() == 1

    def test_it_stops_at_the_first_failure(self, admin, fleet, small):
        group = rollouts.roll_out(small, fleet, by=admin, stop_at_failure=True, restart=False)
        end(members(group)[0], "failed")
        assert [m.state for m in members(group)] == ["placed", "skipped", "skipped"]
        group.refresh_from_db()
        assert group.ended_at
        assert not PresetUse.objects.exists()

    def test_a_job_that_is_cancelled_unsent_stops_it_too(self, admin, fleet, small):
        group = rollouts.roll_out(small, fleet, by=admin, stop_at_failure=True, restart=False)
        completion.cancel(members(group)[0].job, by=admin)
        assert [m.state for m in members(group)][1:] == ["skipped", "skipped"]

    def test_what_cannot_be_done_is_said_and_what_is_done_already_is_no_failure(self, admin, fleet, small):
        drafts.save_texts(fleet[0], Files("[Exec]\nBoot=yes\n"), by=admin, seen=drafts.stamp(fleet[0], None))
        revision = Revision.objects.create(
            machine=fleet[1], number=1, state="applied", limits_text="[Service]\nMemoryMax=1G\n"
        )
        fleet[1].applied = revision
        fleet[1].limits_sha256 = revision.limits_sha256
        fleet[1].save()
        group = rollouts.roll_out(small, [fleet[1], fleet[0], fleet[2]], by=admin, stop_at_failure=True, restart=False)
        assert [m.state for m in members(group)] == ["unchanged", "refused", "skipped"]
        assert "draft" in members(group)[1].problem
        assert PresetUse.objects.get().machine == fleet[1]


class TestPages:
    def test_a_preset_is_made_changed_and_previewed(self, as_admin, fleet):
        answer = as_admin.post(reverse("preset-new"), {
            "name": "Small", "team": "ops", "settings-TOTAL_FORMS": 1, "settings-INITIAL_FORMS": 0, "settings-0-setting": "MemoryMax", "settings-0-value": "1G",
        })  # fmt: skip
        assert answer.status_code == 302
        preset = Preset.objects.get()
        assert preset.settings == {"MemoryMax": "1G"}
        page = text(as_admin.get(reverse("preset-roll-out", args=[preset.pk]), {"machine": fleet[0].pk}))
        assert "MemoryMax=" in page
        assert "Apply to 1 machine<" in page

    def test_a_starter_leads_to_the_page_of_its_preset(self, as_admin):
        for _ in range(2):
            answer = as_admin.post(reverse("preset-starter"), {"starter": "hardened"})
            assert answer.url == reverse("preset-detail", args=[Preset.objects.get().pk])

    def test_a_setting_that_may_stand_several_times_has_a_box_of_several_lines(self, as_admin):
        settings = {"MemoryMax": "1G", "Files.Bind": "/srv/a\n/srv/b\n/srv/c"}
        lists = Preset.objects.create(team=make.team(), name="Lists", settings=settings)
        page = text(as_admin.get(reverse("preset-edit", args=[lists.pk])))
        assert [int(n) for n in re.findall(r'name="settings-\d-value"[^>]* rows="(\d+)"', page)] == [1, 4]

    def test_a_wrong_value_is_said_on_its_own_row(self, as_admin):
        answer = as_admin.post(reverse("preset-new"), {
            "name": "Small", "team": "ops", "settings-TOTAL_FORMS": 1, "settings-INITIAL_FORMS": 0, "settings-0-setting": "MemoryMax", "settings-0-value": "lots",
        })  # fmt: skip
        assert answer.status_code == 422
        assert 'id="id_settings-0-value_error"' in text(answer)

    def test_a_row_can_be_added_without_a_script(self, as_admin):
        answer = as_admin.post(
            reverse("preset-new"),
            {"name": "", "settings-TOTAL_FORMS": 1, "settings-INITIAL_FORMS": 0, "add": "settings"},
        )
        assert 'name="settings-1-setting"' in text(answer)
        assert answer.status_code == 200

    def test_a_machine_s_form_says_what_comes_from_a_preset_and_what_does_not(self, as_admin, fleet, small):
        revision = Revision.objects.create(
            machine=fleet[0], number=1, state="applied", limits_text="[Service]\nMemoryMax=2G\n"
        )
        fleet[0].applied = revision
        fleet[0].save()
        PresetUse.objects.create(preset=small, machine=fleet[0], content=small.content)
        presets.update_notes([fleet[0].pk])
        page = text(as_admin.get(reverse("config-edit", args=["alpha", "one"])))
        assert "preset Small: 1G" in page
        assert "differs in MemoryMax" in text(as_admin.get(reverse("preset-detail", args=[small.pk])))

    def test_only_what_was_shown_is_ordered(self, as_admin, fleet, small):
        address = reverse("preset-roll-out", args=[small.pk])
        one, two, three = (machine.pk for machine in fleet)
        answer = as_admin.post(address, {"machine": [one, two], "shown": [one, two, three], "then": "apply"})
        assert answer.status_code == 409
        assert not JobGroup.objects.exists()
        assert "Apply to 2 machines<" in text(answer)
        assert as_admin.post(address, {"machine": [one], "then": "preview"}).status_code == 200
        assert not JobGroup.objects.exists()
        assert as_admin.post(address, {"machine": [one, two], "shown": [one, two], "then": "apply"}).status_code == 302
        assert [member.machine_id for member in members(JobGroup.objects.get())] == [one, two]

    def test_the_group_s_page_shows_each_machine(self, as_admin, admin, fleet, small):
        group = rollouts.roll_out(small, fleet, by=admin, stop_at_failure=True, restart=False)
        page = text(as_admin.get(reverse("job-group", args=[group.pk])))
        assert page.count("waiting</") == 2


def test_what_the_host_s_machines_get_is_read_once_for_all_of_them(db, django_assert_max_num_queries):
    alpha = make.host("alpha")
    for number in range(6):
        machine = make.machine(f"m{number}", on=alpha)
        line = f"[Exec]\nHostname=m{number}\n[Files]\nBind=/srv/{number}\n"
        revision = Revision.objects.create(machine=machine, number=1, state="applied", nspawn_text=line)
        Machine.objects.filter(pk=machine.pk).update(applied=revision, nspawn_sha256=revision.nspawn_sha256)
    machines = list(Machine.objects.select_related("host", "applied"))
    with django_assert_max_num_queries(len(machines) + 2):  # each one's draft, and two for all
        steps = presets.plan(says({"Files.Bind": "/srv/0/in:/y"}), machines, {})
    said = {step.machine.name: f"{step.refused} {step.warnings}" for step in steps}
    assert "this machine itself can write to" in said.pop("m0")
    assert len(said) == 5
    assert all("/srv/0, which m0 can write to" in words for words in said.values())
