"""Every address × every member of the cast × GET and POST, against one table. A view without a line here fails."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from nacl.signing import SigningKey

from machines.contract import orders
from machines.contract.permissions import PERMISSIONS, Permission, Role
from machines.contract.recipes import DebianRecipe
from machines.models import (
    Archive,
    Event,
    Host,
    JobGroup,
    Membership,
    PanelKey,
    Preset,
    Recipe,
    RecipeVersion,
    Revision,
    User,
)
from machines.panel.hosts import enrolments
from machines.panel.web.access import PUBLIC, SIGNED_IN, RequireDeclaredPermission
from nspawnpanel import urls
from tests import make

VIEW, OPERATE, CONFIGURE, BUILD, REMOVE = (
    Permission.VIEW,
    Permission.OPERATE,
    Permission.CONFIGURE,
    Permission.BUILD,
    Permission.REMOVE,
)
ADMINISTER, MANAGE = Permission.ADMINISTER, Permission.MANAGE
GET, POST, BOTH = {"GET"}, {"POST"}, {"GET", "POST"}


class Line(NamedTuple):
    permission: str
    methods: set[str]


TABLE = {
    "home": Line(VIEW, BOTH),
    "job-log-search": Line(VIEW, GET),
    "job-running": Line(VIEW, GET),
    "machine-index": Line(VIEW, GET),
    "machine-hosts": Line(VIEW, GET),
    "machine-new": Line(BUILD, BOTH),
    "machine-new-preview": Line(BUILD, POST),
    "machine-detail": Line(VIEW, GET),
    "machine-menu": Line(OPERATE, GET),
    "machine-confirm": Line(OPERATE, GET),
    "machine-start": Line(OPERATE, POST),
    "machine-poweroff": Line(OPERATE, POST),
    "machine-reboot": Line(OPERATE, POST),
    "machine-terminate": Line(OPERATE, POST),
    "machine-enable": Line(OPERATE, POST),
    "machine-disable": Line(OPERATE, POST),
    "machine-reset": Line(OPERATE, POST),
    "machine-template": Line(OPERATE, POST),
    "machine-writable": Line(OPERATE, POST),
    "machine-remove": Line(REMOVE, BOTH),
    "machine-forget": Line(REMOVE, POST),
    "machine-doctor": Line(VIEW, GET),
    "machine-diagnose": Line(OPERATE, POST),
    "machine-fix": Line(ADMINISTER, POST),
    "machine-limit-test": Line(VIEW, GET),
    "machine-limit-test-run": Line(OPERATE, POST),
    "config-edit": Line(VIEW, BOTH),
    "config-raw": Line(VIEW, BOTH),
    "config-review": Line(VIEW, GET),
    "config-clean": Line(CONFIGURE, POST),
    "config-apply": Line(CONFIGURE, POST),
    "config-rebase": Line(CONFIGURE, POST),
    "config-discard": Line(CONFIGURE, POST),
    "config-effective": Line(VIEW, GET),
    "config-adopt": Line(CONFIGURE, POST),
    "config-reapply": Line(CONFIGURE, POST),
    "config-ignore": Line(CONFIGURE, POST),
    "config-import-limits": Line(CONFIGURE, POST),
    "config-remove-dropin": Line(CONFIGURE, POST),
    "revision-index": Line(VIEW, GET),
    "revision-compare": Line(VIEW, GET),
    "revision-detail": Line(VIEW, GET),
    "revision-restore": Line(CONFIGURE, POST),
    "host-index": Line(VIEW, GET),
    "host-detail": Line(VIEW, GET),
    "host-pool": Line(ADMINISTER, BOTH),
    "host-release": Line(ADMINISTER, POST),
    "panel-keys": Line(ADMINISTER, GET),
    "panel-keys-ask": Line(ADMINISTER, POST),
    "host-receipts": Line(ADMINISTER, GET),
    "host-enrol-again": Line(ADMINISTER, POST),
    "host-rename": Line(ADMINISTER, BOTH),
    "host-remove": Line(ADMINISTER, BOTH),
    "enrolment-new": Line(ADMINISTER, BOTH),
    "enrolment-detail": Line(ADMINISTER, GET),
    "enrolment-accept": Line(ADMINISTER, POST),
    "enrolment-refuse": Line(ADMINISTER, POST),
    "host-doctor": Line(ADMINISTER, GET),
    "host-diagnose": Line(ADMINISTER, POST),
    "host-fix": Line(ADMINISTER, POST),
    "job-index": Line(VIEW, GET),
    "job-detail": Line(VIEW, GET),
    "job-status": Line(VIEW, GET),
    "job-log-stream": Line(VIEW, GET),
    "job-log-raw": Line(VIEW, GET),
    "job-log-older": Line(VIEW, GET),
    "job-cancel-confirm": Line(OPERATE, GET),
    "job-cancel": Line(OPERATE, POST),
    "job-retry": Line(OPERATE, POST),
    "job-build-base": Line(BUILD, POST),
    "base-rebuild": Line(BUILD, POST),
    "base-remove": Line(BUILD, BOTH),
    "preset-index": Line(VIEW, GET),
    "preset-new": Line(CONFIGURE, BOTH),
    "preset-starter": Line(CONFIGURE, POST),
    "preset-detail": Line(VIEW, GET),
    "preset-edit": Line(CONFIGURE, BOTH),
    "preset-remove": Line(CONFIGURE, POST),
    "preset-roll-out": Line(CONFIGURE, BOTH),
    "job-group": Line(VIEW, GET),
    "recipe-index": Line(VIEW, GET),
    "recipe-new": Line(BUILD, BOTH),
    "recipe-starter": Line(BUILD, POST),
    "recipe-detail": Line(VIEW, GET),
    "recipe-edit": Line(BUILD, BOTH),
    "recipe-build-base": Line(BUILD, POST),
    "recipe-archive": Line(BUILD, POST),
    "recipe-unarchive": Line(BUILD, POST),
    "recipe-version": Line(VIEW, GET),
    "recipe-restore": Line(BUILD, POST),
    "theme": Line(VIEW, POST),
    "event-index": Line(VIEW, GET),
    "event-export-csv": Line(VIEW, GET),
    "event-export-jsonl": Line(VIEW, GET),
    "event-verify": Line(ADMINISTER, POST),
    "restored": Line(ADMINISTER, GET),
    "restore-confirm": Line(ADMINISTER, POST),
    "archive-index": Line(VIEW, GET),
    "archive-begin": Line(BUILD, POST),
    "archive-part": Line(BUILD, POST),
    "archive-state": Line(BUILD, GET),
    "archive-content": Line(BUILD, GET),
    "archive-remove": Line(BUILD, BOTH),
    "machine-export": Line(BUILD, BOTH),
    "team-index": Line(VIEW, GET),
    "team-new": Line(ADMINISTER, BOTH),
    "team-show": Line(VIEW, POST),
    "team-detail": Line(VIEW, GET),
    "team-edit": Line(MANAGE, BOTH),
    "team-delete": Line(ADMINISTER, BOTH),
    "team-leave": Line(VIEW, BOTH),
    "team-share-new": Line(ADMINISTER, BOTH),
    "team-share": Line(VIEW, GET),
    "team-share-edit": Line(ADMINISTER, BOTH),
    "team-share-remove": Line(ADMINISTER, BOTH),
    "host-teams": Line(VIEW, GET),
    "machine-unclaimed": Line(ADMINISTER, GET),
    "machine-assign": Line(ADMINISTER, BOTH),
    "team-member-add": Line(MANAGE, BOTH),
    "team-member-edit": Line(MANAGE, BOTH),
    "team-member-remove": Line(MANAGE, BOTH),
    "person-index": Line(ADMINISTER, GET),
    "person-detail": Line(ADMINISTER, GET),
    "person-make-administrator": Line(ADMINISTER, POST),
    "person-unmake-administrator": Line(ADMINISTER, POST),
    "person-disable": Line(ADMINISTER, POST),
    "person-enable": Line(ADMINISTER, POST),
    "person-reset-link": Line(ADMINISTER, POST),
    "person-reset-factor": Line(ADMINISTER, POST),
    "invitation-index": Line(MANAGE, BOTH),
    "invitation-withdraw": Line(MANAGE, POST),
    "permission-index": Line(SIGNED_IN, GET),
    "token-index": Line(SIGNED_IN, GET),
    "token-new": Line(SIGNED_IN, BOTH),
    "token-revoke": Line(SIGNED_IN, POST),
    "api-whoami": Line(SIGNED_IN, GET),
    "profile": Line(SIGNED_IN, BOTH),
    "session-index": Line(SIGNED_IN, GET),
    "session-end": Line(SIGNED_IN, POST),
    "session-end-others": Line(SIGNED_IN, POST),
    "account_change_password": Line(SIGNED_IN, BOTH),
    "account_reauthenticate": Line(SIGNED_IN, BOTH),
    "mfa_index": Line(SIGNED_IN, GET),
    "mfa_reauthenticate": Line(SIGNED_IN, BOTH),
    "mfa_reauthenticate_webauthn": Line(SIGNED_IN, BOTH),
    "mfa_activate_totp": Line(SIGNED_IN, BOTH),
    "mfa_deactivate_totp": Line(SIGNED_IN, BOTH),
    "mfa_list_webauthn": Line(SIGNED_IN, BOTH),
    "mfa_add_webauthn": Line(SIGNED_IN, BOTH),
    "mfa_edit_webauthn": Line(SIGNED_IN, BOTH),
    "mfa_remove_webauthn": Line(SIGNED_IN, BOTH),
    "mfa_view_recovery_codes": Line(SIGNED_IN, GET),
    "mfa_generate_recovery_codes": Line(SIGNED_IN, BOTH),
    "mfa_download_recovery_codes": Line(SIGNED_IN, BOTH),  # a 404 to both, while there are none
}
# Views that are for those who signed in or confirmed within the last 15 minutes (web/access.py: recently_signed_in).
ASK_AGAIN = {
    "profile", "person-make-administrator", "person-unmake-administrator", "person-disable", "person-enable",
    "person-reset-link", "person-reset-factor", "invitation-index", "host-remove", "token-new", "team-delete",
    "team-member-add", "team-member-edit", "team-member-remove",
}  # fmt: skip
# What anybody may open: the way in and out, and the second step of it. Of allauth's pages all others are closed: 404.
OPEN_TO_ALL = {
    "account_login", "account_logout", "account_inactive", "mfa_authenticate", "mfa_login_webauthn",
    "account_reset_password", "account_reset_password_done", "account_reset_password_from_key",
    "account_reset_password_from_key_done", "invitation", "openid_connect_login", "openid_connect_callback",
    "socialaccount_login_cancelled", "socialaccount_login_error",
}  # fmt: skip
# Doors for hosts, which nobody enters without the token of an order (panel/archives/test_transfer.py) or of an enrolment
# (panel/hosts/test_enrolment.py).
BY_TOKEN = {"archive-transfer", "enrolment-door"}
# Views that look at the right themselves once more, because one address needs two: (name, method) → the right.
STRICTER = {("config-edit", "POST"): CONFIGURE, ("config-raw", "POST"): CONFIGURE}
CAST = {"anonymous": None, "stranger": "", "viewer": Role.VIEWER, "admin": Role.ADMINISTRATOR}


def patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from patterns(each)
        else:
            yield each


def of_the_panel() -> list[URLPattern]:
    """All but the way in, allauth's closed pages, and the doors for hosts."""
    return [each for each in patterns(get_resolver()) if each.name in TABLE or not is_public(each)]


