"""A machine's settings on their way to another machine: what a clone takes over, and how an archive carries them.

Decision: in a tar archive they are its first members, FOLDER/NAME.nspawn and the drop-in below FOLDER, in front of the
tree. Whoever unpacks it with tar or `machinectl import-tar` gets the same good machine, and beside it two small files
whose paths say where they belong; our own import keeps them out of the tree. systemd's own convention, NAME.nspawn beside
the address of an image, is for pulls: it takes two files, of which the second is soon lost. A disk image has no such
place; its settings stay with the archive on the panel.

What an archive carries may be anybody's: it is shown and judged, and never applied by itself.
"""

import bz2
import contextlib
import io
import lzma
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from machines.contract.configuration import nspawn, values
from machines.contract.configuration.nspawn import Document
from machines.contract.orders import Configuration
from machines.contract.problems import BadValue

FOLDER = ".nspawnpanel"
LOOKED_AT = 512 * 1024  # bytes of an archive's beginning in which its settings are looked for
_MOST = 1024 * 1024  # bytes of that, unpacked
_ENTRIES = 20
_NSPAWN = re.compile(rf"(\./)?{re.escape(FOLDER)}/[^/]+\.nspawn")
_LIMITS = re.compile(rf"(\./)?{re.escape(FOLDER)}/systemd-nspawn@[^/]+\.service\.d/50-nspawnpanel\.conf")
LONGEST = {
    name: next(rule.max_length for rule in Configuration.model_fields[name].metadata if hasattr(rule, "max_length"))
    for name in ("nspawn", "limits")
}


@dataclass(frozen=True)
class Carried:
    """Both files of a machine, without our first line; "" for none."""

    nspawn: str = ""
    limits: str = ""


@dataclass(frozen=True)
class Remark:
    """One line of a .nspawn file that was left out, or that somebody should look at."""

    setting: str  # as Network.Port
    value: str
    why: str
    left_out: bool

    @property
    def line(self) -> str:
        return f"{self.setting.rpartition('.')[2]}={self.value}"


# --- what a clone takes over

# setting → why the clone cannot have the original's
_ONLY_ONE = {
    "Network.Port": "{} has this port of the host",
    "Network.Interface": "a network interface can be in one machine only, and {} has it",
    "Network.VirtualEthernetExtra": "the interface of this name on the host is that of {}",
    "Exec.MachineID": "it is the identity of {}",
    "Exec.Hostname": "it is the hostname of {}; the clone has its own",
}


def for_clone(text: str, original: str) -> tuple[str, list[Remark]]:
    """The .nspawn text of a clone on the same host, and what is different in it or shared with the original."""
    return _without(text, lambda name, value: _in_the_way(name, value, original), lambda n, v: _shared(n, v, original))


def _in_the_way(name: str, value: str, original: str) -> str:
    if name in _ONLY_ONE:
        return _ONLY_ONE[name].format(original)
    if name == "Exec.PrivateUsers" and value[:1].isdecimal():
        return "" if _is_boolean(value) else f"this UID range belongs to {original}; the clone gets its own"
    if name == "Files.Overlay" and (upper := _upper(value)).startswith("/"):
        return f"{original} writes to {upper}; an overlay that two machines write to is corrupted"
    return ""


def _is_boolean(value: str) -> bool:
    """Whether what looks like a number is a boolean: PrivateUsers=1 is yes."""
    try:
        values.boolean(value)
    except BadValue:
        return False
    return True


def _upper(value: str) -> str:
    """The tree of an overlay that is written to; "" for one that systemd makes for each start."""
    parts = values.split_colons(value)
    return parts[-2] if len(parts) >= 3 else parts[-1]


def _shared(name: str, value: str, original: str) -> str:
    source = values.split_colons(value)[0]
    if name == "Files.Bind" and not source.startswith("+"):
        return f"{original} also writes there"
    return ""


def for_elsewhere(text: str) -> tuple[str, list[Remark]]:
    """The text of a machine that was brought from another host, unchanged, and what that host must have."""

    def look(name: str, value: str) -> str:
        source = values.split_colons(value)[0]
        if name in {"Files.Bind", "Files.BindReadOnly"} and not source.startswith("+"):
            return f"the contents of {source} are not in the archive"
        return "it is the identity of the original" if name == "Exec.MachineID" else ""

    return _without(text, lambda _, __: "", look)


def trusted_part(text: str) -> tuple[str, list[Remark]]:
    """What systemd takes from a file that lies beside its image: nothing that gives a machine more rights."""
    why = "systemd does not take it from a file next to the image"

    def ignored(name: str, _: str) -> str:
        setting = nspawn.SETTINGS.get(name)
        return why if setting is None or setting.trusted else ""

    return _without(text, ignored, lambda _, __: "")


