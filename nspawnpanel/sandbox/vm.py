"""A whole Debian with a kernel of its own, in QEMU: for what a sandbox host shares with this machine or cannot lose,
its control groups (version 2 alone), its file system (ext4), its power.

Facts, each found by trying:
- It needs no KVM: emulated, it answers after some 30 s where two cores are free. /dev/kvm may be there and not work
  (nested, or with registers missing), so a kernel is booted on it before it is trusted.
- SIGKILL to QEMU's own pid is a cut of power: what the guest had not written to its disk is gone.
- QEMU and ssh are told to die with the thread that started them; the claim is for the case that this was no use.
- A new ssh connection costs an emulated second; one that is kept carries all commands.
"""

import contextlib
import functools
import os
import platform
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nspawnpanel.sandbox import claim, pool, uplink, vm_disk
from nspawnpanel.sandbox.host import CACHE, sweep, valid_name
from nspawnpanel.sandbox.run import CLEAN, SandboxError, kill_group, popen, run
from nspawnpanel.sandbox.trees import Say
from nspawnpanel.valkey import free_port

QEMU = "qemu-system-x86_64"
TOOLS = (QEMU, "mke2fs", "ssh", "ssh-keygen", "setpriv", "systemd-nspawn", "mmdebstrap")
BOOT_TIME = 300.0  # seconds until it must answer; emulated beside other tests it takes a minute
KVM_TIME = 5.0  # in which a kernel on a KVM that works has long ended
WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]
MEMORY = 3072  # MiB
LEAN = "mitigations=off quiet systemd.show_status=error modprobe.blacklist=kvm_amd,powernow_k8,acpi_cpufreq"
CIPHERS = ["-o", "KexAlgorithms=curve25519-sha256", "-o", "Ciphers=aes128-gcm@openssh.com"]  # the cheapest, emulated


def can_emulate() -> str | None:
    """None if this machine can run a virtual machine, else the reason why not, in one sentence."""
    if os.geteuid() != 0:
        return "a virtual machine needs root, to build its disk"
    if platform.machine() != "x86_64":
        return f"the virtual machine is one of x86_64, and emulating that on {platform.machine()} would take too long"
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=CLEAN["PATH"]) is None]:
        return f"a virtual machine needs {', '.join(missing)}; `make setup` installs what is missing"
    return None


