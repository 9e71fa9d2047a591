"""A machine exported on one real host becomes a machine on another, and nothing bad in an archive gets further than a job."""

import hashlib
import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import WORKER, Stack
from tests.person import Person, until
from tests.real import POLICY

PING = "/var/lib/machines/{}/usr/bin/ping-like"
LARGE = 66 * 1024 * 1024  # bytes; more than the panel sums up while somebody waits


@pytest.fixture(scope="module")
def beta_host(panel: Stack) -> Iterator[Sandbox]:
    """A second host of the same panel."""
    with Sandbox(f"beta-{os.getpid()}", CACHE) as host:
        host.write("/etc/nspawnpanel/policy.toml", POLICY.read_text())
        panel.join(host, "beta")
        yield host


@pytest.fixture(scope="module")
def origin(ada: Person, alpha_host: Sandbox) -> str:
    """A running machine of alpha with what is easily lost on the way."""
    alpha_host.plant("origin")
    file = PING.format("origin")
    alpha_host.run(["cp", "/bin/true", file])
    alpha_host.run(["chmod", "4755", file])
    alpha_host.run(["setcap", "cap_net_raw+ep", file])
    alpha_host.run(["ln", file, f"{file}-2"])
    alpha_host.write("/var/lib/machines/origin/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    ada.sees("origin", "stopped", 15)
    ada.succeed(ada.press("start", "origin"))
    return "origin"


@pytest.fixture(scope="module")
def exported(ada: Person, origin: str) -> dict[str, Any]:
    """The archive of it; it was running all the time."""
    job = ada.succeed(order_export(ada, origin), 180)
    return archive_of(ada, job)


def order_export(ada: Person, name: str) -> dict[str, Any]:
    before = ada.newest_job()
    ada.post(f"/hosts/alpha/machines/{name}/export/")
    return ada.jobs_after(before)[0]


def archive_of(ada: Person, job: dict[str, Any]) -> dict[str, Any]:
    [archive] = ada.rows("SELECT * FROM machines_archive WHERE job_id = ?", job["id"])
    return archive


def build(ada: Person, name: str, archive: str, **fields: Any) -> dict[str, Any]:
    given = {"source": "archive", "archive": archive, "release": None, "hostname": name, "new_identity": "on"} | fields
    return ada.build(name, "beta", **given)


def upload(ada: Person, title: str, content: bytes, part: int = 8 * 1024 * 1024) -> str:
    """As upload.js does it; the archive's id."""
    token = ada.form_of("/archives/")["csrfmiddlewaretoken"] or ada.form_of("/machines/new/")["csrfmiddlewaretoken"]
    ada.send("/archives/begin/", {"csrfmiddlewaretoken": token, "title": title, "size": len(content), "format": "tar"})
    begun = json.loads(ada.answer)
    for offset in range(0, len(content), part):
        request = Request(f"{ada.panel.url}{begun['part_url']}?offset={offset}", content[offset : offset + part])
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("X-CSRFToken", token)
        with ada._opener.open(request, timeout=30):
            pass
    until(lambda: json.loads(ada.get(begun["url"]))["state"] == "ready", 30)
    return str(begun["id"])


def leftovers(host: Sandbox) -> list[str]:
    """What a job left in the pool; bases may stay."""
    names = host.run(["ls", "-A", "/var/lib/machines"]).stdout.split()
    return [name for name in names if name.startswith(".nspawnpanel-") and not name.startswith(".nspawnpanel-base-")]


def test_the_file_is_on_the_panel_as_its_sum_says(exported, ada, panel, alpha_host):
    file = panel.data / "archives" / str(_dashed(exported["id"]))
    assert (exported["state"], exported["size"]) == ("ready", file.stat().st_size)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == exported["sha256"]
    assert leftovers(alpha_host) == []
    job = ada.job(exported["job_id"])
    assert [phase["name"] for phase in json.loads(job["phases"])] == ["check", "pack", "send"]
    assert job["sealed"] == ""


def _dashed(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def test_no_token_is_in_a_log_or_a_command(exported, ada, panel, alpha_host):
    job = ada.job(exported["job_id"])
    shown = "\n".join(ada.log(job["id"])) + job["commands"] + job["order"] + job["result"]
    journal = alpha_host.run(["journalctl", "--no-pager"]).stdout
    web = "".join(file.read_text() for file in (panel.data / "log").glob("*"))
    for place in (shown, journal, web):
        assert "Bearer" not in place


def test_it_becomes_a_machine_of_another_host_with_an_identity_of_its_own(exported, ada, beta_host):
    ada.succeed(build(ada, "copy", exported["id"]), 240)
    ada.sees("copy", "running", 20, "beta")
    leader = beta_host.run(["machinectl", "show", "copy", "--property=Leader", "--value"]).stdout.strip()
    inside = beta_host.run(["nsenter", "--target", leader, "--all", "--", "cat", "/etc/machine-id", "/etc/hostname"])
    machine_id, hostname = inside.stdout.split()
    assert len(machine_id) == 32
    assert machine_id != "0123456789abcdef0123456789abcdef"
    assert hostname == "copy"
    file = PING.format("copy")
    assert "cap_net_raw=ep" in beta_host.run(["getcap", file]).stdout
    assert beta_host.run(["stat", "--format=%a %h", file]).stdout.split() == ["4755", "2"]
    assert leftovers(beta_host) == []


def test_a_damaged_file_is_found_before_anything_is_made_of_it(exported, ada, panel, beta_host):
    file = panel.data / "archives" / _dashed(exported["id"])
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 1]))
    try:
        ended = ada.end_of(build(ada, "spoilt", exported["id"]), 120)
    finally:
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 2)
            opened.write(byte)
    assert ended["state"] == "failed"
    assert json.loads(ended["problem"])["code"] == "checksum-wrong"
    assert leftovers(beta_host) == []
    assert "spoilt" not in beta_host.run(["ls", "/var/lib/machines"]).stdout


