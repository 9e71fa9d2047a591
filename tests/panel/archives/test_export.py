"""machine-export: the order, and what becomes of its archive."""

from base64 import b64encode
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from nacl.public import PrivateKey

from machines.contract import envelope, orders
from machines.contract.recipes import BuildSecrets
from machines.models import Archive, Job, Machine
from machines.panel.courier import intake
from machines.panel.images import archive_files, archives
from tests import make
from tests.panel.archives import cast

pytestmark = pytest.mark.django_db
URL = "/hosts/alpha/machines/web/export/"


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    settings.PANEL_URL = "https://panel.example"


def exported(as_admin, **fields) -> Job:
    answer = as_admin.post(URL, fields)
    job = Job.objects.latest("id")
    assert answer.url == f"/jobs/{job.pk}/", answer
    return job


def test_it_is_asked_with_what_it_means(as_admin, web):
    Machine.objects.update(disk_bytes=3 << 30, image_type="subvolume", state="running")
    shown = as_admin.get(URL).content.decode()
    assert "It uses 3\u00a0GiB there" in shown
    assert "keeps running" in shown
    assert "passwords" in shown


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"state": "running", "image_type": "directory"}, "Power it off first"), ({"state": "missing"}, "is gone")],
)
def test_what_could_only_fail_is_not_offered(as_admin, web, fields, word):
    Machine.objects.update(**fields)
    shown = as_admin.get(URL).content.decode()
    assert word in shown
    assert "Export web</button>" not in shown


def test_a_tool_the_host_lacks_is_named_before(as_admin, web):
    web.host.facts |= {"tools": {"tar": "1"}}
    web.host.save()
    shown = as_admin.get(URL).content.decode()
    assert "This needs zstd, which alpha does not have. Install it there: apt install zstd." in shown
    assert "Export web</button>" not in shown


def test_of_a_host_older_than_the_panel_only_what_it_looked_for_is_said_to_be_missing(as_admin, web):
    """Nobody had told it to look for tar."""
    web.host.facts |= {"tools": dict.fromkeys(("systemd-nspawn", "machinectl", "mmdebstrap", "zstd"), "1")}
    web.host.save()
    assert "Export web</button>" in as_admin.get(URL).content.decode()
    del web.host.facts["tools"]["zstd"]
    web.host.save()
    assert "This needs zstd, which alpha does not have." in as_admin.get(URL).content.decode()


def test_its_settings_are_said_to_go_with_it(as_admin, web):
    assert "Its settings are included" in as_admin.get(URL).content.decode()
    Machine.objects.update(image_type="raw")
    assert "are kept with the archive on this panel" in as_admin.get(URL).content.decode()


def test_without_an_address_of_the_panel_it_says_so(as_admin, web, settings):
    settings.PANEL_URL = ""
    assert "NSPAWNPANEL_URL" in as_admin.get(URL).content.decode()
    assert "NSPAWNPANEL_URL" in as_admin.post(URL).content.decode()
    assert not Archive.objects.exists()
    assert not Job.objects.exists()


def test_the_order_carries_where_and_the_token_for_it(as_admin, web):
    own = PrivateKey.generate()
    web.host.box_key = b64encode(bytes(own.public_key)).decode()
    web.host.save()
    job = exported(as_admin)
    archive = Archive.objects.get()
    order = orders.from_wire(job.order)
    assert (archive.job, archive.state, archive.author_name) == (job, "arriving", "ada")
    assert (order.name, order.format) == ("web", "tar")
    assert order.url == f"https://panel.example/transfer/{archive.pk}/"
    token = BuildSecrets.model_validate_json(envelope.unseal_secret(job.sealed, own)).token
    assert archives.bearer(token, archive.pk) == (web.host, "put")
    assert token not in str(job.order)


def test_a_raw_image_is_exported_raw(as_admin, web):
    Machine.objects.update(image_type="raw")
    assert orders.from_wire(exported(as_admin).order).format == "raw"


def test_a_second_press_finds_the_first_job(as_admin, web):
    key = uuid4()
    assert exported(as_admin, key=key) == exported(as_admin, key=key)
    assert Archive.objects.count() == 1


def test_while_the_machine_is_held_nothing_is_left_behind(as_admin, web, admin):
    make.job(orders.Start(name="web"), on=web.host, by=admin, state="running")
    assert as_admin.post(URL).status_code == 409
    assert not Archive.objects.exists()