def _without(
    text: str, left_out: Callable[[str, str], str], look: Callable[[str, str], str]
) -> tuple[str, list[Remark]]:
    document, remarks = nspawn.parse(nspawn.unmark(text)), []
    for section, key in dict.fromkeys((entry.section, entry.key) for entry in document.settings()):
        name, said = f"{section}.{key}", document.get(section, key)
        reasons = [(value, left_out(name, value)) for value in said]
        remarks += [Remark(name, value, why, left_out=True) for value, why in reasons if why]
        kept = [value for value, why in reasons if not why]
        remarks += [Remark(name, value, look(name, value), left_out=False) for value in kept if look(name, value)]
        if kept != said:
            document.put(section, key, kept)
    return _text(document, changed=any(remark.left_out for remark in remarks)), remarks


def _text(document: Document, *, changed: bool) -> str:
    if changed:
        document.drop_empty_sections()
    return document.text()


# --- into an archive and out of it


def head(name: str, settings: Carried) -> bytes:
    """What stands before a tree's own members in a tar archive packed by zstd; b"" for a machine without settings.

    It is stored as it is in a frame of its own, so that nobody needs zstd to read it.
    """
    files = {
        f"{FOLDER}/{name}.nspawn": settings.nspawn,
        f"{FOLDER}/systemd-nspawn@{name}.service.d/50-nspawnpanel.conf": settings.limits,
    }
    packed = b"".join(_member(path, text.encode()) for path, text in files.items() if text)
    return _stored(packed) if packed else b""


def _member(path: str, data: bytes) -> bytes:
    about = tarfile.TarInfo(f"./{path}")
    about.size, about.mode = len(data), 0o644
    return about.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


# RFC 8878: magic, a descriptor (one segment, its size in four bytes), that size; then blocks, each with its size and kind
_ZSTD, _ONE_SEGMENT, _BLOCK = b"\x28\xb5\x2f\xfd", 0xA0, 128 * 1024


def _stored(data: bytes) -> bytes:
    """One zstd frame of uncompressed blocks."""
    parts = [_ZSTD, struct.pack("<BI", _ONE_SEGMENT, len(data))]
    for at in range(0, len(data), _BLOCK):
        piece = data[at : at + _BLOCK]
        parts += [struct.pack("<I", len(piece) << 3 | (at + _BLOCK >= len(data)))[:3], piece]
    return b"".join(parts)


def _read_stored(data: bytes) -> bytes:
    """What such a frame holds; b"" for every other one."""
    if len(data) < 9 or data[4] != _ONE_SEGMENT:
        return b""
    held, at, last = bytearray(), 9, False
    while not last and at + 3 <= len(data):
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind != 0:
            return b""
        held += data[at + 3 : at + 3 + size]
        at += 3 + size
    return bytes(held)


def read(beginning: bytes) -> Carried:
    """The settings at the front of an archive, by its first LOOKED_AT bytes; none, where none can be found there.

    Packed by zstd only those can be found that head() has put there.
    """
    found: dict[str, str] = {}
    spoilt = (tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, EOFError, struct.error, RecursionError)
    with contextlib.suppress(*spoilt):
        archive = tarfile.TarFile(fileobj=io.BytesIO(_unpacked(beginning)), mode="r")
        for _ in range(_ENTRIES):
            if (entry := archive.next()) is None:
                break
            found |= _setting(archive, entry)
    return Carried(**found)


def _setting(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> dict[str, str]:
    kind = "nspawn" if _NSPAWN.fullmatch(entry.name) else "limits" if _LIMITS.fullmatch(entry.name) else ""
    if not kind or not entry.isreg() or entry.size > LONGEST[kind]:
        return {}
    file = archive.extractfile(entry)
    data = file.read(entry.size) if file else b""
    return {kind: nspawn.unmark(data.decode())} if len(data) == entry.size and b"\0" not in data else {}


def _unpacked(data: bytes) -> bytes:
    """Of something packed its beginning, as much as is there and no more than _MOST."""
    unpackers: dict[bytes, Callable[[], Any]] = {
        b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
        b"BZh": bz2.BZ2Decompressor,
        b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(memlimit=64 * 1024 * 1024),
    }
    if data.startswith(_ZSTD):
        return _read_stored(data)
    unpacker = next((make for magic, make in unpackers.items() if data.startswith(magic)), None)
    if unpacker is None:
        return data
    try:
        return bytes(unpacker().decompress(data, _MOST))
    except (OSError, zlib.error, lzma.LZMAError, EOFError, ValueError):
        return b""