# --- a machine that is moved, with its settings

SETTINGS = """# by hand
[Exec]
NotifyReady=yes
Environment=MOVED=yes
[Files]
TemporaryFileSystem=/srv
"""
LIMITS = "[Service]\nMemoryMax=300M\n"


@pytest.fixture(scope="module")
def mover(ada: Person, alpha_host: Sandbox) -> Iterator[str]:
    """A machine that somebody has set up by hand on alpha, its image outside the usual folder."""
    alpha_host.plant("mover")
    alpha_host.run(["mkdir", "-p", "/etc/machines"])
    alpha_host.run(["mv", "/var/lib/machines/mover", "/etc/machines/mover"])
    alpha_host.write("/etc/systemd/nspawn/mover.nspawn", SETTINGS)
    alpha_host.write("/etc/systemd/system/systemd-nspawn@mover.service.d/50-nspawnpanel.conf", LIMITS)
    alpha_host.run(["systemctl", "daemon-reload"])
    ada.sees("mover", "stopped", 15)
    told = "SELECT 1 FROM machines_observedfiles f JOIN machines_machine m ON m.id = f.machine_id WHERE m.name = 'mover' AND told LIKE ?"
    until(lambda: ada.rows(told, "%MOVED=yes%"), 30)
    yield "mover"
    alpha_host.run(["machinectl", "terminate", "twin"], check=False)
    alpha_host.run(["rm", "-rf", "/etc/machines"])


def made_of(ada: Person, query: str, name: str, host: str) -> None:
    """The form as its page offers it, with a name and nothing else."""
    given = ada.filled(f"/machines/new/?{query}&host={host}")
    assert given["settings_wanted"] == "1"
    before = ada.newest_job()
    ada.send("/machines/new/", given | {"name": name, "host": host})
    jobs = ada.jobs_after(before)
    assert jobs, ada.complaints()
    ada.succeed(jobs[0], 240)


def check_in_force(host: Sandbox, name: str) -> None:
    def shown(*properties: str) -> str:
        return host.run(["systemctl", "show", f"systemd-nspawn@{name}.service", "--property", *properties]).stdout

    assert shown("MemoryMax") == f"MemoryMax={300 * 1024**2}\n"
    leader = host.run(["machinectl", "show", name, "--property=Leader", "--value"]).stdout.strip()
    inside = ["nsenter", "--target", leader, "--all", "--"]
    assert host.run([*inside, "stat", "-f", "-c", "%T", "/srv"]).stdout.strip() == "tmpfs"
    assert "MOVED=yes" in host.run([*inside, "cat", "/proc/1/environ"]).stdout
    assert host.run([*inside, "ls", "-A", "/"]).stdout.split().count(".nspawnpanel") == 0


def test_a_clone_has_the_settings_of_its_original_in_force(mover, ada, alpha_host):
    made_of(ada, "clone=mover", "twin", "alpha")
    check_in_force(alpha_host, "twin")
    assert "# by hand" in alpha_host.read("/etc/systemd/nspawn/twin.nspawn")


@pytest.fixture(scope="module")
def packed(mover: str, ada: Person) -> dict[str, Any]:
    return archive_of(ada, ada.succeed(order_export(ada, mover), 180))


def test_a_machine_that_is_packed_and_moved_has_its_settings_in_force(packed, ada, beta_host):
    assert (packed["nspawn_text"], packed["limits_text"]) == (SETTINGS, LIMITS)
    made_of(ada, f"archive={packed['id']}", "moved", "beta")
    check_in_force(beta_host, "moved")


def test_without_the_panel_the_same_archive_is_a_good_machine_too(packed, panel, beta_host):
    file = panel.data / "archives" / _dashed(packed["id"])
    import_ = "zstd -dc | machinectl import-tar - plain"
    with file.open("rb") as source:
        importing = beta_host.popen(["bash", "-o", "pipefail", "-c", import_], stdin=source)
        out, errors = importing.communicate(timeout=120)
    assert importing.returncode == 0, out + errors
    assert beta_host.read("/var/lib/machines/plain/.nspawnpanel/mover.nspawn") == SETTINGS
    beta_host.run(["machinectl", "start", "plain"])
    assert "running" in beta_host.run(["machinectl", "show", "plain", "--property=State"]).stdout


