"""Who brought, took and removed an archive stays written down, also when the archive is gone."""

import hashlib

import pytest

from machines.contract import orders
from machines.models import Archive, Event
from machines.panel.images import archive_files, archives
from tests import make
from tests.panel.archives import cast

CONTENT = b"tree" * 10
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def data(settings, tmp_path, db):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def ready() -> Archive:
    archive = cast.archive(CONTENT, title="web.tar")
    archive_files._folder()
    archive_files.path_of(archive.pk).write_bytes(CONTENT)
    return archive


def told() -> list[tuple[str, str, str]]:
    return [
        (event.kind, event.actor_name, event.text)
        for event in Event.objects.filter(kind__startswith="archive-").order_by("id")
    ]


def said(what: str) -> str:
    return f"{what} (40\u00a0B, SHA-256 {SUM})"


def test_an_upload_is_told_once_it_is_complete(as_admin):
    begun = as_admin.post("/archives/begin/", {"title": "up.tar", "format": "tar", "size": len(CONTENT)}).json()
    send = {"content_type": "application/octet-stream"}
    as_admin.post(f"{begun['part_url']}?offset=0", CONTENT[:7], **send)
    assert told() == []
    as_admin.post(f"{begun['part_url']}?offset=7", CONTENT[7:], **send)
    assert told() == [("archive-uploaded", "ada", said("ada uploaded up.tar") + ".")]


def test_every_download_is_told_and_one_that_goes_on_is_not_told_again(as_admin, as_viewer, ready):
    url = f"/archives/{ready.pk}/content/"
    as_admin.get(url)
    as_admin.get(url, headers={"Range": "bytes=10-"})
    assert told() == [("archive-downloaded", "ada", said("ada downloaded web.tar") + ".")]
    as_admin.get(url)
    assert len(told()) == 2
    as_viewer.get(url)
    as_admin.get(url, headers={"Range": "bytes=99-"})
    assert len(told()) == 2, "nothing was handed out"


def test_a_download_that_leaves_out_the_first_byte_is_one_too(as_admin, ready):
    as_admin.get(f"/archives/{ready.pk}/content/", headers={"Range": "bytes=1-"})
    assert [kind for kind, _, _ in told()] == ["archive-downloaded"]


def test_a_host_s_fetch_is_told_with_the_host(client, alpha, ready):
    headers = {"Authorization": f"Bearer {archives.token_for(ready, alpha, 'get')}"}
    client.get(f"/transfer/{ready.pk}/", headers=headers | {"Range": "bytes=0-"})
    client.get(f"/transfer/{ready.pk}/", headers=headers | {"Range": "bytes=5-"})
    event = Event.objects.get()
    assert (event.kind, event.host) == ("archive-fetched", alpha)
    assert event.text == said("alpha fetched web.tar") + " to build a machine from it."


def test_an_export_is_told_with_who_ordered_it(admin, alpha):
    job = make.job(orders.Export(name="web", url="https://p/", limit=100), on=alpha, by=admin, state="running")
    archive = cast.archive(CONTENT, title="web.tar.zst", state="arriving", job=job)
    archive_files.finalize(job, {"sha256": archive.sha256})
    assert told() == [
        ("archive-exported", "ada", said("alpha uploaded web.tar.zst") + f", exported by ada (job {job.pk}).")
    ]


def test_a_removal_outlives_the_archive(as_admin, ready):
    as_admin.post(f"/archives/{ready.pk}/remove/")
    assert not Archive.objects.exists()
    assert told() == [("archive-removed", "ada", said("ada removed web.tar") + ".")]


# --- where it is read


def test_the_events_are_found_by_sum_person_kind_and_host(as_admin, alpha, ready):
    Event.objects.create(kind="archive-downloaded", text=f"ada downloaded x (SHA-256 {SUM})", actor_name="ada")
    Event.objects.create(kind="archive-downloaded", text="bob downloaded y", actor_name="bob")
    Event.objects.create(kind="unverified-pull", text="<b>no</b>", actor_name="ada", host=alpha)
    for query, count in (("", 3), (SUM, 1), ("bob", 1), ("archive-", 2), ("alpha", 1), ("ada archive", 1), ("\0", 3)):
        page = as_admin.get("/events/", {"q": query}).content.decode()
        assert page.count('id="event-') - page.count('id="event-table"') == count, query
    page = as_admin.get("/events/").content.decode()
    assert "&lt;b&gt;no" in page
    assert '<span class="tag tag-danger">unverified-pull</span>' in page
    assert '<span class="tag">archive-downloaded</span>' in page
    assert "No event matches" in as_admin.get("/events/", {"q": "nothing"}).content.decode()
    assert 'href="/events/?q=archive-"' in as_admin.get("/archives/").content.decode()


def test_pages_of_events_join_without_a_gap(as_admin, django_assert_max_num_queries):
    for number in range(120):
        Event.objects.create(kind="host-enrolled", text=f"number {number} ends", team=make.team())
    url, seen = "/events/", []
    while url:
        with django_assert_max_num_queries(5):
            page = as_admin.get(url).context["page"]
        seen += [event.text for event in page.events]
        url = f"/events/{page.older}" if page.older else ""
    assert seen == [f"number {number} ends" for number in reversed(range(120))]
    back = as_admin.get(f"/events/?newer={Event.objects.order_by('id')[10].pk}").context["page"]
    assert (len(back.events), back.newer != "", back.older != "") == (50, True, True)
    for strange in ("?older=x", "?newer=-1", "?older=1", "?older=" + "9" * 40):
        assert as_admin.get(f"/events/{strange}").status_code == 200
