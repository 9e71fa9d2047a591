"""Builds without waiting for the disk: fsync and its kin do nothing in the child, the whole tree is synced once at the
end.

dpkg syncs every file it unpacks, which on btrfs costs as much as the rest of the build. A seccomp filter answers those
calls with success, as systemd-nspawn's SuppressSync= does. Until the final sync the tree is nothing but a temporary.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38
_ALLOW, _ANSWER_ZERO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with errno 0
# machine → (AUDIT_ARCH, numbers of sync, syncfs, fsync, fdatasync, msync, sync_file_range)
_CALLS = {
    "x86_64": (0xC000003E, (162, 306, 74, 75, 26, 277)),
    "aarch64": (0xC00000B7, (81, 267, 82, 83, 227, 84)),
}
_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def program(arch: int, numbers: tuple[int, ...]) -> bytes:
    """The BPF: other architectures pass, the listed calls return 0, the rest passes."""
    load_arch, load_number = _instruction(0x20, 0, 0, 4), _instruction(0x20, 0, 0, 0)
    count = len(numbers)
    tests = [_instruction(0x15, count - index, 0, number) for index, number in enumerate(numbers)]
    return b"".join([
        load_arch, _instruction(0x15, 1, 0, arch), _instruction(0x06, 0, 0, _ALLOW),
        load_number, *tests, _instruction(0x06, 0, 0, _ALLOW), _instruction(0x06, 0, 0, _ANSWER_ZERO),
    ])  # fmt: skip


def without_sync() -> Callable[[], None] | None:
    """What run.run() does in the child; None on a machine this is not written for. A refusal of the kernel only costs
    time, so it is not an error."""
    known = _CALLS.get(platform.machine())
    if known is None:
        return None
    code = program(*known)
    wanted = _Program(len(code) // 8, code)
    root = os.geteuid() == 0

    def prepare() -> None:
        if not root:
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0)

    return prepare
