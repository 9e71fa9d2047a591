"""The history only grows, and whoever changes it all the same, by SQL, is named."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from nacl.signing import SigningKey

from machines import audit_triggers
from machines.models import Event, EventHead, EventSeal
from machines.panel.audit import entries, origin, retention, seals, verify
from machines.panel.courier.key_ring import load_key

KEY = SigningKey.generate()


@pytest.fixture
def history(alpha) -> list[Event]:
    """Twenty entries."""
    return [
        entries.record("test", f"act {n}", by="ada", host=alpha, object_kind="machine", object_name=f"m{n}")
        for n in range(1, 21)
    ]


@pytest.fixture
def notary(history, tmp_path: Path) -> seals.Notary:
    """The courier, which has noted and sealed the twenty."""
    made = seals.Notary(lambda: KEY, tmp_path / "history")
    made.look(timezone.now())
    return made


def faults(*marks: verify.Mark, key: SigningKey = KEY) -> list[str]:
    return verify.verify(key.verify_key, marks).faults


def by_sql(statement: str, *values: Any) -> None:
    """As somebody does who owns the database: past the triggers, which are put back."""
    with connection.cursor() as cursor:
        for each in audit_triggers.drop(connection):
            cursor.execute(each)
        cursor.execute(statement, values)
    audit_triggers.create(connection)


def rewritten(pk: int, **columns: Any) -> None:
    """An entry with other words and the hash that fits them, as a forger does who knows how."""
    forged = Event.objects.get(pk=pk)
    for column, value in columns.items():
        setattr(forged, column, value)
    by_sql("UPDATE machines_event SET text = %s, previous = %s, hash = %s WHERE id = %s",
           forged.text, forged.previous, forged.expected_hash(), pk)  # fmt: skip


def rewritten_from(pk: int, text: str) -> None:
    """The whole history from there on, head and all, so that it is a chain again."""
    rewritten(pk, text=text)
    for each in Event.objects.filter(pk__gt=pk).order_by("pk"):
        rewritten(each.pk, previous=Event.objects.get(pk=each.pk - 1).hash)
    EventHead.objects.update(hash=Event.objects.first().hash)


def test_a_history_that_nobody_touched_is_whole(notary):
    verdict = verify.verify(KEY.verify_key)
    assert (verdict.is_whole, verdict.count, verdict.first, verdict.last, verdict.seals) == (True, 20, 1, 20, 1)


def test_an_entry_says_where_it_came_from(alpha):
    with origin.of(origin.Origin("192.0.2.7", "backup")):
        written = entries.record("test", "x", by="ada", on=alpha)
    assert (written.address, written.token, written.host_name) == ("192.0.2.7", "backup", "alpha")
    assert entries.record("test", "y").address == ""


def test_what_no_database_takes_is_written_as_what_it_takes(alpha):
    entries.record("test", "a\0b" + "x" * 9000, by="ada\0", host=alpha)
    assert Event.objects.get().text.startswith("a�b")
    assert faults() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE machines_event SET text = 'x' WHERE id = 7",
        "DELETE FROM machines_event WHERE id = 7",
        "DELETE FROM machines_event",
    ],
)
def test_the_database_refuses(history, statement):
    with pytest.raises(DatabaseError, match="only grows"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert Event.objects.count() == 20


def test_the_panel_s_own_code_cannot_either(history):
    history[3].text = "other"
    with pytest.raises(TypeError):
        history[3].save()
    with pytest.raises(DatabaseError), transaction.atomic():
        Event.objects.filter(pk=4).update(text="other")
    with pytest.raises(DatabaseError), transaction.atomic():
        history[3].delete()
    assert faults() == []


def test_a_host_that_is_removed_leaves_its_history(history, alpha):
    alpha.delete()
    assert {event.host_name for event in Event.objects.select_related("host")} == {"alpha"}
    assert faults() == []


CHANGES: dict[str, tuple[Callable[[], None], str]] = {
    "a word": (lambda: by_sql("UPDATE machines_event SET text = 'other' WHERE id = 7"), "Entry 7 was changed."),
    "who it was": (lambda: by_sql("UPDATE machines_event SET actor_name = 'bob' WHERE id = 7"), "Entry 7 was changed."),
    "when it was": (lambda: by_sql("UPDATE machines_event SET at = %s WHERE id = 7", timezone.now() - timedelta(days=1)),
                    "Entry 7 was changed."),
    "with the hash that fits": (lambda: rewritten(7, text="other"), "Entry 8 does not follow entry 7: one of them was replaced."),
    "deleted": (lambda: by_sql("DELETE FROM machines_event WHERE id = 7"), "Entry 7 is missing."),
    "several deleted": (lambda: by_sql("DELETE FROM machines_event WHERE id IN (7, 8, 9)"), "Entries 7 to 9 are missing."),
    "the first deleted": (lambda: by_sql("DELETE FROM machines_event WHERE id = 1"), "Entry 1 is missing."),
    "the newest cut off": (lambda: by_sql("DELETE FROM machines_event WHERE id > 18"),
                           "Entries 19 to 20 are missing: the history had 20."),
    "two exchanged": (lambda: by_sql("UPDATE machines_event SET id = CASE id WHEN 7 THEN 1008 WHEN 8 THEN 1007 END WHERE id IN (7, 8)"),
                      "Entries 7 to 8 are missing."),
    "rewritten from there on": (lambda: rewritten_from(7, "other"), "Entry 20 is not the one that was sealed"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_it_names_the_entry(notary, change):
    do, named = CHANGES[change]
    do()
    assert any(fault.startswith(named) for fault in faults()), faults()


def test_one_that_was_put_in_behind_the_head_is_named(notary):
    Event.objects.bulk_create([Event(pk=30, kind="test", text="never happened")])
    assert faults() == ["Entry 30 was not appended as entries are: the head does not know of it."]


def test_two_that_were_exchanged_are_both_named(notary):
    first, second = Event.objects.get(pk=7), Event.objects.get(pk=8)
    for pk, other in ((7, second), (8, first)):
        by_sql("UPDATE machines_event SET text = %s, object_name = %s, hash = %s, previous = %s WHERE id = %s",
               other.text, other.object_name, other.hash, other.previous, pk)  # fmt: skip
    assert faults()[:2] == ["Entry 7 was changed.", "Entry 8 was changed."]


def test_the_newest_cut_off_with_the_head_put_back_is_named_by_its_seal(notary):
    by_sql("DELETE FROM machines_event WHERE id > 18")
    EventHead.objects.update(number=18, hash=Event.objects.first().hash)
    assert faults()[0].startswith("Entries 19 to 20 are missing: entry 20 was sealed")


def test_the_same_without_the_seals_is_named_by_the_courier_s_file(notary, tmp_path):
    by_sql("DELETE FROM machines_event WHERE id > 18")
    EventHead.objects.update(number=18, hash=Event.objects.first().hash)
    EventSeal.objects.all().delete()
    mark = verify.read_mark(tmp_path / "history")
    assert mark
    assert faults() == []
    assert faults(mark) == ["Entries 19 to 20 are missing: entry 20 was noted by the courier in its own file."]


def test_the_courier_itself_says_that_something_was_cut_off(notary):
    by_sql("DELETE FROM machines_event WHERE id > 18")
    EventHead.objects.update(number=18, hash=Event.objects.first().hash)
    notary.look(timezone.now())
    damage = Event.objects.first()
    assert (damage.kind, damage.tone) == ("history-damaged", "danger")
    assert "entry 20 is missing (the newest was 18)" in damage.text
    notary.look(timezone.now())
    assert Event.objects.filter(kind="history-damaged").count() == 1


def test_a_courier_that_starts_again_goes_on_from_its_file(notary, tmp_path):
    rewritten_from(12, "other")
    seals.Notary(lambda: KEY, tmp_path / "history").look(timezone.now())
    assert "entry 20, or one before it, is another one" in Event.objects.get(kind="history-damaged").text


def test_a_seal_of_somebody_else_is_named(notary):
    EventSeal.objects.update(signature=seals.chain.sign_head(20, Event.objects.first().hash, SigningKey.generate()))
    assert faults() == ["The seal of entry 20 is not the courier's."]
    assert verify.verify(None).faults == []
    assert not verify.verify(None).is_signed


def test_triggers_that_are_gone_are_named(history):
    with connection.cursor() as cursor:
        for each in audit_triggers.drop(connection):
            cursor.execute(each)
    assert len(faults()) == 2
    audit_triggers.create(connection)
    assert faults() == []


def test_what_is_rolled_back_leaves_no_hole(history):
    with transaction.atomic():
        entries.record("test", "never")
        transaction.set_rollback(True)
    assert entries.record("test", "then").pk == 21
    assert faults() == []


def test_what_is_old_goes_and_the_rest_stays_whole(notary, settings):
    settings.AUDIT_DAYS = 30
    EventSeal.objects.update(at=timezone.now() - timedelta(days=31))
    for n in range(5):
        entries.record("test", f"later {n}")
    assert retention.forget_old(timezone.now()) == 19
    verdict = verify.verify(KEY.verify_key)
    assert (verdict.faults, verdict.first, verdict.last, verdict.count) == ([], 20, 25, 6)
    by_sql("DELETE FROM machines_event WHERE id = 20")
    assert faults()[0] == "Entry 20 is missing."


def test_what_is_young_stays(notary, settings):
    settings.AUDIT_DAYS = 30
    assert retention.forget_old(timezone.now()) == 0
    assert Event.objects.count() == 20


def test_the_command_says_that_it_is_whole(history, settings, tmp_path, capsys):
    settings.SIGNING_KEY_FILE = str(tmp_path / "signing-key")
    seals.Notary(lambda: load_key(tmp_path / "signing-key"), tmp_path / "history").look(timezone.now())
    call_command("verify_audit")
    assert "The history is whole: 20 entries (1 to 20), 1 seals (signatures checked)." in capsys.readouterr().out


def test_the_command_ends_with_a_fault_and_names_it(notary, settings, tmp_path, capsys):
    settings.SIGNING_KEY_FILE = str(tmp_path / "none")
    by_sql("DELETE FROM machines_event WHERE id = 7")
    with pytest.raises(CommandError, match="The history is damaged: 1 faults"):
        call_command("verify_audit")
    assert "Entry 7 is missing." in capsys.readouterr().out
