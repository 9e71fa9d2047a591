"""What no machine may have of its host, by whatever name it is called."""

import ctypes
import os
import socket
import sys
from pathlib import Path

import pytest

from machines.contract.configuration import command_line, nspawn, protected
from machines.contract.configuration.protected import Place
from machines.contract.problems import Problem
from machines.host.files.nspawn_file import Files
from machines.host.machine import lint
from machines.host.observe import host_facts
from machines.host.policy import protection, real_paths
from machines.host.policy.protection import Protection
from machines.host.system import guarded


def why(text: str, *places: Path | str, secret: bool = False, as_root: bool = False) -> str:
    """Why a line of [Files] is refused where these places are protected; "" when it is not."""
    guard = Protection([Place(str(path), "programs that root runs", secret) for path in places])
    sources = protection.sources(nspawn.parse(f"[Files]\n{text}\n"))
    return "; ".join(broken.why for broken in guard.judge(sources, as_root=as_root))


@pytest.fixture
def worker(tmp_path) -> Path:
    """Programs of root's, in a folder of a folder."""
    folder = tmp_path / "opt" / "worker"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("program")
    return folder


@pytest.mark.parametrize(
    "bind", ["{0}", "{0}/bin", "{0}/bin/python", "{0}/..", "{0}/bin/../../worker", "/", "{0}/missing"]
)
def test_the_place_what_lies_in_it_and_what_holds_it_are_one(worker, bind):
    assert "No machine may write to that" in why(f"Bind={bind.format(worker)}:/x", worker)


def test_what_lies_beside_it_may_be_had(worker):
    beside = worker.with_name("worker-data")
    beside.mkdir()
    assert why(f"Bind={beside}\nOverlay={worker}:{beside}:/x\nBind=+{worker}\nBind=:/tmp", worker) == ""


@pytest.mark.parametrize("line", ["Overlay=/srv:{0}:/x", "Overlay=/srv:{0}", "Bind={0}:/x:norbind", "Bind={0}::rbind"])
def test_whichever_line_brings_it(worker, line):
    assert "programs that root runs" in why(line.format(worker), worker)


def test_a_link_is_followed_wherever_it_stands_on_the_way(worker, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to(worker.parent)
    assert "leads to" in why(f"Bind={tmp_path}/a/worker:/x", worker)
    assert "leads to" in why(f"Bind={tmp_path}/a:/x", worker)


def test_a_path_with_colons_and_backslashes_is_read_as_systemd_reads_it(tmp_path):
    strange = tmp_path / "a:b\\c"
    strange.mkdir()
    assert why("Bind=" + str(strange).replace("\\", "\\\\").replace(":", "\\:") + ":/x", strange)


def test_a_place_that_was_moved_is_found_where_it_went(worker, tmp_path):
    (tmp_path / "link").symlink_to(worker)
    moved = worker.rename(tmp_path / "elsewhere")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(moved)
    assert why(f"Bind={moved}", tmp_path / "link")


def test_what_may_be_read_may_be_bound_read_only(worker):
    assert why(f"BindReadOnly={worker}\nOverlayReadOnly={worker}:/srv:/x", worker) == ""
    assert why(f"BindReadOnly={worker}", worker, as_root=True)  # root inside could remount it


@pytest.mark.parametrize(
    "line", ["BindReadOnly={0}", "BindReadOnly={0}/..", "OverlayReadOnly={0}:/srv:/x", "Overlay={0}:/srv:/x"]
)
def test_secrets_are_not_even_shown(worker, line):
    assert "No machine may see that" in why(line.format(worker), worker, secret=True)


def test_a_file_with_another_name_is_not_written_to(worker, tmp_path):
    os.link(worker / "bin" / "python", tmp_path / "harmless")
    assert "hard links" in why(f"Bind={tmp_path}/harmless", worker)
    assert why(f"BindReadOnly={tmp_path}/harmless", worker) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="a socket of root")