def arrived(job: Job, content: bytes = b"packed") -> Archive:
    archive = job.archives.get()
    archive_files.announce(archive, len(content))
    archive.refresh_from_db()
    return archive_files.add(archive, 0, content)


def ended(job: Job, state: str, **result) -> None:
    report = intake.reports.Outcome(job=job.uuid, state=state, at=1.0, result=result)
    intake._outcome(job.host, report, intake.Jobs(job.host))


def test_what_arrived_as_it_was_sent_is_ready(as_admin, web):
    job = exported(as_admin)
    sha256 = arrived(job).sha256
    ended(job, "succeeded", sha256=sha256)
    assert Archive.objects.get().state == "ready"
    shown = as_admin.get(f"/jobs/{job.pk}/").content.decode()
    assert f"/archives/{Archive.objects.get().pk}/content/" in shown


@pytest.mark.parametrize(
    ("state", "result"), [("failed", {}), ("cancelled", {}), ("succeeded", {"sha256": "0" * 64}), ("succeeded", {})]
)
def test_all_else_goes(as_admin, web, state, result):
    job = exported(as_admin)
    file = archive_files.path_of(arrived(job).pk)
    assert file.exists()
    ended(job, state, **result)
    assert not Archive.objects.exists()
    assert not file.exists()


def test_one_that_never_reached_its_host_goes_too(as_admin, web):
    job = exported(as_admin)
    as_admin.post(f"/jobs/{job.pk}/cancel/")
    assert not Archive.objects.exists()


def test_a_retry_has_an_archive_of_its_own(as_admin, web):
    job = exported(as_admin)
    ended(job, "failed")
    as_admin.post(f"/jobs/{job.pk}/retry/")
    again = Job.objects.latest("id")
    archive = Archive.objects.get()
    assert (again.retry_of, archive.job) == (job, again)
    assert str(archive.pk) in again.order["url"]
    assert again.sealed != job.sealed


def test_removing_an_archive_asks_first(as_admin):
    archive = cast.archive(b"x", title="old.tar")
    archive_files._folder()
    file = archive_files.path_of(archive.pk)
    file.write_bytes(b"x")
    assert "cannot be restored" in as_admin.get(f"/archives/{archive.pk}/remove/").content.decode()
    assert file.exists()
    as_admin.post(f"/archives/{archive.pk}/remove/")
    assert not file.exists()
    assert not Archive.objects.exists()


def test_abandoned_uploads_and_files_of_nobody_go_in_time(admin):
    old = cast.archive(b"12", state="arriving", received=1, author=admin, sha256="")
    Archive.objects.update(created_at=timezone.now() - timedelta(days=8))
    new = cast.archive(b"12", state="arriving", received=1, author=admin, sha256="")
    archive_files._folder()
    for pk in (old.pk, new.pk, uuid4()):
        archive_files.path_of(pk).write_bytes(b"1")
    archive_files.forget_abandoned()
    assert list(Archive.objects.all()) == [new]
    assert list(archive_files._folder().iterdir()) == [archive_files.path_of(new.pk)]


def test_a_file_of_nobody_that_cannot_be_removed_keeps_no_upload_and_no_other_file(admin, caplog):
    stuck, other = archive_files.path_of(uuid4()), archive_files.path_of(uuid4())
    (stuck / "in it").mkdir(parents=True)
    other.write_bytes(b"1")
    assert archive_files.begin("tree.tar", "tar", 10, by=admin, team=make.team()).state == "arriving"
    assert not other.exists()
    assert f"{stuck} belongs to no archive and could not be removed" in caplog.text


def test_the_list_says_what_there_is(as_admin, as_viewer, web, admin):
    ready = cast.archive(b"tree", title="ready.tar")
    job = make.job(orders.Export(name="web", url="https://p/", limit=1), on=web.host, by=admin, state="running")
    cast.archive(b"1234", title="half.tar.zst", state="arriving", received=2, sha256="", job=job)
    shown = as_admin.get("/archives/").content.decode()
    assert ready.sha256[:12] in shown
    assert f"/machines/new/?archive={ready.pk}" in shown
    assert "50 %" in shown
    assert "web on alpha" in shown
    seen = as_viewer.get("/archives/").content.decode()
    assert "ready.tar" in seen
    assert "/content/" not in seen
    assert "data-upload" not in seen


def test_the_list_is_few_queries(as_admin, django_assert_max_num_queries):
    for number in range(5):
        cast.archive(b"tree", title=f"{number}.tar")
    with django_assert_max_num_queries(5):
        as_admin.get("/archives/")
