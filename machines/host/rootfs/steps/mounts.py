"""What the scripts of packages find in a tree while it is being filled: /proc, /sys and a small /dev.

The child that fills the tree has a mount namespace of its own, so these mounts are gone with it, however it ends. Without
them a script's `>/dev/null` would leave a plain file of that name in the image.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from machines.host.system import tree as files

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
KERNELS = {"proc": 0o555, "sys": 0o555, "dev": 0o755}  # folders that are mount points, with their modes

_libc = ctypes.CDLL(None, use_errno=True)


def make_points(root: Path) -> None:
    """The folders to mount on, in a tree that is empty yet. Raises OSError."""
    for name, mode in KERNELS.items():
        files.make_directory(root, name, mode)


def alone() -> None:
    """For a child: what is mounted from now on is seen by nobody else. A refusal of the kernel is no error here: the
    unit of the job has a namespace of its own as well."""
    _libc.unshare(_CLONE_NEWNS)
    _mount(b"none", b"/", None, _MS_REC | _MS_SLAVE)


def around(root: Path) -> Callable[[], None]:
    """What run.run() does in the child before a tool fills the tree; make_points() must have been there."""
    top = os.fsencode(root)

    def prepare() -> None:
        alone()
        _mount(b"proc", top + b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        _mount(b"/sys", top + b"/sys", None, _MS_BIND | _MS_REC)
        _mount(b"tmpfs", top + b"/dev", b"tmpfs", _MS_NOSUID | _MS_NOEXEC)
        for name in DEVICES:
            node = top + b"/dev/" + name.encode()
            with contextlib.suppress(OSError):
                os.close(os.open(node, os.O_CREAT | os.O_CLOEXEC, 0o666))
            _mount(b"/dev/" + name.encode(), node, None, _MS_BIND)
        with contextlib.suppress(OSError):
            os.symlink(b"/proc/self/fd", top + b"/dev/fd")

    return prepare


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    _libc.mount(source, target, kind, ctypes.c_ulong(flags), None)
