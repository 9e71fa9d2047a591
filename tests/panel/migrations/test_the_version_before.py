"""A panel of the version before is put in place of this one: nothing is lost, nothing is told in old words, every page opens."""

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import Exists, JSONField, OuterRef
from django.test import Client
from django.urls import reverse

from machines import audit_triggers
from machines.contract import limit_test, orders, reports
from machines.contract.configuration import findings
from machines.models import (
    Archive,
    Event,
    EventHead,
    Host,
    HostShare,
    Job,
    JobGroup,
    Machine,
    Membership,
    ObservedFiles,
    Preset,
    Recipe,
    RecipeVersion,
    Revision,
    Team,
    User,
)
from machines.panel.audit import verify
from machines.panel.orders.operations import ACTIONS
from tests.panel.migrations import older
from tests.panel.test_access import TABLE, parts_of

STANDARD = importlib.import_module("machines.migrations.0022_standard_words")
OLD_WORDS = {*STANDARD.OPERATIONS, *STANDARD.EVENTS, *STANDARD.CODES, *STANDARD.KEYS}
# No courier ran since; nobody had a second factor or a listed session, nobody and no host was invited by a link.
NOT_IN_IT = {
    "machines_eventseal",
    "machines_refusalcount",
    "machines_receipt",
    "mfa_authenticator",
    "usersessions_usersession",
    "machines_invitation",
    "machines_apitoken",
    "machines_apitoken_hosts",
    "machines_apitoken_teams",
    "socialaccount_socialaccount",
    "socialaccount_socialapp",
    "socialaccount_socialtoken",
    "machines_enrolment",
    "machines_panelkey",
}
TELLING = {"op", "kind", "code"}
# All that version could order, by the words of today.
ORDERED_THEN = {
    "start", "poweroff", "reboot", "terminate", "enable", "disable", "apply", "remove_dropins", "build", "build_base",
    "remove_base", "export", "set_read_only", "pool", "remove", "diagnose", "fix", "limit_test",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def migrated(django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with django_db_blocker.unblock(), older.database(tmp_path_factory.mktemp("before")) as there:
        older.migrate(there)
        yield


@pytest.fixture
def somebody() -> Client:
    signed_in = Client()
    signed_in.force_login(User.objects.get(username="admin"))
    return signed_in


def test_no_table_is_empty():
    with connection.cursor() as cursor:
        for table in {*connection.introspection.table_names(cursor)} - NOT_IN_IT:
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchone()[0], table


def test_its_history_is_a_chain_from_the_first_entry_on():
    audit_triggers.create(connection)  # as post_migrate does
    assert Event.objects.count() == EventHead.objects.get().number
    assert verify.verify().faults == []


def test_what_was_told_and_ordered_is_understood():
    assert {job.op for job in Job.objects.all()} == ORDERED_THEN
    for job in Job.objects.all():
        assert orders.from_wire(job.order).op == job.op
    for version in RecipeVersion.objects.all():
        assert version.content.kind
    for host in Host.objects.all():
        reports.HostFact.model_validate(host.facts)
    for found in ObservedFiles.objects.all():
        for each in found.told:
            reports.ObservedFile.model_validate(each)
    for machine in Machine.objects.all():
        reports.Activity.model_validate(machine.activity)


def test_results_are_understood():
    examined = list(Job.objects.filter(op="diagnose", state="succeeded"))
    assert all(findings.from_wire(job.result["findings"]) for job in examined)
    proved = list(Job.objects.filter(op="limit_test", state="succeeded"))
    assert all(limit_test.from_wire(job.result).measurements for job in proved)
    assert examined
    assert proved


def words(data: Any) -> Iterator[str]:
    """Every key in it, and every value of one that says of what kind something is."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from [value] if key in TELLING and isinstance(value, str) else words(value)
    elif isinstance(data, list):
        for each in data:
            yield from words(each)


def test_nothing_is_said_in_the_old_words():
    said = {word for model in apps.get_app_config("machines").get_models() for word in _said_in(model)}
    assert said & {"build_base", "can_fix"}, "this looks where such words stand"
    assert not said & OLD_WORDS
    rules = {rule for host in Host.objects.all() for rule in host.facts.get("policy", {})}
    assert set(STANDARD.RULES.values()) <= rules
    assert not set(STANDARD.RULES) & rules


def _said_in(model: Any) -> Iterator[str]:
    documents = [field.name for field in model._meta.get_fields() if isinstance(field, JSONField)]
    columns = [name for name in TELLING if name in _names(model)]
    for row in model._default_manager.values(*documents, *columns):
        yield from (row[name] for name in columns)
        for name in documents:
            yield from words(row[name])


def _names(model: Any) -> set[str]:
    return {field.name for field in model._meta.get_fields()}


def unlike(things: Iterable[Any], *kind: str) -> list[Any]:
    """One for each kind of them, which these attributes tell."""
    return list({tuple(getattr(each, name) for name in kind): each for each in things}.values())


def machines() -> list[Machine]:
    found = Exists(ObservedFiles.objects.filter(machine=OuterRef("pk")))
    draft = Exists(Revision.objects.filter(machine=OuterRef("pk"), state=Revision.State.DRAFT))
    listed = Machine.objects.listed().select_related("host").annotate(has_found=found, has_draft=draft)
    return unlike(listed, "state", "drifted", "has_found", "has_draft")


def jobs(name: str) -> list[Job]:
    return unlike(Job.objects.all(), *(("op", "state") if name == "job-detail" else ("state",)))


def arguments(name: str) -> list[dict[str, Any]]:
    """What the parts of an address may be: of all things there are, one of each kind."""
    match sorted(parts_of(name)):
        case []:
            return [{}]
        case ["host"]:
            return [{"host": host.name} for host in Host.objects.all()]
        case ["base", "host"]:
            return [
                {"host": h.name, "base": base["id"]} for h in Host.objects.all() for base in h.facts.get("bases", [])
            ]
        case ["host", "name"]:
            return [{"host": machine.host.name, "name": machine.name} for machine in machines()]
        case ["host", "name", "op"]:
            return [{"host": m.host.name, "name": m.name, "op": op} for m in machines()[:1] for op in ACTIONS]
        case ["host", "name", "number"]:
            numbered = Revision.objects.exclude(number=None).select_related("machine__host")
            return [{"host": r.machine.host.name, "name": r.machine.name, "number": r.number} for r in numbered]
        case ["number", "pk"]:
            return [{"pk": version.recipe_id, "number": version.number} for version in RecipeVersion.objects.all()]
        case ["team"]:
            return [{"team": team.slug} for team in Team.objects.all()]
        case ["pk", "team"]:
            return [{"team": each.team.slug, "pk": each.pk} for each in Membership.objects.select_related("team")]
        case ["host", "team"]:
            shares = HostShare.objects.select_related("host", "team")
            return [{"team": share.team.slug, "host": share.host.name} for share in shares]
        case ["archive"]:
            return [{"archive": archive.pk} for archive in Archive.objects.all()]
    rows = {"recipe": Recipe.objects.all(), "preset": Preset.objects.all(), "person": User.objects.all()}.get(
        name.split("-", maxsplit=1)[0], jobs(name)
    )
    return [{"pk": row.pk} for row in (JobGroup.objects.all() if name == "job-group" else rows)]


# Not for everything of their kind: what is not asked before, a host that has its pool.
MAY_BE_MISSING = {"machine-confirm", "host-pool"}
STREAMS = {"job-log-stream"}  # a person may hold few of them
FILES = {"archive-content"}  # which no database has
# Of things that nobody had then: a second factor, (in this copy) a password, and a host that is being enrolled.
NOBODY_S = {
    "enrolment-detail",
    "account_reauthenticate", "mfa_reauthenticate", "mfa_reauthenticate_webauthn", "mfa_deactivate_totp", "mfa_edit_webauthn",
    "mfa_remove_webauthn", "mfa_view_recovery_codes", "mfa_download_recovery_codes",
}  # fmt: skip
PAGES = [name for name, line in TABLE.items() if "GET" in line.methods and name not in FILES | NOBODY_S]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens(somebody, name):
    answers = {}
    for given in arguments(name)[: 1 if name in STREAMS else None]:
        address = reverse(name, kwargs=given)
        with contextlib.closing(somebody.get(address)) as answer:
            answers[address] = answer.status_code
    bad = {address: status for address, status in answers.items() if status not in {200, 302}}
    assert answers
    assert not bad or (name in MAY_BE_MISSING and set(bad.values()) == {404} and len(bad) < len(answers))