def is_public(pattern: URLPattern) -> bool:
    return getattr(pattern.callback, "permission", None) == PUBLIC


@pytest.fixture
def address(web, admin) -> Callable[[str], str]:
    """The address of a view, with things that exist."""
    job = make.job(orders.Start(name="web"), on=web.host, by=admin, state="failed")
    Revision.objects.create(machine=web, number=1, state="applied")
    recipe = Recipe.objects.create(pk=job.pk, name="small")
    RecipeVersion.objects.create(recipe=recipe, number=1, spec=DebianRecipe(release="trixie").model_dump(mode="json"))
    Preset.objects.create(pk=job.pk, name="hardened")
    JobGroup.objects.create(pk=job.pk, title="Preset hardened")
    base = "0123456789abcdef"
    Host.objects.update(facts={"bases": [{"id": base, "key": "k"}]})
    given = {
        "host": "alpha",
        "name": "web",
        "op": "poweroff",
        "pk": job.pk,
        "number": 1,
        "what": "networkd",
        "base": base,
        "team": make.TEAM,
    }
    Membership.objects.create(pk=job.pk, team=make.team(), user=make.user("mia", role=""))
    given["archive"] = Archive.objects.create(title="web.tar", state="ready", size=1).pk
    PanelKey.objects.create(public=b64encode(bytes(SigningKey.generate().verify_key)).decode())
    given["enrolment"] = enrolments.make("beta", by=admin).pk
    return lambda name: reverse(name, kwargs={part: given[part] for part in parts_of(name)})


