"""The page of a build: how long it usually takes, what it made, which packages changed, and what can be done next."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from machines.contract import orders, recipes, reports
from machines.models import Job, Machine
from machines.panel.courier import intake
from machines.panel.images import base_images, saved_recipes
from tests import make
from tests.pages import text

BASE = "0123456789abcdef"
PACKAGES = ["apt 2.6", "bash 5.2", "curl 7.88"]


def build(
    on, *, fresh=True, seconds=42, packages=PACKAGES, state="succeeded", base_job=None, name="web", **fields
) -> Job:
    end, uuid = timezone.now(), uuid4()
    order = make.build_order(name)
    told = {"id": BASE, "fresh": fresh, "built": (end - timedelta(days=3)).timestamp(), "job": str(base_job or uuid)}
    done = (
        {"finished_at": end, "result": {"base": told, "packages": packages, "bytes": 300 << 20}}
        if state == "succeeded"
        else {}
    )
    fields = {"recipe_key": recipes.key_of(order.recipe)} | done | fields
    return make.job(order, on=on, uuid=uuid, state=state, started_at=end - timedelta(seconds=seconds), **fields)


def page(client, job, tab="") -> str:
    return text(client.get(f"/jobs/{job.pk}/" + (f"?tab={tab}" if tab else "")))


# --- usually


def test_a_run_says_how_long_it_usually_takes(as_viewer, alpha):
    for seconds in (40, 42, 44, 900, 41):
        build(alpha, seconds=seconds)
    assert "usually 42\u00a0s" in page(as_viewer, build(alpha, state="running"))


def test_a_run_from_the_base_is_compared_with_such_runs(as_viewer, alpha):
    first = build(alpha, seconds=42)
    build(alpha, seconds=2, fresh=False, base_job=first.uuid)
    running = build(alpha, state="running")
    assert "usually 42\u00a0s" in page(as_viewer, running)
    alpha.facts["bases"] = [{"id": BASE, "key": "k", "job": str(first.uuid)}]
    alpha.save()
    assert "usually 2\u00a0s" in page(as_viewer, running)
    Job.objects.filter(pk=running.pk).update(order={**running.order, "fresh": True})
    assert "usually 42\u00a0s" in page(as_viewer, running)


def test_other_recipes_say_nothing(as_viewer, alpha):
    build(alpha, recipe_key="f" * 64)
    assert "usually" not in page(as_viewer, build(alpha, state="running"))


# --- what it made


def test_it_shows_what_was_made_and_what_can_be_done_next(as_admin, as_viewer, alpha):
    job = build(alpha)
    shown = page(as_admin, job)
    for part in (
        "fresh build",
        BASE,
        "300\u00a0MiB",
        f"/machines/new/?like={job.pk}",
        f"/jobs/{job.pk}/build-base/",
        "Save as recipe",
    ):
        assert part in shown
    seen = page(as_viewer, job)
    assert "300\u00a0MiB" in seen
    for absent in ("New machine", "Rebuild base", "Save as recipe"):
        assert absent not in seen


def test_a_clone_of_which_nothing_is_told_has_no_empty_card(as_admin, alpha):
    shown = page(as_admin, build(alpha))
    assert '<dl class="facts">' in shown.partition("made-head")[2].partition("</section>")[0]
    job = build(alpha, finished_at=timezone.now(), result={"machine": "web"})
    card = page(as_admin, job).partition("made-head")[2].partition("</section>")[0]
    assert f"/machines/new/?like={job.pk}" in card
    assert "panel-body" not in card


def test_from_the_base_it_says_how_old_that_is(as_viewer, alpha):
    shown = page(as_viewer, build(alpha, fresh=False))
    assert "from base" in shown
    assert "3\u00a0d ago" in shown


def test_it_names_the_recipe_and_its_version(as_viewer, admin, alpha):
    small = saved_recipes.create("Small", "", recipes.DebianRecipe(release="trixie"), by=admin, team=make.team())
    shown = page(as_viewer, build(alpha, recipe_version=small.current))
    assert f'href="/recipes/{small.pk}/versions/1/">Small, version 1<' in shown


def test_a_failed_one_has_no_card(as_admin, alpha):
    assert "New machine" not in page(as_admin, build(alpha, state="failed", finished_at=timezone.now()))


# --- packages


def test_the_first_has_nothing_to_compare_with(as_viewer, alpha):
    shown = page(as_viewer, build(alpha), "result")
    assert "nothing to compare with" in shown
    assert "bash 5.2" in shown


def test_it_tells_what_changed_since_the_fresh_run_before(as_viewer, alpha):
    first = build(alpha)
    shown = page(as_viewer, build(alpha, packages=["apt 2.7", "bash 5.2", "vim 9"]), "result")
    assert f'<a href="/jobs/{first.pk}/">job {first.pk}</a>: 1 added, 1 removed, 1 changed.' in shown
    for line in ("+ vim 9", "- curl 7.88", "~ apt 2.6 → 2.7"):
        assert line in shown


def test_a_copy_is_compared_as_its_base_was(as_viewer, alpha):
    old = build(alpha, packages=["apt 2.5"])
    new = build(alpha)
    copy = build(alpha, fresh=False, base_job=new.uuid)
    shown = page(as_viewer, copy, "result")
    assert f"job {old.pk}</a>: 2 added, 0 removed, 1 changed." in shown
    assert "nothing to compare with" in page(as_viewer, build(alpha, fresh=False, base_job=old.uuid), "result")


def test_versions_of_one_saved_recipe_are_compared(as_viewer, admin, alpha):
    small = saved_recipes.create("Small", "", recipes.DebianRecipe(release="trixie"), by=admin, team=make.team())
    build(alpha, recipe_version=small.current, recipe_key="a" * 64)
    later = build(alpha, recipe_version=small.current, recipe_key="b" * 64)
    assert "All 3 packages are as in" in page(as_viewer, later, "result")


@pytest.mark.parametrize(
    "result",
    [
        {"base": "x", "packages": "y", "bytes": "z", "sha256": 5},
        {"base": {"id": 1, "fresh": "yes", "built": 1e300, "job": "x"}, "packages": [1, None, {"a": 1}], "bytes": -1},
        {"base": {"fresh": True, "built": "now"}, "packages": ["<script>alert(1)</script>"] * 3},
    ],
)
def test_a_hostile_result_breaks_nothing(result, as_admin, alpha):
    build(alpha)
    job = build(alpha, result=result)
    for tab in ("", "result"):
        assert "<script>alert" not in page(as_admin, job, tab)
    learned = reports.Outcome(job=job.uuid, state="succeeded", at=1, result=result)
    base_images.learn(alpha, job, learned)
    assert not alpha.facts.get("bases") or base_images.of_host("alpha", alpha.facts["bases"]) is not None


@pytest.mark.parametrize(("tab", "state"), [("log", "succeeded"), ("result", "succeeded"), ("result", "running")])
def test_it_costs_five_queries(tab, state, as_viewer, alpha, django_assert_max_num_queries):
    build(alpha)
    job = build(alpha, state=state)
    with django_assert_max_num_queries(5):
        page(as_viewer, job, tab)


# --- what its end means


def outcome(job, state="succeeded", **result) -> reports.Outcome:
    fact = reports.MachineFact(name=job.machine_name or "x", state="running", image_id="1")
    return reports.Outcome(
        job=job.uuid, state=state, at=1_760_000_000, machine=fact if job.machine_name else None, result=result
    )


def told(host, job, **result):
    job.state = "running"
    job.save()
    intake._outcome(host, outcome(job, **result), intake.Jobs(host))


def test_a_machine_remembers_the_build_it_came_from(as_viewer, alpha):
    job = build(alpha, state="running")
    told(alpha, job, base={"id": BASE, "fresh": False, "built": timezone.now().timestamp() - 86400 * 3})
    assert Machine.objects.get().built_by == job
    shown = text(as_viewer.get("/hosts/alpha/machines/web/"))
    for part in ("Debian trixie", f"job {job.pk}", "from a base image built", "3\u00a0d ago"):
        assert part in shown


def test_its_page_still_costs_five_queries(as_viewer, alpha, django_assert_max_num_queries):
    make.machine("web", on=alpha, built_by=build(alpha))
    with django_assert_max_num_queries(5):
        as_viewer.get("/hosts/alpha/machines/web/")


def test_the_panel_knows_a_new_base_at_once(alpha):
    job = build(alpha, state="running")
    alpha.facts["bases"] = [{"id": BASE, "key": "old", "job": str(uuid4())}]
    made = {"id": "f" * 16, "fresh": True, "built": 1.76e9, "job": str(job.uuid)}
    told(alpha, job, base=made, packages=PACKAGES, bytes=7)
    known = {base.id: base for base in base_images.of_host("alpha", alpha.facts["bases"])}
    assert set(known) == {BASE, "f" * 16}
    assert (known["f" * 16].title, known["f" * 16].packages, known["f" * 16].uuid) == ("Debian trixie", 3, job.uuid)
    told(alpha, make.job(orders.RemoveBase(base=BASE), on=alpha))
    assert [base["id"] for base in alpha.facts["bases"]] == ["f" * 16]


def test_a_copy_makes_no_base(alpha):
    told(alpha, build(alpha, state="running"), base={"id": BASE, "fresh": False})
    assert "bases" not in alpha.facts


def test_machines_being_built_come_first(as_admin, alpha):
    for name in ("aaa", "bbb"):
        make.machine(name, on=alpha, state="running")
    as_admin.post("/machines/new/", {
        "key": str(uuid4()), "host": "alpha", "name": "zzz", "release": "trixie", "locale": "", "timezone": "", "network_mode": "veth", "boot": "on",
        "binds-TOTAL_FORMS": "0", "binds-INITIAL_FORMS": "0", "ports-TOTAL_FORMS": "0", "ports-INITIAL_FORMS": "0",
    })  # fmt: skip
    shown = text(as_admin.get("/machines/"))
    assert Job.objects.filter(op="build").exists()
    assert shown.index("zzz") < shown.index("aaa")
