"""The audit log as people read it: filtered, linked, taken along as a file, and verified by a click."""

import csv
import json
from datetime import timedelta
from io import StringIO

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from machines.contract import chain, orders
from machines.models import Event
from machines.panel.audit import entries, origin, seals
from machines.panel.pages import event_list
from tests import make
from tests.panel.audit.test_chain import KEY, by_sql

pytestmark = pytest.mark.django_db


@pytest.fixture
def log(alpha, web, admin) -> None:
    job = make.job(orders.Start(name="web"), on=alpha, by=admin)
    with origin.of(origin.Origin("192.0.2.7")):
        entries.record("host-released", "ada released alpha from quarantine.", by=admin, on=alpha)
    entries.record("drift-ignored", "ada ignored web.", by="ada", on=job)
    entries.record(
        "drift-ignored", "bob ignored gone.", by="bob", host=alpha, object_kind="machine", object_name="gone"
    )
    with origin.of(origin.Origin("2001:db8::5", "backup")):
        entries.record(
            "archive-removed", "=1+1", by="bob", object_kind="archive", object_name="@web.tar", result="refused"
        )


def shown(client, **query) -> list[int]:
    return [event.pk for event in client.get("/events/", query).context["page"].events]


@pytest.mark.parametrize(
    ("asked", "found"),
    [("", [4, 3, 2, 1]), ("who:ada", [2, 1]), ("who:bob on:gone", [3]), ("who:ada who:bob", [4, 3, 2, 1]), ("on:WEB", [2]),
     ("host:alpha", [3, 2, 1]), ("kind:drift-ignored", [3, 2]), ("result:refused", [4]), ("address:192.0.2.7", [1]),
     ("token:backup", [4]), ("ignored who:bob", [3]), ("job:{job}", [2]), ("job:999999", []), ("job:x", []),
     ("since:{today}", [4, 3, 2, 1]), ("until:{today}", [4, 3, 2, 1]), ("since:{tomorrow}", []), ("until:{yesterday}", []),
     ("since:nonsense", []), ("since:0001-01-01", []), ("until:9999-12-31", []), ("job:99999999999999999999", [])],
)  # fmt: skip
def test_it_is_filtered_by_what_stands_in_the_address(as_admin, log, asked, found):
    today = timezone.localdate()
    days = {"today": today, "tomorrow": today + timedelta(days=1), "yesterday": today - timedelta(days=1)}
    assert shown(as_admin, q=asked.format(job=Event.objects.get(pk=2).job_id, **days)) == found


def test_what_a_term_does_not_understand_is_said(as_admin, log):
    page = as_admin.get("/events/", {"q": "since:<b>"}).content.decode()
    assert "Not understood: <code>since:&lt;b&gt;</code>" in page


def test_who_from_where_and_on_what_is_shown(as_admin, log):
    page = as_admin.get("/events/").content.decode()
    assert '<a href="/hosts/alpha/machines/web/">web</a>' in page
    assert "/machines/gone/" not in page
    assert '<a href="/hosts/alpha/">alpha</a>' in page
    assert f'href="/jobs/{Event.objects.get(pk=2).job_id}/"' in page
    for word in ("192.0.2.7", "token backup", '<span class="tag tag-warning">refused</span>'):
        assert word in page


def test_what_is_gone_is_named_without_a_link(as_admin, log, alpha):
    Event.objects.get(pk=2).job.delete()
    alpha.delete()
    page = as_admin.get("/events/").content.decode()
    assert "ada ignored web." in page
    assert 'href="/hosts/alpha/' not in page
    assert 'href="/jobs/1' not in page


def test_a_person_reads_what_is_of_their_teams_and_counts_nothing_else(as_viewer, log):
    assert shown(as_viewer) == [2]
    page = as_viewer.get("/events/").content.decode()
    assert "Entries 1 to" not in page
    assert [json.loads(line)["id"] for line in text_of(as_viewer.get("/events/export.jsonl")).splitlines()] == [2]


def text_of(response) -> str:
    async def read() -> bytes:
        return b"".join([piece async for piece in response.streaming_content])

    return async_to_sync(read)().decode()


def test_it_is_taken_along_as_csv_and_no_cell_is_a_formula(as_admin, log):
    response = as_admin.get("/events/export.csv", {"q": "who:bob"})
    assert response.headers["Content-Disposition"].startswith('attachment; filename="audit-')
    rows = list(csv.DictReader(StringIO(text_of(response))))
    assert [row["id"] for row in rows] == ["4", "3"]
    assert (rows[0]["text"], rows[0]["object_name"]) == ("'=1+1", "'@web.tar")
    assert (rows[0]["address"], rows[0]["token"], rows[0]["result"]) == ("2001:db8::5", "backup", "refused")


def test_it_is_taken_along_as_json_lines_which_are_still_a_chain(as_admin, log):
    lines = [json.loads(line) for line in text_of(as_admin.get("/events/export.jsonl")).splitlines()]
    assert [line["id"] for line in lines] == [4, 3, 2, 1]
    previous = ""
    for line in reversed(lines):
        told, own = {key: value for key, value in line.items() if key not in {"previous", "hash"}}, line["hash"]
        assert chain.link(previous, told) == own
        previous = own


def test_a_file_ends_where_it_is_long_enough_and_says_so(log, admin, monkeypatch):
    for limit, count in ((3, 3), (4, 4), (5, 4)):
        monkeypatch.setattr(event_list, "EXPORTED", limit)
        lines = "".join(event_list.export(event_list.EventQuery(), "jsonl", admin)).splitlines()
        cut = [line for line in lines if "Cut off after" in line]
        assert (len(lines) - len(cut), bool(cut)) == (count, limit < 4), limit


def test_an_administrator_verifies_it_by_a_click(as_admin, as_viewer, log, tmp_path):
    assert "Not signed by the courier yet" in as_admin.get("/events/").content.decode()
    seals.Notary(lambda: KEY).look(timezone.now())
    assert "Signed by the courier up to entry 4" in as_admin.get("/events/").content.decode()
    assert "Verified: entries 1 to 4 are as they were written" in as_admin.post("/events/verify/").content.decode()
    assert "Verify" not in as_viewer.get("/events/").content.decode()
    assert as_viewer.post("/events/verify/").status_code == 403
    by_sql("UPDATE machines_event SET text = 'other' WHERE id = 2")
    page = as_admin.post("/events/verify/").content.decode()
    assert "The history is damaged." in page
    assert "<li>Entry 2 was changed.</li>" in page