def with_password(name: str, role: str) -> User:
    """Somebody who has one, be it unknown: there is something to confirm by."""
    someone = make.user(name, role=role)
    someone.password = "unknown"
    someone.save()
    return someone


def parts_of(name: str) -> list[str]:
    """The variable parts of an address, those of its prefixes included."""
    possibilities, *_ = get_resolver().reverse_dict.getlist(name)[0]
    return possibilities[0][1]


def test_every_view_has_a_line_and_every_line_a_view():
    assert {each.name for each in of_the_panel()} == set(TABLE)


def test_doors_for_hosts_are_closed_to_people(admin, address):
    doors = {each.name for each in patterns(get_resolver()) if is_public(each) and each.callback is not urls.closed}
    assert doors == BY_TOKEN | OPEN_TO_ALL
    for name in BY_TOKEN:
        for client in (Client(), make.client(admin)):
            assert client.get(address(name)).status_code == client.post(address(name)).status_code == 403


@pytest.mark.parametrize("pattern", of_the_panel(), ids=lambda each: each.name)
def test_a_view_declares_the_right_of_its_line(pattern):
    assert getattr(pattern.callback, "permission", None) == TABLE[pattern.name].permission


def test_nobody_comes_into_pages_that_would_send_mail_or_make_accounts(as_admin):
    shut = [each for each in patterns(get_resolver()) if each.callback is urls.closed]
    assert {"account_signup", "account_email", "account_set_password"} <= {each.name for each in shut}
    given = {"key": "x", "uidb36": "1"}
    for each in shut:
        path = reverse(each.name, kwargs={part: given[part] for part in parts_of(each.name)})
        for client in (Client(), as_admin):
            assert client.get(path).status_code == client.post(path).status_code == 404


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if line.permission == SIGNED_IN])
def test_a_disabled_person_has_nothing_left_to_set(name, address):
    someone = make.user("someone")
    client = make.client(someone)
    User.objects.update(is_active=False)
    for method in ("GET", "POST"):
        answer = client.generic(method, address(name))
        assert answer.status_code == 302
        assert answer.url.startswith(reverse("account_login"))


