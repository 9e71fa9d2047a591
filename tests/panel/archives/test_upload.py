"""archive-begin, archive-part, archive-state: a file arrives in parts, whatever comes between."""

import hashlib
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.test import Client
from django.utils import timezone

from machines.models import Archive
from machines.panel.images import archive_files
from tests import make

pytestmark = pytest.mark.django_db
GIB = 1 << 30
BYTES = "application/octet-stream"


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    settings.DATA_DIR = tmp_path


def begin(client: Client, size: int, **fields):
    given = {"title": "tree.tar", "format": "tar", "size": size} | fields
    return client.post("/archives/begin/", given)


def send(client: Client, begun: dict, offset: int, data: bytes):
    return client.post(f"{begun['part_url']}?offset={offset}", data, content_type=BYTES)


def test_parts_become_the_file_and_its_sum(as_admin):
    whole = bytes(range(256)) * 100
    begun = begin(as_admin, len(whole)).json()
    assert (begun["received"], begun["state"]) == (0, "arriving")
    assert send(as_admin, begun, 0, whole[:10_000]).json()["received"] == 10_000
    last = send(as_admin, begun, 10_000, whole[10_000:]).json()
    assert (last["state"], last["sha256"]) == ("ready", hashlib.sha256(whole).hexdigest())
    archive = Archive.objects.get()
    assert archive_files.path_of(archive.pk).read_bytes() == whole
    assert (archive.author_name, archive.title) == ("ada", "tree.tar")


def test_a_part_that_does_not_follow_is_told_where_to_go_on(as_admin):
    begun = begin(as_admin, 100).json()
    send(as_admin, begun, 0, b"x" * 40)
    for offset in (0, 39, 41, 99):
        answer = send(as_admin, begun, offset, b"y")
        assert (answer.status_code, answer.json()) == (409, {"received": 40})
    assert archive_files.path_of(Archive.objects.get().pk).read_bytes() == b"x" * 40


def test_the_same_file_goes_on_where_it_stopped(as_admin):
    begun = begin(as_admin, 100).json()
    send(as_admin, begun, 0, b"x" * 40)
    again = begin(as_admin, 100).json()
    assert (again["id"], again["received"]) == (begun["id"], 40)
    assert begin(as_admin, 101).json()["id"] != begun["id"]


def test_what_was_cut_off_before_it_counted_is_written_over(as_admin):
    begun = begin(as_admin, 6).json()
    send(as_admin, begun, 0, b"abc")
    file = archive_files.path_of(Archive.objects.get().pk)
    file.write_bytes(b"abcXX")
    assert send(as_admin, begun, 3, b"def").json()["state"] == "ready"
    assert file.read_bytes() == b"abcdef"


def test_a_file_that_was_lost_is_not_filled_with_nothing(as_admin):
    begun = begin(as_admin, 6).json()
    send(as_admin, begun, 0, b"abc")
    archive_files.path_of(Archive.objects.get().pk).unlink()
    assert "Start again" in send(as_admin, begun, 3, b"def").json()["error"]
    assert Archive.objects.get().state == "failed"


def test_no_more_than_was_announced(as_admin):
    begun = begin(as_admin, 4).json()
    assert "announced" in send(as_admin, begun, 0, b"12345").json()["error"]


def test_a_part_is_small(as_admin):
    begun = begin(as_admin, 2 * archive_files.PART).json()
    assert send(as_admin, begun, 0, bytes(archive_files.PART + 1)).status_code == 413
    assert send(as_admin, begun, 0, bytes(archive_files.PART)).status_code == 200


def test_it_takes_bytes_only(as_admin):
    begun = begin(as_admin, 4).json()
    assert as_admin.post(f"{begun['part_url']}?offset=0", {"a": "b"}).status_code == 415


