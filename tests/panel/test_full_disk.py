"""The panel's own disk is full: a sentence, not an internal error; and what was there can still be read."""

import errno
from collections.abc import Iterator

import pytest
from django.contrib.sessions.models import Session
from django.db import DatabaseError, OperationalError, connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from machines.contract.permissions import Role
from machines.models import Event, Job, User
from machines.panel.web import server_errors
from machines.panel.web.server_errors import is_for_want_of_space
from tests import make

START = "/hosts/alpha/machines/web/start/"
SENTENCE = "The panel&#x27;s disk is full, so nothing was saved."


@pytest.fixture
def ada(transactional_db) -> User:
    make.machine("web", on=make.host("alpha"))
    return make.user("ada", Role.ADMINISTRATOR, password="correct horse battery")


@pytest.fixture
def full(ada) -> Iterator[None]:
    """SQLite's own word on a file that may not grow, every table of this test without a free place."""
    if connection.vendor != "sqlite":
        pytest.skip("SQLite can be told how much there is")
    with connection.cursor() as cursor:
        before = cursor.execute("PRAGMA max_page_count").fetchone()[0]
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 50}")
    for fill in (_events, _sessions, _jobs):
        with pytest.raises(OperationalError, match="full"):
            fill()
    yield
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA max_page_count = {before}")


def _events() -> None:
    for _ in range(5000):
        Event.objects.create(kind="test", text="x" * 1500)


def _sessions() -> None:
    for number in range(5000):
        Session.objects.create(session_key=f"key{number}", session_data="x", expire_date=timezone.now())


def _jobs() -> None:
    host = make.Host.objects.get()
    for _ in range(5000):
        Job.objects.create(host=host, op="refresh", order={}, actor_name="ada", actor_role="viewer", state="succeeded")


def quiet(client):
    client.raise_request_exception = False
    return client


def test_a_sign_in_is_told_why_it_does_not_work(full, client):
    answer = quiet(client).post("/accounts/login/", {"login": "ada", "password": "correct horse battery"})
    assert answer.status_code == 507
    assert SENTENCE in answer.content.decode()
    assert "df -i" in answer.content.decode()


def test_an_order_is_told_so_and_pages_still_open(ada, request):
    client = quiet(make.client(ada))
    request.getfixturevalue("full")
    answer = client.post(START)
    assert answer.status_code == 507
    assert SENTENCE in answer.content.decode()
    assert client.get("/hosts/alpha/machines/web/").status_code == 200


def test_a_part_of_a_page_gets_it_as_a_note(ada, request):
    client = quiet(make.client(ada))
    request.getfixturevalue("full")
    answer = client.post(START, headers={"HX-Request": "true"})
    assert answer.status_code == 507
    assert "disk is full" in answer.headers["HX-Trigger"]


def test_a_file_that_does_not_fit_is_the_same():
    error = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("upload")
    wrapped.__cause__ = error
    assert is_for_want_of_space(wrapped)


def test_without_inodes_a_database_that_cannot_be_opened_is_a_full_disk(tmp_path, settings, monkeypatch):
    settings.DATA_DIR = tmp_path
    closed = OperationalError("unable to open database file")
    assert not is_for_want_of_space(closed)
    monkeypatch.setattr(server_errors, "_is_full", lambda folder: folder == tmp_path)
    assert is_for_want_of_space(closed)
    assert not is_for_want_of_space(KeyError("a mistake"))
    assert not is_for_want_of_space(None)


@pytest.mark.parametrize("method", ["get", "post"])
def test_nobody_need_be_known_to_be_told_so(ada, monkeypatch, method):
    """Not even the session can be read."""
    client = quiet(make.client(ada))

    def closed(*_args, **_kwargs):
        raise OperationalError("unable to open database file")

    with monkeypatch.context() as broken:
        broken.setattr(CursorWrapper, "execute", closed)
        broken.setattr(server_errors, "_is_full", lambda _: True)
        answer = getattr(client, method)(START)
    assert answer.status_code == 507
    assert SENTENCE in answer.content.decode()


def test_any_other_mistake_is_still_ours(ada, monkeypatch):
    def broken(*_args, **_kwargs):
        raise DatabaseError("no such column")

    monkeypatch.setattr("machines.panel.orders.dispatch.place", broken)
    answer = quiet(make.client(ada)).post(START)
    assert answer.status_code == 500
