"""What happens to a machine is written by the machine itself."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import models

from machines.contract import orders
from machines.models import Machine, Revision
from machines.models.machine import BUILDING_RANK, rank_of
from tests import make

NOW = datetime(2026, 5, 1, tzinfo=UTC)
IDENTITY = {"id", "host", "name"}
# What the next report of its host writes anew, and what belongs to the name and not to the image
STAYS = {"unit", "memory_bytes", "cpu_ns", "tasks", "effective", "unit_command"}


def something_in(field: "models.Field[Any, Any]") -> Any:
    """A value that is not the column's first one."""
    if isinstance(field, models.CharField | models.TextField):
        return "failed" if field.name == "state" else "x"
    if isinstance(field, models.JSONField):
        return ["x"] if field.default is list else {"x": 1}
    if isinstance(field, models.BooleanField):
        return True
    return NOW if isinstance(field, models.DateTimeField) else 7


@pytest.fixture
def used(web, admin) -> Machine:
    """A machine with something in each of its columns."""
    revision = Revision.objects.create(machine=web, number=1, state="applied")
    columns = {
        f.name: something_in(f)
        for f in Machine._meta.fields
        if f.name not in {*IDENTITY, "applied", "built_by", "team"}
    }
    job = make.job(make.build_order(), on=web.host, by=admin, state="succeeded")
    Machine.objects.filter(pk=web.pk).update(**columns, applied=revision, built_by=job)
    return Machine.objects.get(pk=web.pk)


def columns_of(machine: Machine) -> dict[str, Any]:
    return {f.attname: getattr(machine, f.attname) for f in Machine._meta.fields if f.name not in IDENTITY}


def test_one_that_is_forgotten_is_as_if_it_had_never_been_built(used):
    used.forget()
    row, fresh = columns_of(Machine.objects.get(pk=used.pk)), columns_of(Machine(state="missing", rank=1))
    differs = {name for name, value in row.items() if value != fresh[name]}
    assert differs == {"removed_at", "changed_at", "former_team"}
    assert row == columns_of(used)


def test_one_that_is_built_again_begins_anew_on_top_of_the_list(used):
    used.former_team = used.team_id
    used.begin_build(used.team_id)
    row, fresh = columns_of(Machine.objects.get(pk=used.pk)), columns_of(Machine(state="missing", rank=BUILDING_RANK))
    assert {name for name, value in row.items() if value != fresh[name]} == {
        "changed_at",
        "team_id",
        "preset_words",
        *STAYS,
    }
    assert row["removed_at"] is None


def test_one_that_is_built_again_for_others_has_nothing_at_all_of_the_former(used):
    used.begin_build(None)
    row, fresh = columns_of(Machine.objects.get(pk=used.pk)), columns_of(Machine(state="missing", rank=BUILDING_RANK))
    assert {name for name, value in row.items() if value != fresh[name]} == {"changed_at"}
    assert row == columns_of(used)
    assert not used.revisions.exists()


def test_one_that_is_forgotten_twice_is_kept_for_whose_it_was(web):
    ops = web.team_id
    web.forget()
    web.forget()
    assert (web.team_id, web.kept_for) == (None, ops)


def test_one_that_is_built_while_it_is_listed_keeps_what_is_known_of_it(web):
    Machine.objects.filter(pk=web.pk).update(os="Debian", image_id="x")
    machine = Machine.objects.get(pk=web.pk)
    machine.begin_build(None)
    machine.refresh_from_db()
    assert (machine.os, machine.image_id, machine.rank) == ("Debian", "x", BUILDING_RANK)


def test_one_that_is_missing_keeps_what_was_applied_and_nothing_of_its_image(used):
    Machine.objects.filter(pk=used.pk).mark_missing()
    row = Machine.objects.get(pk=used.pk)
    assert (row.state, row.rank, row.applied_id) == ("missing", rank_of("missing"), used.applied_id)
    assert (row.image_id, row.addresses, row.activity, row.drifted, row.mismatches) == ("", [], {}, False, 0)


def test_a_person_hides_only_one_that_is_missing(web):
    web.hide()
    assert Machine.objects.listed().exists()
    Machine.objects.filter().mark_missing()
    web.hide()
    assert not Machine.objects.listed().exists()


def test_what_is_written_of_one_row_is_not_written_into_the_next(used, alpha):
    other = make.machine("other", on=alpha)
    used.forget()
    used.addresses.append("10.0.0.1")
    other.forget()
    assert other.addresses == []


def test_the_next_number_is_above_those_of_all_the_other_revisions(web):
    draft = Revision.objects.create(machine=web, state="draft")
    assert draft.next_number() == 1
    Revision.objects.create(machine=web, number=4, state="applied")
    assert draft.next_number() == Revision(machine=web).next_number() == 5
    draft.begin_apply()
    assert (draft.number, draft.next_number()) == (5, 5)


def test_a_revision_that_was_not_written_is_a_draft_again_and_its_number_is_free(web):
    draft = Revision.objects.create(machine=web, state="draft")
    assert isinstance(draft.begin_apply(), orders.Configuration)
    draft.mark_draft()
    draft.refresh_from_db()
    assert (draft.number, draft.state) == (None, "draft")