ASKING = {each.name for each in of_the_panel() if getattr(each.callback, "asks_again", False)}


def test_what_reaches_far_asks_again_who_it_is():
    assert ASK_AGAIN <= ASKING


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", sorted(ASKING))
def test_after_a_quarter_of_an_hour_it_asks_who_it_is_and_does_nothing(name, method, address, admin):
    if method not in TABLE[name].methods:
        return
    page = address(name)
    events = Event.objects.count()
    answer = make.client(admin, minutes_ago=16).generic(method, page)
    assert answer.status_code == 302
    assert answer.url.startswith(reverse("account_reauthenticate") + "?next=")
    by_htmx = make.client(admin, minutes_ago=16).generic(method, page, headers={"HX-Request": "true"})
    assert by_htmx.headers["HX-Redirect"].startswith(reverse("account_reauthenticate"))
    assert Event.objects.count() == events


def test_a_view_that_declares_no_right_is_refused(admin):
    request = RequestFactory().get("/")
    request.user = admin
    gate = RequireDeclaredPermission(lambda request: HttpResponse())
    with pytest.raises(PermissionDenied):
        gate.process_view(request, lambda request: HttpResponse("secret"))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("who", CAST)
@pytest.mark.parametrize("name", TABLE)
def test_it_lets_in_whom_the_table_says(name, who, method, address):
    role = CAST[who]
    client = Client(raise_request_exception=False) if role is None else make.client(with_password("someone", role))
    answer = client.generic(method, address(name))
    line = TABLE[name]
    permission = STRICTER.get((name, method), line.permission)
    if role is None:
        assert answer.status_code == 302
        assert answer.url.startswith(reverse("account_login"))
    elif line.permission not in {SIGNED_IN, *PERMISSIONS.get(role, ())}:
        assert answer.status_code == 403
    elif method not in line.methods:
        assert answer.status_code == 405
    elif permission not in {SIGNED_IN, *PERMISSIONS.get(role, ())}:
        assert answer.status_code == 403
    else:
        assert answer.status_code not in {401, 403, 405, 500}
        assert not answer.headers.get("Location", "").startswith(reverse("account_login"))


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if "POST" in line.methods and name != "home"])
def test_it_needs_the_csrf_token(name, admin, address):
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    answer = client.post(address(name))
    assert answer.status_code == 403
    assert b"permission to" not in answer.content


# Forms that offer what there is, forms that keep a question in the session, and pages of one revision beside another. However many rows, these do not grow.
MORE_QUERIES = {
    "mfa_activate_totp": 7,
    "mfa_add_webauthn": 7,
    "team-share": 7,
    "permission-index": 8,
    "host-index": 6,
    "machine-new": 9,
    "revision-index": 6,
    "revision-detail": 8,
    "preset-roll-out": 6,
}


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if "GET" in line.methods])
def test_a_page_costs_five_queries_at_most(name, as_admin, address, django_assert_max_num_queries):
    page = address(name)
    if as_admin.get(page).status_code == 403:
        return  # no page: a refusal, which is written down
    with django_assert_max_num_queries(MORE_QUERIES.get(name, 5)):
        as_admin.get(page)


@pytest.mark.parametrize("path", ["/machines/", "/machines/new/", "/jobs/"])
def test_no_cache_keeps_a_page_of_a_signed_in_person(as_admin, path):
    assert as_admin.get(path).headers["Cache-Control"] == "private, no-store"
