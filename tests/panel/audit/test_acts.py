"""What people do, how they sign in, and what is refused: each is an entry; a flood of refusals is a count."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from machines.contract import orders
from machines.contract.permissions import Role
from machines.contract.recipes import DebianRecipe
from machines.models import Event, Job, Preset, RefusalCount, User
from machines.panel.audit import refusals, verify
from machines.panel.courier import completion
from machines.panel.images import saved_recipes
from machines.panel.orders import dispatch
from machines.panel.web.acts import ACTS
from tests import make
from tests.panel.test_access import TABLE

pytestmark = pytest.mark.django_db
WEB = "/hosts/alpha/machines/web/"
PASSWORD = "correct horse battery"
JOBS = {  # URLs that place a job, by way of dispatch.place() or completion.cancel()
    *(f"machine-{op}" for op in ("start", "poweroff", "reboot", "terminate", "enable", "disable", "reset", "template", "writable",
                                 "remove", "export", "diagnose", "fix", "limit-test-run", "new")),
    "config-apply", "config-reapply", "config-remove-dropin", "host-pool", "host-diagnose", "host-fix", "job-cancel", "job-retry",
    "job-build-base", "base-rebuild", "base-remove", "recipe-build-base",
}  # fmt: skip


def told() -> list[tuple[str, str, str]]:
    return list(Event.objects.order_by("pk").values_list("kind", "actor_name", "text"))


# --- jobs


def test_a_request_and_its_end_are_entries_of_its_team(as_admin, web):
    as_admin.post(f"{WEB}start/", REMOTE_ADDR="192.0.2.7")
    job = Job.objects.get()
    entry = Event.objects.get()
    assert (entry.kind, entry.text) == ("job-requested", f"ada requested “Start web” on alpha (job {job.pk}).")
    assert (entry.address, entry.job, entry.team, entry.object_name) == ("192.0.2.7", job, web.team, "web")
    Job.objects.filter(pk=job.pk).update(state="failed", problem={"message": "No such image."})
    completion.abandoned(job)
    entry = Event.objects.first()
    assert entry.text == f"“Start web” on alpha, requested by ada, failed (job {job.pk}): No such image."
    assert (entry.result, entry.address) == ("failed", "")
    assert verify.verify().faults == []


def test_a_cancelled_request_says_who_cancelled_it(as_admin, admin, web, alpha):
    job = dispatch.place(orders.Start(name="web"), on=alpha, by=admin)
    as_admin.post(f"/jobs/{job.pk}/cancel/")
    assert [kind for kind, _, _ in told()] == ["job-requested", "cancel-requested", "job-ended"]
    assert Event.objects.first().text.endswith(f"was cancelled (job {job.pk}).")


def test_what_is_not_placed_is_no_entry(admin, web, alpha):
    dispatch.place(orders.Start(name="web"), on=alpha, by=admin)
    with pytest.raises(dispatch.Busy):
        dispatch.place(orders.Poweroff(name="web"), on=alpha, by=admin)
    assert [kind for kind, _, _ in told()] == ["job-requested"]


# --- what is done without a job


def test_every_address_that_changes_something_leaves_an_entry():
    own = {  # written where it is done
        "config-adopt", "config-ignore", "machine-assign", "archive-remove", "host-release", "restore-confirm", "archive-content", "archive-transfer",
        "archive-begin", "archive-part",  # the upload is an entry once it is whole
    }  # fmt: skip
    no_act = {"home", "theme", "machine-new-preview", "event-verify"}
    changing = {name for name, line in TABLE.items() if "POST" in line.methods and not name.startswith(ACCOUNTS)}
    assert changing - JOBS - own - no_act - set(ACTS) == set()
    assert set(ACTS) <= changing


ACCOUNTS = (  # of rooms that write their own entries (panel/people, panel/teams, panel/hosts/enrolments.py), and of allauth
    "account_", "mfa_", "usersessions_", "profile", "session", "people", "person", "team", "invitation", "token", "enrolment-", "host-enrol", "host-remove", "host-rename", "panel-keys",
)  # fmt: skip


def test_a_recipe_is_archived_and_a_form_with_a_fault_is_no_act(as_admin, admin):
    recipe = saved_recipes.create("base", "", DebianRecipe(release="trixie"), by=admin, team=make.team())
    assert as_admin.post(f"/recipes/{recipe.pk}/archive/").status_code == 302
    assert as_admin.post("/recipes/new/", {"name": ""}).status_code == 422
    assert told() == [("recipe-archived", "ada", "ada archived the recipe base.")]


def test_what_is_removed_is_named(as_admin):
    preset = Preset.objects.create(name="small", team=make.team())
    as_admin.post(f"/presets/{preset.pk}/remove/")
    assert told() == [("preset-removed", "ada", "ada removed the preset small.")]
    assert Event.objects.get().team == make.team()


def test_a_draft_that_is_discarded_says_of_what(as_admin, web):
    as_admin.post(f"{WEB}config/discard/", {"seen": ""})
    assert told() in ([], [("draft-discarded", "ada", "ada discarded the draft of the configuration of web.")])


# --- sign-ins


@pytest.fixture
def eve(db) -> User:
    return make.user("eve", Role.OPERATOR, password=PASSWORD)


def sign_in(client: Client, name: str, password: str, address: str = "192.0.2.9"):
    return client.post("/accounts/login/", {"login": name, "password": password}, REMOTE_ADDR=address)


def test_sign_in_and_out_are_entries(client, eve):
    assert sign_in(client, "eve", PASSWORD).status_code == 302
    client.post("/accounts/logout/", REMOTE_ADDR="192.0.2.9")
    assert told() == [("signed-in", "eve", "eve signed in."), ("signed-out", "eve", "eve signed out.")]
    assert {event.address for event in Event.objects.all()} == {"192.0.2.9"}


def test_a_wrong_password_is_an_entry_without_it(client, eve):
    sign_in(client, "eve", "hunter2hunter2")
    entry = Event.objects.get()
    assert (entry.kind, entry.result, entry.object_name, entry.actor_name) == ("sign-in-failed", "refused", "eve", "")
    assert entry.text == "A sign-in as eve failed: wrong password."
    assert "hunter2" not in repr(vars(entry))


def test_what_is_typed_as_a_name_is_not_repeated_for_it_may_be_a_password(client, eve):
    sign_in(client, "hunter2hunter2", "x")
    assert Event.objects.get().text == "A sign-in failed: no such person."


def test_who_has_to_wait_is_an_entry(client, eve):
    for _ in range(7):
        sign_in(client, "eve", "wrong")
    assert "too-many-attempts" in {kind for kind, _, _ in told()}


def test_a_changed_password_is_an_entry(eve):
    client = make.client(eve)
    client.post(
        "/accounts/password/change/",
        {"oldpassword": PASSWORD, "password1": "another long one", "password2": "another long one"},
    )
    assert ("password-changed", "eve", "eve changed their password.") in told()


# --- refusals


def test_what_a_person_may_not_do_is_an_entry(as_viewer, web):
    assert as_viewer.post(f"{WEB}start/", REMOTE_ADDR="192.0.2.8").status_code == 403
    entry = Event.objects.get()
    assert (entry.kind, entry.result, entry.actor_name, entry.address) == (
        "access-refused",
        "refused",
        "vera",
        "192.0.2.8",
    )
    assert entry.text == "vera was refused: POST /hosts/<host>/machines/<name>/start/."


def test_a_flood_of_refusals_is_a_count(as_viewer, web):
    for _ in range(refusals.PER_SOURCE + 15):
        as_viewer.post(f"{WEB}start/", REMOTE_ADDR="192.0.2.8")
    assert Event.objects.count() == refusals.PER_SOURCE
    as_viewer.post(f"{WEB}start/", REMOTE_ADDR="192.0.2.88")
    assert Event.objects.count() == refusals.PER_SOURCE + 1
    refusals.say_held(timezone.now())
    assert Event.objects.count() == refusals.PER_SOURCE + 1
    refusals.say_held(timezone.now() + timedelta(hours=2))
    assert Event.objects.first().text.startswith("15 more refusals from 192.0.2.8 in the hour from")
    assert not RefusalCount.objects.exists()


def test_a_flood_from_everywhere_is_bounded_too(monkeypatch):
    monkeypatch.setattr(refusals, "PER_ALL", 30)
    monkeypatch.setattr(refusals, "SOURCES", 10)
    for number in range(60):
        refusals.record("access-refused", "x", source=f"192.0.2.{number}")
    assert Event.objects.count() == 30
    assert RefusalCount.objects.count() <= 11
    refusals.say_held(timezone.now() + timedelta(hours=2))
    assert "30 more refusals from all addresses together" in Event.objects.first().text


def test_the_next_hour_begins_anew_and_says_what_was_counted():
    for _ in range(refusals.PER_SOURCE + 3):
        refusals.record("access-refused", "x", source="192.0.2.8")
    RefusalCount.objects.update(since=timezone.now() - timedelta(hours=2))
    refusals.record("access-refused", "again", source="192.0.2.8")
    assert [event.kind for event in Event.objects.all()[:2]] == ["access-refused", "refusals-counted"]
