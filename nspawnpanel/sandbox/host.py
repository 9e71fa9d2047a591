"""A whole Debian host on this machine: systemd-nspawn boots it, slirp4netns gives it a way out.

Facts, each found by trying:
- The outer machine may not run systemd at all, so: --register=no --keep-unit. nspawn then makes no control group;
  cgroups.py does.
- The host has its own network namespace: networkd inside would otherwise touch the outer machine's links.
- With --notify-ready=yes nspawn passes on READY=1 when the systemd inside has finished booting, and says the
  leader's pid before that. So nothing here polls.
- A command entered with nsenter forks; only its process group is worth killing.
- systemd 256 and later refuse control groups of version 1 unless told twice.
"""

import contextlib
import hashlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nspawnpanel.sandbox import apt, cgroups, claim, pool, trees, uplink
from nspawnpanel.sandbox.run import CLEAN, SandboxError, kill_group, popen, printable, run

CACHE = Path(os.environ.get("NSPAWNPANEL_CACHE", "/var/cache/nspawnpanel"))
BOOT_TIME = 90.0  # seconds until systemd inside must have finished
SERVICE = "nspawnpanel-host.service"
TOOLS = ("systemd-nspawn", "mmdebstrap", "slirp4netns", "nsenter", "unshare", "mkfs.btrfs")
POWEROFF = signal.SIGRTMIN + 4  # to systemd as PID 1
_DEVICES = ("/dev/fuse", "/dev/net/tun", "/dev/loop-control", *(f"/dev/loop{number}" for number in range(8)))
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def can_boot() -> str | None:
    """None if this machine can boot a sandbox, else the reason why not, in one sentence."""
    if os.geteuid() != 0:
        return "a sandbox host needs root"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=CLEAN["PATH"]) is None]:
        return f"a sandbox host needs {', '.join(missing)}; `make setup` installs what is missing"
    if not Path("/dev/net/tun").exists():
        return "a sandbox host needs /dev/net/tun for its way out"
    tried = run(["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"], check=False)
    if tried.returncode != 0:
        return f"this machine lets nobody make namespaces or mounts: {tried.stderr.strip()}"
    if not cgroups.SYSTEMD_RUNS.is_dir() and not os.access("/sys/fs/cgroup", os.W_OK):
        return "a sandbox host needs /sys/fs/cgroup to be writable"
    return None


def valid_name(name: str) -> str:
    """`name`, if a sandbox can have it. Raises SandboxError."""
    if not _NAME.fullmatch(name):
        raise SandboxError(f"{name!r} cannot name a sandbox: small letters, digits and dashes, 31 at most")
    return name


def sweep(cache: Path, say: trees.Say) -> None:
    """Clear away what killed processes left behind: their running hosts, and the trees nobody asked to keep.

    What cannot be cleared stays for the next time, and stops neither the others nor the host that is about to start.
    """
    for left in claim.abandoned(cache / "pool" / "hosts"):
        gone = False
        try:
            gone = _clear_after(cache, left)
        except (SandboxError, OSError) as error:
            say(f"{left.name}, which a killed process left behind, could not be cleared away: {printable(str(error))}")
        finally:
            left.release(forget=gone)


def _clear_after(cache: Path, left: claim.Claim) -> bool:
    """Whether nothing of it is left. Raises SandboxError or OSError."""
    keep = left.clear_away()
    cgroups.leave_nothing(_unit(cache, left.name))
    if not keep:
        pool.drop(cache / "pool" / "hosts" / left.name)
    return not keep


def _unit(cache: Path, name: str) -> str:
    """Two caches may each have a host of this name; clearing up after one must not end the other."""
    mark = hashlib.sha256(str(cache.absolute()).encode()).hexdigest()[:6]
    unit = f"nspawnpanel-sandbox-{name}-{mark}"
    return f"{unit}.scope" if cgroups.SYSTEMD_RUNS.is_dir() else unit