@pytest.mark.parametrize("query", ["", "?offset=", "?offset=-1", "?offset=x", "?offset=1e3"])
def test_it_asks_where_a_part_begins(as_admin, query):
    begun = begin(as_admin, 4).json()
    answer = as_admin.post(begun["part_url"] + query, b"1234", content_type=BYTES)
    assert (answer.status_code, "offset" in answer.json()["error"]) == (422, True)


def test_another_persons_upload_is_not_there(as_admin):
    begun = begin(as_admin, 4).json()
    other = make.client(make.user("bob", role="administrator"))
    assert send(other, begun, 0, b"1234").status_code == 404


def test_a_complete_archive_takes_no_more(as_admin):
    begun = begin(as_admin, 4).json()
    send(as_admin, begun, 0, b"1234")
    assert send(as_admin, begun, 4, b"5").status_code == 410


def test_two_writers_at_once_are_one_too_many(as_admin):
    begun = begin(as_admin, 4).json()
    with archive_files._open(Archive.objects.get().pk):
        assert send(as_admin, begun, 0, b"1234").status_code == 503


def test_too_large_is_said_before_anything_is_sent(as_admin, settings):
    settings.ARCHIVE_LIMIT = 1000
    answer = begin(as_admin, 1001)
    assert answer.status_code == 422
    assert "NSPAWNPANEL_ARCHIVE_GIB" in answer.json()["error"]
    assert not Archive.objects.exists()


def test_a_short_disk_is_said_too_and_promises_count(as_admin, settings, monkeypatch):
    settings.ARCHIVE_LIMIT = 2**50
    free = archive_files.room()
    assert begin(as_admin, free + 2**30).status_code == 507
    monkeypatch.setattr(archive_files, "room", lambda: 100)
    assert begin(as_admin, 60, title="one.tar").status_code == 200
    monkeypatch.undo()
    assert free - 2**30 < archive_files.room() <= free - 60 + 2**30


@pytest.fixture
def free(monkeypatch):
    """A disk with 100 GiB that archives may take."""
    usage = SimpleNamespace(free=100 * GIB + archive_files.RESERVE)
    monkeypatch.setattr(archive_files.shutil, "disk_usage", lambda _: usage)


def of_team(name: str, team: str = "ops") -> Client:
    return make.client(make.user(name, role="editor", team=team))


def test_one_team_cannot_reserve_the_whole_disk_with_files_that_never_come(free):
    ann, other = of_team("ann"), of_team("bob", team="b")
    assert begin(ann, 40 * GIB).status_code == 200
    for client, said in ((ann, "You have announced 51"), (of_team("amy"), "Team Ops has announced 51")):
        answer = begin(client, 11 * GIB, title="more.tar")
        assert (answer.status_code, said in answer.json()["error"]) == (507, True), answer.json()
    assert "50\u00a0GiB is the most, half of its free disk space." in answer.json()["error"]
    assert begin(ann, 40 * GIB).json()["received"] == 0  # the one that was begun goes on
    assert begin(other, 50 * GIB).status_code == 200
    assert Archive.objects.count() == 2


def test_an_administrator_may_take_more_of_the_disk(free, as_admin, settings):
    settings.ARCHIVE_LIMIT = 80 * GIB
    assert begin(as_admin, 80 * GIB).status_code == 200


def test_the_page_names_what_this_person_may_upload(free, as_admin, settings):
    settings.ARCHIVE_LIMIT = 80 * GIB
    assert "50\u00a0GiB" in of_team("ann").get("/archives/").content.decode()
    assert "80\u00a0GiB" in as_admin.get("/archives/").content.decode()