def hostile() -> bytes:
    """Much that is harmless, then a link that leads out, and a file behind it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        much, link, file = tarfile.TarInfo("usr/much"), tarfile.TarInfo("d"), tarfile.TarInfo("d/planted")
        much.size, link.type, link.linkname, file.size = LARGE, tarfile.SYMTYPE, "/etc", 1
        archive.addfile(much, io.BytesIO(os.urandom(LARGE)))
        archive.addfile(link)
        archive.addfile(file, io.BytesIO(b"x"))
    return out.getvalue()


def test_a_hostile_upload_is_refused_and_leaves_nothing(ada, beta_host):
    ended = ada.end_of(build(ada, "evil", upload(ada, "evil.tar", hostile())), 120)
    problem = json.loads(ended["problem"])
    assert (ended["state"], problem["code"]) == ("failed", "archive-refused")
    assert "through a link" in problem["message"]
    assert leftovers(beta_host) == []
    assert "planted" not in beta_host.run(["ls", "/etc"]).stdout


def test_a_disk_image_goes_the_same_way_and_its_root_is_found_by_the_type_of_its_partition(ada, alpha_host, beta_host):
    alpha_host.plant("flat")
    for host, script in ((alpha_host, DISK), (beta_host, PARTITION_NODES)):
        host.run(["bash", "-euc", script])
    alpha_host.run(["systemctl", "restart", WORKER])  # or its next inventory is up to a minute away
    ada.sees("disk", "stopped", 70)
    archive = archive_of(ada, ada.succeed(order_export(ada, "disk"), 180))
    assert (archive["format"], archive["state"]) == ("raw", "ready")
    ada.succeed(build(ada, "disk-copy", archive["id"]), 240)
    ada.sees("disk-copy", "running", 20, "beta")
    shown = ["machinectl", "show-image", "disk-copy", "--property=Type", "--value"]
    assert beta_host.run(shown).stdout.strip() == "raw"
    leader = beta_host.run(["machinectl", "show", "disk-copy", "--property=Leader", "--value"]).stdout.strip()
    assert beta_host.run(["nsenter", "--target", leader, "--all", "--", "hostname"]).stdout == "disk-copy\n"
    assert leftovers(beta_host) == []


# A disk as from a cloud: something before the root, and only the types of partitions to tell which is which.
DISK = """
mkdir /srv/disk; cd /srv/disk
printf '[Partition]\nType=swap\nSizeMinBytes=16M\nSizeMaxBytes=16M\n' > 10.conf
printf '[Partition]\nType=linux-generic\nFormat=btrfs\nSizeMinBytes=120M\nSizeMaxBytes=120M\n' > 20.conf
printf '[Partition]\nType=root\nFormat=btrfs\nCopyFiles=/var/lib/machines/flat:/\n' > 30.conf
systemd-repart --empty=create --size=1G --dry-run=no --definitions=/srv/disk /var/lib/machines/disk.raw
"""
# In a host of its own the kernel makes the nodes of partitions; in a sandbox they are the outer machine's.
PARTITION_NODES = """
mkdir /dev/outside; mount -t devtmpfs devtmpfs /dev/outside
for disk in /dev/loop[0-9]*; do for number in 1 2 3; do ln -s outside/${disk##*/}p$number ${disk}p$number; done; done
"""


def test_killed_worker_courier_and_web_cost_an_export_nothing(origin, ada, panel, alpha_host):
    job = order_export(ada, origin)
    until(lambda: "pack" in ada.job(job["id"])["phases"], 60)
    alpha_host.run(["systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", WORKER], check=False)
    panel.restart_part("courier", signal.SIGKILL)
    panel.restart_part("web", signal.SIGKILL)
    until(lambda: ada.job(job["id"])["state"] == "succeeded", 180, lambda: str(ada.job(job["id"])))
    until(lambda: archive_of(ada, job)["state"] == "ready", 10)
    until(lambda: leftovers(alpha_host) == [], 20, lambda: str(leftovers(alpha_host)))


def test_a_cancelled_export_leaves_nothing_anywhere(origin, ada, panel, alpha_host):
    before = sorted(Path(panel.data / "archives").iterdir())
    job = order_export(ada, origin)
    until(lambda: "pack" in ada.job(job["id"])["phases"], 60)
    ada.post(f"/jobs/{job['id']}/cancel/", page=f"/jobs/{job['id']}/")
    assert ada.end_of(job)["state"] == "cancelled"
    assert ada.rows("SELECT * FROM machines_archive WHERE job_id = ?", job["id"]) == []
    assert sorted(Path(panel.data / "archives").iterdir()) == before
    until(lambda: leftovers(alpha_host) == [], 20, lambda: str(leftovers(alpha_host)))