class Sandbox:
    """One host. `with Sandbox("alpha", CACHE) as host: host.run(["machinectl", "list"])`.

    Leaving the `with` deletes the host, or only stops it when `keep` is set: a later start then finds its machines
    and files again. A name belongs to one process at a time; what a killed process left behind under it is cleared.
    """

    gateway = uplink.GATEWAY  # the outer machine's 127.0.0.1, as seen from inside

    def __init__(
        self,
        name: str,
        cache: Path = CACHE,
        *,
        suite: str = "bookworm",
        keep: bool = False,
        say: trees.Say = lambda _: None,
    ) -> None:
        self.name, self.cache, self.suite, self.keep, self.say = valid_name(name), cache, suite, keep, say
        self.leader = 0  # pid of the systemd inside, seen from outside; 0 while it is not running
        self.failed: list[str] = []  # units that failed while it booted
        self._claim: claim.Claim | None = None
        self._nspawn: subprocess.Popen[str] | None = None
        self._uplink: uplink.Uplink | None = None

    @property
    def tree(self) -> Path:
        """The host's root directory, seen from outside."""
        return self.cache / "pool" / "hosts" / self.name

    @property
    def console(self) -> Path:
        """What the host printed while booting."""
        return self.tree.with_name(f".{self.name}.console")

    # --- life

    def start(self, timeout: float = BOOT_TIME) -> Self:
        """Boot, and return when systemd inside is running or degraded (see `failed`); a first time makes the host.

        Raises SandboxError, with what the console said, when it does not come up within `timeout` seconds; then
        nothing of it is left running.
        """
        if reason := can_boot():
            raise SandboxError(f"cannot boot {self.name}: {reason}")
        base = trees.prepare(self.cache, self.suite, say=self.say)
        self._claim = self._take()
        try:
            self._lay_out(base)
            self._boot(timeout)
        except BaseException:
            self.stop(timeout=0)
            raise
        return self

    def stop(self, timeout: float = 10.0) -> None:
        """Power off within `timeout` seconds, or else kill; returns with nothing left running or mounted.

        Without `keep` the host's tree may be gone after this: the next sandbox to start clears it away.
        """
        self._halt(timeout)
        if self._claim:
            self._claim.note(keep=self.keep)
            self._claim.release()
            self._claim = None

    def reboot(self, timeout: float = BOOT_TIME) -> Self:
        """Power off and boot the same tree again. Raises SandboxError as start() does, or if it is not running."""
        if not self._claim:
            raise SandboxError(f"{self.name} is not running")
        self._halt(10.0)
        try:
            self._boot(timeout)
        except BaseException:
            self.stop(timeout=0)
            raise
        return self

    def destroy(self) -> None:
        """Kill it, and delete the host with all its machines. Raises SandboxError while another process runs it."""
        pool.open_pool(self.cache, self.say)
        held = self._claim = self._claim or self._take()
        self._halt(0)
        pool.drop(self.tree)
        self._claim = None
        held.release(forget=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.keep:
            self.stop()
        else:
            self.destroy()

    # --- work inside

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 - the word subprocess uses
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` as root inside, in a clean environment and without a terminal.

        Raises CommandFailed (if `check`) on a status other than 0, SandboxError after `timeout` seconds.
        """
        return run(self._entered(argv), input=input, check=check, timeout=timeout)

    def popen(self, argv: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
        """Start `argv` inside, with stdout and stderr as pipes unless told otherwise.

        The process forks once: end it with `nspawnpanel.sandbox.kill_group(process)`, not with its own kill().
        """
        return popen(self._entered(argv), **streams)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside, its folders included, in one step: written aside and renamed."""
        aside = f"{path}.sandbox-new"
        self.run(["install", "-D", "-m", f"{mode:o}", "/dev/stdin", aside], input=text)
        self.run(["mv", "-f", "-T", "--", aside, path])

    def read(self, path: str) -> str:
        """The text of a file inside."""
        return self.run(["cat", "--", path]).stdout

    def plant(self, machine: str, suite: str | None = None) -> None:
        """Put a small bootable Debian at /var/lib/machines/`machine`, as a snapshot where the pool is btrfs."""
        image = trees.prepare_machine(self.cache, suite or self.suite, say=self.say)
        pool.copy(image, self.tree / "var/lib/machines" / machine)

    def _entered(self, argv: Sequence[str]) -> list[str]:
        if not self.leader:
            raise SandboxError(f"{self.name} is not running")
        return ["nsenter", "--target", str(self.leader), "--all", "--", *argv]

    # --- before the boot

    @property
    def _unit(self) -> str:
        return _unit(self.cache, self.name)

    def _take(self) -> claim.Claim:
        with pool.locked(self.cache / "claims.lock"):  # or a sweep might hold the name just now
            sweep(self.cache, self.say)
            taken = claim.take(self.tree.parent, self.name)
        taken.clear_away()
        cgroups.leave_nothing(self._unit)
        taken.note(keep=self.keep)
        return taken

    def _lay_out(self, base: Path) -> None:
        stamp = self.tree.with_name(f".{self.name}.base")
        if not self.keep:
            pool.drop(self.tree)
        if not self.tree.exists():
            pool.copy(base, self.tree)
            (self.tree / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        elif not stamp.exists() or stamp.read_text() != base.name:
            self.say("renewing the host's Python environment")
            shutil.rmtree(self.tree / trees.HOME)
            run(["cp", "--archive", "--reflink=auto", "--", str(base / trees.HOME), str(self.tree / trees.HOME)])
        stamp.write_text(base.name)
        self._dress()

    def _dress(self) -> None:
        """What may differ at every start: names, where packages come from, the worker's unit."""
        tree = self.tree
        trees.put(tree, "etc/hostname", f"{self.name}\n")
        trees.put(tree, "etc/hosts", f"127.0.0.1 localhost {self.name}\n::1 localhost\n")
        if sources := apt.debian(self.suite):
            trees.put(tree, "etc/apt/sources.list", "".join(f"{source.line()}\n" for source in sources))
        outside = apt.carried_over(run(["apt-config", "dump"]).stdout, self.gateway)
        trees.put(tree, "etc/apt/apt.conf.d/90outside", outside)
        if (certificates := Path("/") / trees.CERTIFICATES).is_file():
            shutil.copyfile(certificates, tree / trees.CERTIFICATES)
        if (trees.REPOSITORY / "machines/host" / SERVICE).is_file():
            trees.link(tree, f"etc/systemd/system/{SERVICE}", f"/{trees.HOME}/src/machines/host/{SERVICE}")

    # --- the boot

    def _boot(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with (
            tempfile.TemporaryDirectory(prefix="nspawnpanel-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
        ):
            notices.bind(f"{folder}/notify")
            with self.console.open("w") as console:
                self._nspawn = popen(
                    cgroups.enter(self._unit, self._argv()),
                    stdout=console.fileno(),
                    stderr=subprocess.STDOUT,
                    env={**CLEAN, "NOTIFY_SOCKET": f"{folder}/notify"},
                )
            self._note()
            self.leader = int(self._hear(notices, rb"X_NSPAWN_LEADER_PID=(\d+)", deadline))
            self._connect(deadline)
            self._hear(notices, rb"(READY=1)", deadline)
        self._check(deadline)

    def _argv(self) -> list[str]:
        source = str(trees.REPOSITORY / "machines").replace(":", "\\:")
        return [
            "systemd-nspawn",
            "--quiet", "--register=no", "--keep-unit", "--settings=no", "--notify-ready=yes", "--console=pipe",
            "--directory", str(self.tree), "--machine", self.name,
            "--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
            "--capability=all", "--system-call-filter=@known",
            f"--bind-ro={source}:/{trees.HOME}/src/machines",
            *(f"--bind={device}" for device in _DEVICES if Path(device).exists()),
            "/host-init", *_for_old_groups(),
        ]  # fmt: skip

    def _hear(self, notices: socket.socket, wanted: bytes, deadline: float) -> bytes:
        """The first notice that has `wanted` in it; SandboxError if the host ends or time runs out before."""
        assert self._nspawn is not None
        ended = os.pidfd_open(self._nspawn.pid)
        try:
            while True:
                ready, _, _ = select.select([notices.fileno(), ended], [], [], max(0.0, deadline - time.monotonic()))
                if notices.fileno() in ready:
                    if found := re.search(wanted, notices.recv(4096)):
                        return found[1]
                elif ready:
                    raise SandboxError(f"{self.name} ended while booting. Its console: {self._tail()}")
                else:
                    raise SandboxError(f"{self.name} did not boot in time. Its console: {self._tail()}")
        finally:
            os.close(ended)

    def _tail(self) -> str:
        return self.console.read_text(errors="replace").strip()[-2_000:] or "nothing was said"

    def _connect(self, deadline: float) -> None:
        self._uplink = uplink.Uplink(self.leader, self.console)
        self._note(self.leader, self._uplink.pid)
        try:
            self._uplink.wait(deadline - time.monotonic())
        except SandboxError as error:
            raise SandboxError(f"{error}. The console of {self.name}: {self._tail()}") from None

    def _note(self, *processes: int) -> None:
        assert self._claim is not None
        assert self._nspawn is not None
        self._claim.note(self._nspawn.pid, *processes, keep=self.keep)

    def _check(self, deadline: float) -> None:
        left = max(1.0, deadline - time.monotonic())
        state = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=left).stdout.strip()
        if state not in {"running", "degraded"}:
            raise SandboxError(f"systemd in {self.name} is {state or 'silent'}. Its console: {self._tail()}")
        listed = self.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout.splitlines()
        self.failed = [line.split()[0] for line in listed if line.strip()]
        if self.failed:
            self.say(f"{self.name} is up, but these units failed: {', '.join(self.failed)}")

    # --- the end

    def _halt(self, timeout: float) -> None:
        self._power_off(timeout)
        if self._uplink:
            self._uplink.close()
            self._uplink = None
        cgroups.leave_nothing(self._unit)
        self.leader = 0

    def _power_off(self, timeout: float) -> None:
        if self._nspawn is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            if self.leader and timeout > 0:
                os.kill(self.leader, POWEROFF)
                self._nspawn.wait(timeout)
        if self._nspawn.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader or self._nspawn.pid, signal.SIGKILL)  # the leader takes all its processes with it
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(5)
        kill_group(self._nspawn)
        self._nspawn.wait()
        self._nspawn = None


def _for_old_groups() -> list[str]:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    return ["systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