def test_unfinished_uploads_of_one_person_and_of_one_team_are_few(monkeypatch):
    monkeypatch.setattr(archive_files, "OPEN_OF_PERSON", 2)
    monkeypatch.setattr(archive_files, "OPEN_OF_TEAM", 3)
    ann, amy = of_team("ann"), of_team("amy")
    first = begin(ann, 4, title="1.tar").json()
    assert begin(ann, 4, title="2.tar").status_code == 200
    answer = begin(ann, 4, title="3.tar")
    assert answer.status_code == 422
    assert answer.json()["error"] == "You have 2 unfinished uploads already. Finish or remove one of them first."
    assert begin(amy, 4, title="3.tar").status_code == 200
    assert "Team Ops has 3 unfinished uploads" in begin(amy, 4, title="4.tar").json()["error"]
    assert begin(of_team("bob", team="b"), 4, title="4.tar").status_code == 200
    send(ann, first, 0, b"1234")
    assert begin(ann, 4, title="3.tar").status_code == 200


def test_an_upload_of_which_no_byte_came_lapses_in_an_hour(as_admin):
    begun = begin(as_admin, 4, title="begun.tar").json()
    send(as_admin, begun, 0, b"12")
    begin(as_admin, 4, title="never.tar")
    Archive.objects.update(created_at=timezone.now() - timedelta(minutes=59))
    archive_files.forget_abandoned()
    assert Archive.objects.count() == 2
    Archive.objects.update(created_at=timezone.now() - timedelta(minutes=61))
    archive_files.forget_abandoned()
    assert Archive.objects.get().title == "begun.tar"


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": -1}, {"size": "x"}, {"format": "zip"}, {"title": ""}, {"title": "x" * 201}]
)
def test_nonsense_is_refused(as_admin, wrong):
    answer = begin(as_admin, **({"size": 5} | wrong))
    assert (answer.status_code, bool(answer.json()["error"])) == (422, True)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("notes.txt", "tar", "is not that of a root filesystem or disk image"),
        ("notes.txt", "raw", "is not that of a root filesystem or disk image"),
        ("tar", "tar", "that of a root filesystem or disk image"),
        ("web.tar.xz", "raw", "is a root filesystem (tar)"),
        ("disk.img.gz", "tar", "is a disk image"),
        ("a/", "tar", "that of a root filesystem or disk image"),
    ],
)
def test_a_file_that_is_something_else_by_its_name_is_refused_before_it_is_sent(as_admin, name, kind, said):
    answer = begin(as_admin, 4, title=name, format=kind)
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert not Archive.objects.exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.TAR.ZST", "tar"), ("a.tgz", "tar"), ("a.tbz2", "tar"), ("debian-13.raw.xz", "raw"), ("a.img", "raw")],
)
def test_usual_names_are_taken(as_admin, name, kind):
    assert begin(as_admin, 4, title=name, format=kind).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("C:\\images\\tree.tar", "tree.tar"),
        ("/srv/tree.tar", "tree.tar"),
        ("tree\r\nX-Y: z.tar", "treeX-Y: z.tar"),
    ],
)
def test_a_title_is_a_name_without_folders_and_line_breaks(as_admin, given, kept):
    send(as_admin, begin(as_admin, 4, title=given).json(), 0, b"1234")
    assert Archive.objects.get().title == kept


@pytest.mark.django_db(transaction=True)
def test_the_sum_of_a_large_one_is_made_aside_and_asked_for(as_admin, monkeypatch):
    monkeypatch.setattr(archive_files, "AT_ONCE", 1)
    made = []
    monkeypatch.setattr(
        archive_files.threading, "Thread", lambda target, args, **_: made.append((target, args)) or Started()
    )
    begun = begin(as_admin, 4).json()
    assert send(as_admin, begun, 0, b"1234").json()["state"] == "arriving"
    [(target, args)] = made
    target(*args)
    assert as_admin.get(begun["url"]).json()["sha256"] == hashlib.sha256(b"1234").hexdigest()


class Started:
    def start(self) -> None:
        pass


def test_a_sum_that_an_ended_process_was_making_is_made_by_whoever_looks(as_admin):
    archive = Archive.objects.create(title="x", size=4, received=4, author_name="ada")
    archive_files._folder()
    archive_files.path_of(archive.pk).write_bytes(b"1234")
    assert as_admin.get(f"/archives/{archive.pk}/state/").json()["state"] == "ready"
