"""Where an archive's settings come from: its own front for an upload, its host's word for an export."""

import io
import tarfile

import pytest

from machines.contract import orders
from machines.contract.configuration import carried
from machines.contract.configuration.carried import Carried
from machines.models import Archive
from machines.panel.images import archive_files
from tests import make

SETTINGS = Carried("[Exec]\nEphemeral=yes\n", "[Service]\nTasksMax=9\n")


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    settings.DATA_DIR = tmp_path


def upload(content: bytes, by) -> Archive:
    archive = archive_files.begin("web.tar.zst", "tar", len(content), by=by, team=make.team())
    archive_files.add(archive, 0, content)
    archive.refresh_from_db()
    return archive


def test_an_upload_is_looked_into_at_its_front(admin):
    archive = upload(carried.head("web", SETTINGS) + b"the rest", admin)
    assert (archive.state, archive.nspawn_text, archive.limits_text) == ("ready", SETTINGS.nspawn, SETTINGS.limits)


@pytest.mark.parametrize("content", [b"junk", b"\x28\xb5\x2f\xfd junk", b"\0" * 1024])
def test_one_without_settings_is_as_good(content, admin):
    archive = upload(content, admin)
    assert (archive.state, archive.nspawn_text) == ("ready", "")


def test_settings_deep_in_an_upload_are_not_looked_for(admin):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        large = tarfile.TarInfo("large")
        large.size = 600_000
        made.addfile(large, io.BytesIO(bytes(600_000)))
        entry = tarfile.TarInfo(".nspawnpanel/web.nspawn")
        entry.size = 7
        made.addfile(entry, io.BytesIO(b"[Exec]\n"))
    assert upload(out.getvalue(), admin).nspawn_text == ""


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"nspawn": SETTINGS.nspawn, "limits": SETTINGS.limits}, (SETTINGS.nspawn, SETTINGS.limits)),
        ({}, ("", "")),
        ({"nspawn": ["x"], "limits": 9}, ("", "")),
        ({"nspawn": "#" * 200_000}, ("", "")),
    ],
)
def test_an_export_has_what_its_host_told(told, kept, db):
    host = make.host("alpha")
    job = make.job(orders.Export(name="web", url="https://x.example/y", limit=1), on=host)
    archive = Archive.objects.create(title="web", state="arriving", sha256="a" * 64, size=1, received=1, job=job)
    archive_files.finalize(job, {"sha256": "a" * 64, **told})
    archive.refresh_from_db()
    assert (archive.state, archive.nspawn_text, archive.limits_text) == ("ready", *kept)
