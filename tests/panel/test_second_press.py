"""Every button that makes a job, pressed twice with the key of its form: one job, to which the second answer leads.

Every address that takes a POST has its place in one of two tables, so that a new button cannot be left out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from machines.contract import orders
from machines.contract.recipes import DebianRecipe
from machines.models import Host, Job, JobGroup, Machine, Preset, Recipe, RecipeVersion, User
from machines.panel.orders.operations import ACTIONS
from machines.panel.web.access import SIGNED_IN
from tests import make
from tests.panel.configs import cast
from tests.panel.configs.test_holds import ETC, LEFT, OURS, find
from tests.panel.machines.test_new import form
from tests.panel.test_access import TABLE, address, of_the_panel, parts_of  # noqa: F401  # a fixture

GIB = 1 << 30
BASE = "0123456789abcdef"
OTHER = "[Service]\nMemoryMax=1G\n"


@dataclass
class House:
    """One host with one machine, and an administrator."""

    host: Host
    web: Machine
    admin: User

    def became(self, **columns: object) -> None:
        Machine.objects.filter(pk=self.web.pk).update(**columns)

    def made(self, order: orders.Order, **fields: object) -> Job:
        return make.job(order, on=self.host, by=self.admin, finished_at=timezone.now(), **fields)


Button = tuple[dict[str, object], dict[str, object]]  # variable parts of the address beside host and name, and the form


def _nothing(_: House) -> Button:
    return {}, {}


def _what(_: House) -> Button:
    return {"what": "networkd"}, {}


def _remove(_: House) -> Button:
    return {}, {"confirm": "web"}


def _prove(house: House) -> Button:
    house.became(state="running")
    return {}, {}


def _new(_: House) -> Button:
    return {}, form(name="fresh")


def _apply(house: House) -> Button:
    cast.draft(house.web, house.admin, memory_max="512M")
    return {}, {"seen": cast.stamp(house.web)}


def _reapply(house: House) -> Button:
    cast.applied(house.web, memory_max="512M")
    return {}, {"seen": Machine.objects.get().fingerprint}


def _tidy(house: House) -> Button:
    cast.applied(house.web, memory_max="512M")
    applied = house.web.applied
    find(house.web, (ETC, applied.nspawn_text), (OURS, applied.limits_text), (LEFT, OTHER))
    return {}, {"path": LEFT, "sha256": cast.sha(OTHER)}


def _pool(house: House) -> Button:
    house.host.facts |= {"pool_type": "ext4"}
    Host.objects.update(facts=house.host.facts, facts_at=timezone.now())
    return {}, {"size": "20"}


def _base(house: House) -> Button:
    job = house.made(orders.BuildBase(recipe=DebianRecipe(release="trixie"), first_boot={}), state="succeeded")
    house.host.facts |= {"bases": [{"id": BASE, "key": "k", "job": str(job.uuid)}]}
    Host.objects.update(facts=house.host.facts)
    return {"base": BASE}, {}


def _bake_of_job(house: House) -> Button:
    return {"pk": house.made(make.build_order(), state="succeeded").pk}, {}


def _bake_of_recipe(_: House) -> Button:
    recipe = Recipe.objects.create(name="small")
    spec = DebianRecipe(release="trixie").model_dump(mode="json")
    recipe.current = RecipeVersion.objects.create(recipe=recipe, number=1, spec=spec)
    recipe.save()
    return {"pk": recipe.pk}, {"host": "alpha"}


def _retry_of(order: Callable[[House], orders.Order]) -> Callable[[House], Button]:
    return lambda house: ({"pk": house.made(order(house), state="failed").pk}, {})


def _built_again(house: House) -> Button:
    draft = cast.draft(house.web, house.admin)
    return {"pk": house.made(make.build_order(), state="failed", revision=draft).pk}, {}


def _roll_out(house: House) -> Button:
    preset = Preset.objects.create(name="Small", team=house.web.team, settings={"MemoryMax": "1G"})
    house.became(image_type="directory")
    return {"pk": preset.pk}, {"then": "apply", "machine": house.web.pk, "shown": house.web.pk}


MAKES_A_JOB: list[tuple[str, Callable[[House], Button]]] = [
    *((f"machine-{op}", _nothing) for op in ACTIONS),
    ("machine-new", _new),
    ("machine-remove", _remove),
    ("machine-export", _nothing),
    ("machine-diagnose", _nothing),
    ("machine-fix", _what),
    ("machine-limit-test-run", _prove),
    ("config-apply", _apply),
    ("config-reapply", _reapply),
    ("config-remove-dropin", _tidy),
    ("host-diagnose", _nothing),
    ("host-fix", _what),
    ("host-pool", _pool),
    ("base-rebuild", _base),
    ("base-remove", _base),
    ("job-build-base", _bake_of_job),
    ("recipe-build-base", _bake_of_recipe),
    ("preset-roll-out", _roll_out),
    ("job-retry", _retry_of(lambda _: orders.Start(name="web"))),
    ("job-retry", _retry_of(lambda _: orders.Diagnose())),
    ("job-retry", _retry_of(lambda _: orders.Remove(name="web"))),
    ("job-retry", _retry_of(lambda _: orders.Export(name="web", format="tar", url="https://panel.example/x", limit=9))),
    ("job-retry", _built_again),
]
MAKES_NONE = {
    "home", "machine-new-preview", "machine-forget", "config-edit", "config-raw", "config-clean", "config-rebase",
    "config-discard", "config-adopt", "config-ignore", "config-import-limits", "revision-restore", "host-release", "job-cancel",
    "preset-new", "preset-starter", "preset-edit", "preset-remove", "recipe-new", "recipe-starter", "recipe-edit",
    "recipe-archive", "recipe-unarchive", "recipe-restore", "theme", "restore-confirm", "archive-begin", "archive-part",
    "archive-remove", "host-enrol-again", "host-rename", "host-remove", "enrolment-accept", "enrolment-refuse", "enrolment-new", "event-verify", "team-new", "team-edit", "team-delete", "team-leave", "team-member-add", "team-member-edit", "team-member-remove",
    "invitation-index", "invitation-withdraw", "panel-keys-ask", "person-disable", "person-enable", "person-make-administrator", "person-reset-factor", "person-reset-link", "person-unmake-administrator",
    "team-show", "team-share-new", "team-share-edit", "team-share-remove", "machine-assign",
    *(name for name, line in TABLE.items() if line.permission == SIGNED_IN and "POST" in line.methods),
}  # fmt: skip


@pytest.fixture
def house(admin, web, settings, tmp_path) -> House:
    settings.DATA_DIR, settings.PANEL_URL = tmp_path, "https://panel.example"
    return House(web.host, web, admin)


def pressed(as_admin: Client, url: str, data: dict[str, object]) -> str:
    """The page that the answer leads to."""
    answer = as_admin.post(url, data, follow=True)
    assert answer.status_code == 200, answer.content.decode()
    return answer.content.decode()


def url_of(name: str, parts: dict[str, object]) -> str:
    given = {"host": "alpha", "name": "web", **parts}
    return reverse(name, kwargs={part: given[part] for part in parts_of(name)})


def test_every_address_that_takes_a_post_is_in_one_of_the_tables():
    post = {each.name for each in of_the_panel() if "POST" in TABLE[each.name].methods}
    makes = {name for name, _ in MAKES_A_JOB}
    assert makes | MAKES_NONE == post
    assert not makes & MAKES_NONE


@pytest.mark.parametrize("becomes", ["queued", "succeeded"])
@pytest.mark.parametrize(("name", "prepare"), MAKES_A_JOB)
def test_a_second_press_leads_to_the_job_of_the_first(house, as_admin, name, prepare, becomes):
    parts, data = prepare(house)
    url, data, before = (
        url_of(name, parts),
        {**data, "key": str(uuid4())},
        set(Job.objects.values_list("pk", flat=True)),
    )
    assert pressed(as_admin, url, data)
    [job] = Job.objects.exclude(pk__in=before)
    Job.objects.filter(pk=job.pk).update(state=becomes)
    page = pressed(as_admin, url, data)
    assert Job.objects.exclude(pk__in=before).get() == job
    assert f"/jobs/{job.pk}/" in page
    assert JobGroup.objects.count() == (name == "preset-roll-out")


@pytest.mark.parametrize(
    "name", [name for name, prepare in MAKES_A_JOB if prepare in (_nothing, _prove) and name != "machine-export"]
)
def test_without_a_key_a_second_press_while_the_first_goes_on_leads_to_its_job(house, as_admin, name):
    _prove(house)
    pressed(as_admin, url_of(name, {}), {})
    job = Job.objects.get()
    assert f"/jobs/{job.pk}/" in pressed(as_admin, url_of(name, {}), {})
    assert Job.objects.get() == job


def test_another_order_of_the_same_kind_is_not_taken_for_a_second_press(house, as_admin):
    as_admin.post(url_of("machine-template", {}))
    answer = as_admin.post(url_of("machine-writable", {}))
    assert answer.status_code == 409
    assert "already requested" in answer.content.decode()
    as_admin.post(url_of("host-fix", {"what": "networkd"}))
    as_admin.post(url_of("host-fix", {"what": "forwarding"}))
    assert Job.objects.filter(op="fix").count() == 2


def test_two_buttons_of_a_page_have_keys_of_their_own(house, as_admin):
    house.made(orders.Start(name="web"), state="failed")
    _base(house)
    page = as_admin.get("/hosts/alpha/").content.decode() + as_admin.get("/hosts/alpha/machines/web/").content.decode()
    keys = re.findall(r'name="key" value="([0-9a-f-]{36})"', page)
    assert len(set(keys)) == len(keys) > 2


@pytest.mark.parametrize("name", sorted(MAKES_NONE))
def test_the_others_make_none(as_admin, address, name):  # noqa: F811  # the fixture
    url = address(name)
    before = Job.objects.count()
    as_admin.post(url, {"key": str(uuid4())})
    assert Job.objects.count() == before
