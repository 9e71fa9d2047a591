"""Extended attributes in tar headers, as GNU tar, star and bsdtar write them."""

import base64
import struct
from collections.abc import Iterator, Mapping

from machines.host.storage.decompress import refuse

ACLS = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}
_TAGS = {
    ("user", ""): 0x01, ("user", "*"): 0x02, ("group", ""): 0x04, ("group", "*"): 0x08, ("mask", ""): 0x10, ("other", ""): 0x20,
}  # fmt: skip


def read(headers: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """(name, value) of every attribute of an entry. Raises Problem."""
    for key, value in headers.items():
        if key.startswith("SCHILY.xattr."):
            yield key.removeprefix("SCHILY.xattr."), value.encode(errors="surrogateescape")
        elif (
            key.startswith("LIBARCHIVE.xattr.")
            and f"SCHILY.xattr.{key.removeprefix('LIBARCHIVE.xattr.')}" not in headers
        ):
            yield key.removeprefix("LIBARCHIVE.xattr."), base64.b64decode(value + "=" * (-len(value) % 4))
        elif key in ACLS and f"SCHILY.xattr.{ACLS[key]}" not in headers and (acl := _acl(value)):
            yield ACLS[key], acl


def _acl(text: str) -> bytes:
    """An ACL in words (acl(5)) as the kernel takes it; b"" for one that says no more than the mode does.

    Raises Problem for one that names its users by name: they would be this host's.
    """
    entries = []
    for line in text.replace(",", "\n").split():
        tag, who, rights = line.split(":")[:3]
        if who and not who.isdecimal():
            refuse(f"an ACL in it names the user or group “{who[:50]}”; pack it with --numeric-owner.")
        bits = sum(bit for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if letter in rights[:3])
        entries.append((_TAGS[tag, "*" if who else ""], bits, int(who) if who else 0xFFFFFFFF))
    if len(entries) <= 3:
        return b""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))
