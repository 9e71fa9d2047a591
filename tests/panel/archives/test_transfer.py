"""archive-transfer and archive-content: hosts come with a token, people with their session; both get it from any byte on."""

import asyncio

import pytest
from django.test import AsyncClient, Client

from machines.contract import orders
from machines.models import Archive
from machines.panel.images import archive_files, archives
from tests import make
from tests.panel.archives import cast

pytestmark = pytest.mark.django_db(transaction=True)
BYTES = "application/octet-stream"
CONTENT = bytes(range(256)) * 20


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    settings.DATA_DIR = tmp_path


@pytest.fixture
def ready() -> Archive:
    archive = cast.archive(CONTENT, title="web “1”.tar")
    archive_files._folder()
    archive_files.path_of(archive.pk).write_bytes(CONTENT)
    return archive


@pytest.fixture
def coming(alpha, admin) -> Archive:
    """What an export is to bring."""
    order = orders.Export(name="web", url="https://panel.example/", limit=10**9)
    job = make.job(order, on=alpha, by=admin, state="running")
    return Archive.objects.create(title="web.tar.zst", job=job, author=admin)


def got(path: str, headers: dict | None = None, user=None):
    """Status, headers and body of a stream, read as the server reads it."""

    async def read():
        client = AsyncClient()
        if user:
            await client.aforce_login(user)
        answer = await client.get(path, headers=headers or {})
        body = b"".join([piece async for piece in answer]) if answer.streaming else answer.content
        return answer.status_code, answer.headers, body

    return asyncio.run(read())


def bearer(archive: Archive, host, purpose: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {archives.token_for(archive, host, purpose)}"}


def bring(archive: Archive, host, data: bytes, offset: int = 0, size: int = 8, **headers):
    client = Client(enforce_csrf_checks=True, headers=bearer(archive, host, "put") | {"Content-Type": BYTES} | headers)
    return client.post(f"/transfer/{archive.pk}/?offset={offset}&size={size}", data, content_type=BYTES)


def test_a_host_gets_the_file_with_its_length(ready, alpha):
    status, headers, body = got(f"/transfer/{ready.pk}/", bearer(ready, alpha, "get"))
    assert (status, body, headers["Content-Length"]) == (200, CONTENT, str(len(CONTENT)))


@pytest.mark.parametrize(("asked", "first", "last"), [("100-", 100, 5119), ("0-0", 0, 0), ("5000-9000", 5000, 5119)])
def test_it_goes_on_from_any_byte(ready, alpha, asked, first, last):
    status, headers, body = got(f"/transfer/{ready.pk}/", bearer(ready, alpha, "get") | {"Range": f"bytes={asked}"})
    assert (status, body) == (206, CONTENT[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/5120"


def test_there_is_nothing_behind_the_end(ready, alpha):
    status, headers, _ = got(f"/transfer/{ready.pk}/", bearer(ready, alpha, "get") | {"Range": "bytes=5120-"})
    assert (status, headers["Content-Range"]) == (416, "bytes */5120")


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}]
)
def test_without_its_token_nobody_gets_it(ready, admin, header):
    assert got(f"/transfer/{ready.pk}/", header, admin)[0] == 403


def test_one_token_is_not_the_other(ready, coming, alpha):
    assert got(f"/transfer/{ready.pk}/", bearer(ready, alpha, "put"))[0] == 403
    client = Client(headers=bearer(coming, alpha, "get"))
    assert client.post(f"/transfer/{coming.pk}/?offset=0&size=4", b"1234", content_type=BYTES).status_code == 403


def test_what_is_not_ready_cannot_be_had(coming, alpha):
    assert got(f"/transfer/{coming.pk}/", bearer(coming, alpha, "get"))[0] == 404


def test_a_file_that_is_gone_from_the_disk_is_said_to_be(ready, alpha):
    archive_files.path_of(ready.pk).unlink()
    assert got(f"/transfer/{ready.pk}/", bearer(ready, alpha, "get"))[0] == 404


def test_a_person_downloads_it_under_its_name(ready, admin):
    status, headers, body = got(f"/archives/{ready.pk}/content/", None, admin)
    assert (status, body) == (200, CONTENT)
    assert headers["Content-Disposition"].startswith("attachment; filename")
    assert headers["ETag"] == f'"{ready.sha256}"'


def test_a_host_brings_an_export_and_learns_its_sum(coming, alpha):
    first = bring(coming, alpha, b"1234").json()
    assert (first["received"], first["size"], first["sha256"]) == (4, 8, "")
    last = bring(coming, alpha, b"5678", 4).json()
    coming.refresh_from_db()
    assert (last["received"], last["sha256"], coming.state) == (8, coming.sha256, "arriving")
    assert bring(coming, alpha, b"", 8).json()["sha256"] == coming.sha256


def test_it_may_not_change_its_mind_about_the_size(coming, alpha):
    bring(coming, alpha, b"1234")
    assert bring(coming, alpha, b"5678", 4, size=9).status_code == 422


def test_more_than_the_panel_takes_is_refused_at_once(coming, alpha, settings):
    settings.ARCHIVE_LIMIT = 5
    assert "up to" in bring(coming, alpha, b"1234").json()["error"]


def test_a_host_cannot_bring_what_another_was_to(coming, alpha):
    assert bring(coming, make.host("beta"), b"1234").status_code == 404


def test_it_cannot_fill_an_upload_of_a_person(alpha, admin):
    upload = Archive.objects.create(title="x", size=8, author=admin)
    assert bring(upload, alpha, b"1234").status_code == 404