def test_a_socket_of_roots_is_a_door(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("door")
        assert "a socket of root" in why(f"BindReadOnly={tmp_path}/door")
        os.chown("door", 65534, 65534)
        assert why(f"BindReadOnly={tmp_path}/door") == ""


def test_devices_that_give_nothing_away_may_be_named():
    assert why("Bind=/dev/null", "/dev") == ""
    assert "would expose this host" in why("Bind=/dev/tty", "/dev")
    assert "would expose this host" in why("BindReadOnly=/dev/tty", "/dev")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to others")
@pytest.mark.parametrize(("owner", "mode"), [(65534, 0o755), (0, 0o777), (0, 0o775)])
def test_a_path_that_others_can_change_is_no_place_for_root_to_write(tmp_path, owner, mode):
    """Between the last look and the mount anybody who can write to a folder on the way could swap it."""
    shared = tmp_path / "srv"
    (shared / "data").mkdir(parents=True)
    os.chown(shared / "data", 65534, 65534)
    assert why(f"Bind={shared}/data", as_root=True) == ""
    os.chown(shared, owner, owner)
    shared.chmod(mode)
    assert f"users other than root can write to {shared}" in why(f"Bind={shared}/data", as_root=True)
    assert f"users other than root can write to {shared}" in why(f"Bind={shared}/data:/x:idmap")
    assert why(f"Bind={shared}/data") == ""  # an ordinary user of the host inside
    shared.chmod(0o1777)
    if not owner:
        assert f"users other than root can write to {shared}" in why(f"Bind={shared}/data", as_root=True)
        os.chown(shared / "data", 0, 0)
        assert why(f"Bind={shared}/data", as_root=True) == ""


# --- mounts


@pytest.fixture
def own_mounts():
    """What it takes to mount something that nobody else sees."""
    if os.geteuid() != 0:
        pytest.skip("mounting is root's")


def in_own_mounts(work) -> None:
    """Run `work` in a child with a mount namespace of its own; a failing assertion fails the test with its words."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            os.close(read)
            if ctypes.CDLL(None, use_errno=True).unshare(0x20000):
                said = b"unshare"
            guarded._idle.clear()  # its threads are those of the parent
            os.system("mount --make-rprivate /")
            work()
        except BaseException as error:
            said = repr(error).encode()[:4000] or b"failed"
        os.write(write, said)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    if said == "unshare":
        pytest.skip("no mount namespace here")
    assert said == ""


def mount(*words: object) -> None:
    assert os.spawnlp(os.P_WAIT, "mount", "mount", *map(str, words)) == 0


def test_other_mounts_of_the_same_are_the_same(own_mounts, worker, tmp_path):
    shown, below = tmp_path / "srv" / "x", tmp_path / "srv" / "deep" / "er"
    for folder in (shown, below):
        folder.mkdir(parents=True)

    def work() -> None:
        mount("--bind", worker.parent, shown)
        mount("--bind", worker / "bin", below)
        assert "through a mount" in why(f"Bind={shown}:/x", worker)
        assert "through a mount" in why(f"Bind={shown}/worker/bin:/x", worker)
        assert "through a mount" in why(f"Bind={tmp_path}/srv/deep:/x", worker)  # it is recursive
        assert why(f"Bind={tmp_path}/srv/deep:/x:norbind", worker) == ""
        assert "No machine may see that" in why(f"BindReadOnly={shown}", worker, secret=True)

    in_own_mounts(work)


def test_what_another_machine_writes_to_by_another_name_is_no_place_for_a_bind(own_mounts, paths, tmp_path):
    shown, shared = tmp_path / "mnt", tmp_path / "srv"
    shown.mkdir()
    (shared / "mine").mkdir(parents=True)
    for name, bind in {"db": shown, "low": shared / "deep"}.items():
        (paths.machines / name).mkdir()
        (paths.nspawn / f"{name}.nspawn").write_text(f"[Files]\nBind={bind}\n")

    def refused(line: str) -> str:
        try:
            others = lint._others(paths, "web", lambda _: command_line.stock())
            lint._refuse_shared("web", Files(f"[Files]\n{line}\n"), Files(), others)
        except Problem as problem:
            return problem.message
        return ""

    def work() -> None:
        assert refused(f"Bind={shared}/mine") == ""
        mount("--bind", shared, shown)
        assert "db can write to" in refused(f"Bind={shared}/mine")
        assert "db can write to" in refused(f"BindReadOnly={shared}/mine/")
        (paths.nspawn / "db.nspawn").unlink()
        assert "low binds" in refused(f"Bind={shown}")

    in_own_mounts(work)


def test_a_file_is_the_same_by_another_mount(own_mounts, worker, tmp_path):
    file = tmp_path / "a-file"
    file.write_text("")

    def work() -> None:
        mount("--bind", worker / "bin" / "python", file)
        assert "through a mount" in why(f"Bind={file}", worker)

    in_own_mounts(work)


def test_an_overlay_is_what_it_is_laid_over(own_mounts, worker, tmp_path):
    for name in ("lower", "upper", "work", "shown"):
        (tmp_path / name).mkdir()

    def work() -> None:
        mount("-t", "tmpfs", "tmpfs", tmp_path / "upper")
        for name in ("opt/bin", "work"):
            (tmp_path / "upper" / name).mkdir(parents=True)
        options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper/opt,workdir={tmp_path}/upper/work"
        mount("-t", "overlay", "overlay", "-o", options, tmp_path / "shown")
        assert "through a mount" in why(f"Bind={tmp_path}/shown", tmp_path / "upper" / "opt")
        assert "through a mount" in why(f"Bind={tmp_path}/shown/bin", tmp_path / "upper" / "opt" / "bin")
        assert why(f"Bind={tmp_path}/shown/bin", worker) == ""

    in_own_mounts(work)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("lowerdir={top}/plain:{top}/na\\:me", "na:me"),
        ("lowerdir={top}/plain,upperdir={top}/up/na\\,me,workdir={top}/up/work", "up/na,me"),
    ],
)
def test_a_layer_of_an_overlay_may_have_any_name(own_mounts, tmp_path, options, name):
    for folder in ("plain", "na:me", "up", "shown"):
        (tmp_path / folder).mkdir()

    def work() -> None:
        mount("-t", "tmpfs", "tmpfs", tmp_path / "up")
        for folder in ("work", "na,me"):
            (tmp_path / "up" / folder).mkdir()
        mount("-t", "overlay", "overlay", "-o", options.format(top=tmp_path), tmp_path / "shown")
        assert "through a mount" in why(f"Bind={tmp_path}/shown", tmp_path / name)

    in_own_mounts(work)


def test_layers_given_one_by_one_are_seen_as_well():
    """As a mount of Linux 6.8 and later may be written, told by 6.18."""
    line = r"9 1 0:9 / /x rw - overlay overlay rw,lowerdir+=/lo:w,lowerdir+=/a\040b,upperdir=/up,workdir=/w,uuid=on"
    assert sorted(real_paths._shown(real_paths._mount(line))) == ["/a b", "/lo:w", "/up"]


def test_a_place_seen_through_an_overlay_is_found_below_it(own_mounts, tmp_path):
    """As where the root of a live system is an overlay: /usr then lies in the upper layer."""
    for name in ("lower", "layers", "root"):
        (tmp_path / name).mkdir()

    def work() -> None:
        mount("-t", "tmpfs", "tmpfs", tmp_path / "layers")
        for name in ("upper/usr", "work"):
            (tmp_path / "layers" / name).mkdir(parents=True)
        options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/layers/upper,workdir={tmp_path}/layers/work"
        mount("-t", "overlay", "overlay", "-o", options, tmp_path / "root")
        assert "through a mount" in why(f"Bind={tmp_path}/layers/upper", tmp_path / "root" / "usr")

    in_own_mounts(work)


# --- this host's own places


def test_the_table_names_what_root_runs_and_this_host_adds_its_worker(paths):
    whole = protection.places(paths)
    told = {place.path: place for place in whole}
    assert told[str(protection.SOURCE)].why == protected.WORKER
    assert told[str(paths.state)].secret
    assert told[str(paths.machines)].secret
    assert told["/etc/nspawnpanel"].secret
    for path in ("/usr/bin/env", "/lib/systemd", "/root/.ssh", "/run/docker.sock", "/var/run/docker.sock", "/boot", "/proc/1/root",
                 "/var/spool/cron/crontabs", "/var/lib/systemd", "/run/systemd/private", "/dev/mem", "/var/lib", "/var", "/"):  # fmt: skip
        assert protected.met(path, whole, writable=True), path
    for path in (
        "/srv",
        "/mnt/x",
        "/media",
        "/home/ada",
        "/var/www",
        "/var/lib/postgresql",
        "/run/postgresql",
        "/optional",
        "/tmp/x",
    ):
        assert not protected.met(path, protected.TABLE, writable=True), path


@pytest.mark.parametrize(
    "path", ["/usr/share/x", "/etc/ssl/certs", "/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"]
)
def test_what_is_harmless_may_be_read(path):
    assert not protected.met(path, protected.TABLE, writable=False)


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "/etc/shadow",
        "/var/lib/nspawnpanel/keys",
        "/run/dbus/system_bus_socket",
        "/proc/self/root/srv",
        "//root/",
        "/srv/../root",
    ],
)
def test_keys_and_sockets_may_not(path):
    assert protected.met(path, protected.TABLE, writable=False)


def test_programs_of_the_hosts_units_are_protected_wherever_they_lie(paths, tmp_path):
    program, script = tmp_path / "srv" / "agent", tmp_path / "srv" / "agent.py"
    program.parent.mkdir()
    for file in (program, script):
        file.write_text("")
    (paths.units / "agent.service").write_text(f"[Service]\nExecStart=-{program} --fast \\\n  {script}\n")
    (paths.units / "theirs.service").write_text(f"[Service]\nUser=www-data\nExecStart={tmp_path}/elsewhere\n")
    (paths.units / "linked.service").symlink_to(tmp_path / "srv" / "linked.service")
    told = {place.path: place.why for place in protection.own_places(paths)}
    assert told[str(program)] == told[str(script)] == "a program that agent.service runs as root"
    assert str(tmp_path / "srv" / "linked.service") in told
    assert str(tmp_path / "elsewhere") not in told
    assert why(f"Bind={tmp_path}/srv", *told)


def test_where_python_was_started_is_no_program_of_the_worker(paths, monkeypatch, tmp_path):
    """A job's unit is started in /, and everything lies in that."""
    monkeypatch.setattr(sys, "path", ["/", *sys.path])
    (paths.machines / "odd").symlink_to("/")
    assert "/" not in {place.path for place in protection.own_places(paths)}
    monkeypatch.setattr(sys, "path", [str(tmp_path / "started"), *sys.path[1:]])
    (tmp_path / "started").mkdir()
    assert str(tmp_path / "started") not in {place.path for place in protection.own_places(paths)}


def test_a_machine_that_lies_elsewhere_is_protected_there(paths, tmp_path):
    (tmp_path / "disk" / "web").mkdir(parents=True)
    (paths.machines / "web").symlink_to(tmp_path / "disk" / "web")
    assert {place.path: place for place in protection.own_places(paths)}[str(tmp_path / "disk" / "web")].secret


def test_a_file_system_in_a_file_is_reached_by_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(real_paths, "LOOPS", tmp_path)
    (tmp_path / "loop7" / "loop").mkdir(parents=True)
    (tmp_path / "loop7" / "loop" / "backing_file").write_text("/srv/pool.raw\n")
    line = "36 25 0:32 / /var/lib/machines rw - btrfs /dev/loop7 rw,subvol=/"
    assert list(real_paths.Mounts((real_paths._mount(line),)).files_of("0:32")) == ["/srv/pool.raw"]


def test_what_a_host_tells_may_be_anything():
    assert (
        protected.as_told(None) == protected.as_told("/etc") == protected.as_told([1, {"path": 3}, {"path": "x"}]) == []
    )
    assert protected.as_told([place.model_dump() for place in host_facts._protected([Place("/opt/x", "y", True)])]) == [
        Place("/opt/x", "y", True)
    ]
