"""A panel that was put back to an older copy of itself: nothing of its older line is ever done."""

import sqlite3
import time
from base64 import urlsafe_b64decode
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machines.contract import envelope, orders
from machines.contract.envelope import Actor, Envelope
from machines.host.reports import order_sequence

REMOVE = orders.Remove(name="m5")
T0 = time.time() - 10_000  # long enough ago for whatever a host heard then not to be heard by two couriers at once


@pytest.fixture
def books():
    db = sqlite3.connect(":memory:")
    db.execute("create table meta (key text primary key, value) without rowid")
    yield db
    db.close()


def letter(epoch: int, sequence: int, issued: float = T0) -> Envelope:
    return Envelope(
        host=uuid4(), generation=1, job=uuid4(), epoch=epoch, sequence=sequence, order=orders.to_wire(REMOVE),
        issued=issued, expires=issued + 60, actor=Actor(name="ada", role="administrator"),
    )  # fmt: skip


def heard_long_ago(db, epoch: int, sequence: int, issued: float = T0) -> None:
    assert order_sequence.hear(db, letter(epoch, sequence, issued))
    known = order_sequence._read(db)
    order_sequence._write(db, **{**known, "at": issued})


LETTERS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(-100, 100), st.booleans(), st.booleans()), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(LETTERS)
def test_no_order_of_an_older_line_has_an_effect_however_they_come(letters):
    """Shuffled, replayed, forked, of any clock: what is obeyed is after all that was obeyed before, and of a line that
    two panels wrote nothing more is."""
    db = sqlite3.connect(":memory:")
    db.execute("create table meta (key text primary key, value) without rowid")
    highest, latched = (0, 0), set()
    for epoch, told, late, reads_only, is_old in letters:
        sequence = told if epoch else 0  # a panel that knows no line
        obeyed = order_sequence.hear(db, letter(epoch, sequence, T0 + late), reads_only=reads_only)
        if obeyed and not reads_only and (epoch, highest) != (0, (0, 0)):
            assert (epoch, sequence) > highest
            assert epoch not in latched
        if obeyed and (not reads_only or epoch > highest[0]):
            highest = max(highest, (epoch, sequence))
        known = order_sequence.heard(db)
        assert (known.epoch, known.sequence) == highest, "what was refused or only read moves nothing on"
        if known.latched:
            latched.add(known.epoch)
        if is_old and highest[0]:
            order_sequence._write(db, **{**order_sequence._read(db), "at": T0})
    db.close()


def test_orders_in_their_order_are_obeyed(books):
    assert [order_sequence.hear(books, letter(1, number)) for number in (1, 2, 5)] == [True] * 3
    assert order_sequence.heard(books).sequence == 5


def test_an_order_that_comes_a_second_time_is_refused_and_is_no_second_panel(books):
    heard_long_ago(books, 1, 7)
    assert not order_sequence.hear(books, letter(1, 7, T0))
    assert not order_sequence.hear(books, letter(1, 3, T0 - 50))
    assert not order_sequence.heard(books).latched


def test_a_panel_that_went_on_from_an_older_copy_is_not_obeyed_even_when_it_has_caught_up(books):
    heard_long_ago(books, 1, 20)
    assert not order_sequence.hear(books, letter(1, 11, T0 + 3600))
    assert order_sequence.heard(books).latched
    assert not order_sequence.hear(books, letter(1, 21, T0 + 3700))
    assert not order_sequence.hear(books, letter(1, 999, T0 + 3800))
    assert order_sequence.hear(books, letter(2, 1, T0 + 3900)), "a person has confirmed"
    assert not order_sequence.heard(books).latched
    assert not order_sequence.hear(books, letter(1, 1000, T0 + 4000)), "the line from before is over"


def test_couriers_side_by_side_are_no_second_panel(books):
    """The second order overtook the first by milliseconds; the clock of the first one's courier is 30 s ahead."""
    now = time.time()
    assert order_sequence.hear(books, letter(1, 6, now))
    assert not order_sequence.hear(books, letter(1, 5, now + 30))
    assert not order_sequence.heard(books).latched
    assert order_sequence.hear(books, letter(1, 7, now))


def test_a_question_for_reports_is_answered_and_catches_up_with_nothing(books):
    heard_long_ago(books, 1, 20)
    assert order_sequence.hear(books, letter(1, 10, T0 + 500), reads_only=True)
    assert order_sequence.hear(books, letter(1, 30, T0 + 500), reads_only=True)
    assert (order_sequence.heard(books).sequence, order_sequence.heard(books).latched) == (20, False)


def test_a_panel_that_knows_no_line_is_obeyed_until_one_was_heard(books):
    assert order_sequence.hear(books, letter(0, 0))
    assert order_sequence.hear(books, letter(0, 0))
    assert order_sequence.hear(books, letter(1, 1))
    assert not order_sequence.hear(books, letter(0, 0)), "a copy from before the panel knew"


def test_a_host_that_knows_no_line_gets_an_order_without_a_place(sealed_text):
    assert b"epoch" not in sealed_text(0, 0)
    assert b'"epoch":3' in sealed_text(3, 9)


@pytest.fixture
def sealed_text(panel_key):
    return lambda epoch, sequence: urlsafe_b64decode(envelope.seal(letter(epoch, sequence), panel_key).split(".")[2])
