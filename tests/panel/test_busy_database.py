"""Somebody else writes for too long: who waits is told so in a sentence, nothing of the change is done, and it can be sent again."""

import threading
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connection, connections, transaction

from machines.contract.permissions import Role
from machines.models import Job, Machine, User
from machines.panel.web import server_errors
from tests import make

START = "/hosts/alpha/machines/web/start/"
BUSY = "the database was locked by other changes for too long"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ada(transactional_db) -> User:
    make.machine("web", on=make.host("alpha"))
    return make.user("ada", Role.ADMINISTRATOR, password="correct horse battery")


@contextmanager
def held():
    """Another transaction holds what every order needs, and whoever waits for it does so for a moment only."""
    has_it, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("LOCK TABLE machines_job, machines_user IN SHARE ROW EXCLUSIVE MODE")
            else:
                Machine.objects.update(rank=1)
            has_it.set()
            is_over.wait(30)
        connections.close_all()

    other = threading.Thread(target=hold)
    other.start()
    assert has_it.wait(10)
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'" if connection.vendor == "postgresql" else "PRAGMA busy_timeout = 50")
    try:
        yield
    finally:
        is_over.set()
        other.join()
        with connection.cursor() as cursor:
            cursor.execute(
                "SET lock_timeout = '10s'" if connection.vendor == "postgresql" else "PRAGMA busy_timeout = 10000"
            )


def quiet(client):
    client.raise_request_exception = False
    return client


def test_who_waited_too_long_is_told_so_and_nothing_is_half_done(ada, client):
    person = quiet(make.client(ada))
    with held():
        order = person.post(START, {}, headers={"Referer": "http://testserver/machines/?q=web"})
        part = person.post(START, headers={"HX-Request": "true"})
        astray = [
            person.post(START, headers={"Referer": each}).content.decode()
            for each in ("https://elsewhere.example/x", "http://testserver.evil.example/", "x")
        ]
        entering = quiet(client).post("/accounts/login/", {"login": "ada", "password": "correct horse battery"})
    page = order.content.decode()
    assert (order.status_code, order.headers["Retry-After"], BUSY in page) == (503, "2", True)
    assert 'href="/machines/?q=web" data-interrupted' in page, "and what was typed comes back there"
    assert all('href="/" data-interrupted' in each for each in astray), "to none but our pages"
    assert (part.status_code, BUSY in part.headers["HX-Trigger"]) == (503, True)
    assert "<" not in part.content.decode()
    assert (entering.status_code, BUSY in entering.content.decode()) == (503, True)
    assert "correct horse" not in entering.content.decode()
    assert not Job.objects.exists()
    assert person.post(START).status_code == 302
    assert Job.objects.get().op == "start"


def test_only_the_database_s_own_word_counts():
    assert server_errors.is_for_want_of_a_lock(OperationalError("database is locked"))
    assert not server_errors.is_for_want_of_a_lock(OperationalError("no such table: x is not locked"))
    assert not server_errors.is_for_want_of_a_lock(ValueError("database is locked"))
    assert not server_errors.is_for_want_of_a_lock(None)


def test_an_order_and_the_note_that_belongs_to_it_are_written_together_or_not_at_all(ada, monkeypatch):
    monkeypatch.setattr(
        "machines.panel.orders.dispatch._note_unverified",
        lambda *_: (_ for _ in ()).throw(OperationalError("database is locked")),
    )
    assert quiet(make.client(ada)).post(START).status_code == 503
    assert not Job.objects.exists()