@functools.cache
def accelerator(kernel: Path) -> tuple[str, ...]:
    """QEMU's options for KVM where a kernel really boots on it, else for emulation.

    Fact (QEMU 7.2, beside busy processes): with a thread for each processor the kernel inside panics now and then in code
    that another one is just patching (a static key in nf_nat), so they take turns in one.
    """
    emulated = ("-accel", "tcg,thread=single", "-cpu", "max")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return emulated
    kvm = ("-accel", "kvm", "-cpu", "host")
    trial = [QEMU, "-machine", "q35", *kvm, "-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
             "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]  # fmt: skip
    with contextlib.suppress(SandboxError):
        tried = run([*WITH_US, *trial], check=False, timeout=KVM_TIME)  # it finds no disk, panics and ends
        if tried.returncode == 0 and "Linux version" in tried.stdout:
            return kvm
    return emulated


class VirtualMachine:
    """One host with its own kernel. `with VirtualMachine("alpha") as host: host.run(["uname", "-r"])`.

    `install` are shell lines run once in its system, as somebody would who sets the host up; what they leave is kept in
    the cache. `machines` are names of small images it has. Leaving the `with` ends it and deletes its disk.
    """

    gateway = uplink.GATEWAY  # the outer machine's 127.0.0.1, as seen from inside
    suite = vm_disk.SUITE

    def __init__(
        self,
        name: str,
        cache: Path = CACHE,
        *,
        install: Sequence[str] = (),
        machines: Sequence[str] = (),
        say: Say = lambda _: None,
    ) -> None:
        self.name, self.cache, self.say = valid_name(name), cache, say
        self._install, self._machines = tuple(install), tuple(machines)
        self._claim: claim.Claim | None = None
        self._qemu: subprocess.Popen[str] | None = None
        self._link: subprocess.Popen[str] | None = None
        self._port = 0
        self._tree = Path()

    # --- life

    def start(self, timeout: float = BOOT_TIME) -> Self:
        """Make its disk and boot it; returns when commands can be run in it. Raises SandboxError, with what its console
        said, when that takes longer than `timeout` seconds; then nothing of it is left running."""
        if reason := can_emulate():
            raise SandboxError(f"cannot boot {self.name}: {reason}")
        self._tree = vm_disk.prepare(self.cache, self._install, self._machines, self.say)
        self._claim = self._take()
        try:
            self._port = free_port()
            vm_disk.make(self._tree, self._copy, self._file("disk"), self.name, self._new_key())
            self.boot(timeout)
        except BaseException:
            self.destroy()
            raise
        return self

    def boot(self, timeout: float = BOOT_TIME) -> None:
        """Switch it on again, with the disk as it is. Raises SandboxError when it does not answer in time."""
        if self._claim is None or self._qemu is not None:
            raise SandboxError(f"{self.name} is {'not there' if self._claim is None else 'running'}")
        deadline = time.monotonic() + timeout
        with self.console.open("a") as console:
            argv = [*WITH_US, "nice", "-n", "5", *self._argv()]  # both become QEMU, so its pid is the child's
            self._qemu = popen(argv, stdout=console.fileno(), stderr=subprocess.STDOUT)
        self._note()
        while not self._connected():
            if self._qemu.poll() is not None or time.monotonic() > deadline:
                raise SandboxError(f"{self.name} does not answer. Its console: {self._tail()}")

    def cut_power(self) -> None:
        """What it had not written to its disk is gone. boot() brings the power back."""
        self._hang_up()
        if self._qemu:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._qemu.pid, signal.SIGKILL)
            self._qemu.wait()
            self._qemu = None

    def reboot(self, timeout: float = BOOT_TIME) -> None:
        """Shut it down and boot it again. Raises SandboxError as boot() does."""
        self.shut_down()
        self.boot(timeout)

    def shut_down(self, timeout: float = 90.0) -> None:
        """In good order, or after `timeout` seconds not."""
        if self._qemu:
            self.run(["systemctl", "poweroff"], check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu.wait(timeout)
        self.cut_power()

    def stop(self) -> None:
        """Shut it down; its disk goes too."""
        self.shut_down()
        self.destroy()

    def destroy(self) -> None:
        """End it at once and delete its disk."""
        self.cut_power()
        if self._claim:
            pool.drop(self._copy)
            self._claim.release(forget=True)
            self._claim = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.destroy()

    # --- work inside

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,  # noqa: A002 - the word subprocess uses
        check: bool = True,
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` as root inside, without a terminal. Raises CommandFailed (if `check`) on a status other than 0,
        SandboxError after `timeout` seconds."""
        return run(self._entered(argv), input=input, check=check, timeout=timeout)

    def popen(self, argv: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
        """Start `argv` inside, with stdout and stderr as pipes unless told otherwise."""
        return popen(self._entered(argv), **streams)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside, its folders included, in one step: written aside and renamed."""
        aside = f"{path}.sandbox-new"
        self.run(["install", "-D", "-m", f"{mode:o}", "/dev/stdin", aside], input=text)
        self.run(["mv", "-f", "-T", "--", aside, path])

    def read(self, path: str) -> str:
        """The text of a file inside."""
        return self.run(["cat", "--", path]).stdout

    def failed(self) -> list[str]:
        """The units that failed, once its boot has ended. Raises SandboxError when that takes too long."""
        self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=BOOT_TIME)
        listed = self.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout.splitlines()
        return [line.split()[0] for line in listed if line.strip()]

    @property
    def console(self) -> Path:
        """What its kernels and systemds printed, all boots after one another."""
        return self._file("console")

    # --- parts

    @property
    def _copy(self) -> Path:
        """Its tree while its disk is made; where sweep() looks for it."""
        return self.cache / "pool" / "hosts" / f"vm-{self.name}"

    def _file(self, kind: str) -> Path:
        return self._copy.with_name(f".vm-{self.name}.{kind}")

    def _take(self) -> claim.Claim:
        with pool.locked(self.cache / "claims.lock"):  # or a sweep might hold the name just now
            sweep(self.cache, self.say)
            taken = claim.take(self._copy.parent, self._copy.name)
        taken.clear_away()
        taken.note(keep=False)
        return taken

    def _new_key(self) -> str:
        key = self._file("key")
        key.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sandbox", "-f", str(key)])
        return key.with_suffix(".key.pub").read_text()

    def _argv(self) -> list[str]:
        boot = self._tree / "boot"
        kernel, initramfs = next(boot.glob("vmlinuz-*")), next(boot.glob("initrd.img-*"))
        return [
            QEMU, "-machine", "q35", *accelerator(kernel), "-smp", "2", "-m", str(MEMORY),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(kernel), "-initrd", str(initramfs),
            "-append", f"root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 {LEAN}",
            "-drive", f"file={_escaped(self._file('disk'))},if=virtio,format=raw",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._port}-:22", "-device", "virtio-net-pci,netdev=net",
            "-device", "virtio-rng-pci", "-chardev", f"file,id=console,append=on,path={_escaped(self.console)}",
            "-serial", "chardev:console",
        ]  # fmt: skip

    def _ssh(self) -> list[str]:
        return [
            "ssh", "-F", "/dev/null", "-i", str(self._file("key")), "-p", str(self._port), "-S", str(self._file("ssh")),
            "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", *CIPHERS,
        ]  # fmt: skip

    def _entered(self, argv: Sequence[str]) -> list[str]:
        if self._link is None or self._link.poll() is not None:
            raise SandboxError(f"{self.name} is not running")
        return [*self._ssh(), "root@127.0.0.1", shlex.join(argv)]  # ssh hands one text to the login shell

    def _connected(self) -> bool:
        """Try once to open the connection all commands go through; a host that is not up yet costs a few seconds."""
        self._hang_up()
        self._link = popen(
            [*WITH_US, *self._ssh(), "-M", "-N", "root@127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._note()
        while self._link.poll() is None:
            if self._file("ssh").exists():
                return True
            time.sleep(0.1)
        time.sleep(0.2)
        return False

    def _hang_up(self) -> None:
        if self._link:
            kill_group(self._link)
            self._link.wait()
            self._link = None
        self._file("ssh").unlink(missing_ok=True)

    def _note(self) -> None:
        assert self._claim is not None
        processes = [process.pid for process in (self._qemu, self._link) if process]
        self._claim.note(*processes, keep=False)

    def _tail(self) -> str:
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return text.strip()[-2_000:] or "nothing was said"


def _escaped(path: Path) -> str:
    """A comma ends an option of QEMU's, two of them are one."""
    return str(path).replace(",", ",,")
