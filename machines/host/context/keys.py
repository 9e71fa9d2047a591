"""This host's own keys: Ed25519 signs its reports, X25519 opens what is sealed to it. Made once, never sent."""

import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path

from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.host.context import private_files
from machines.host.system.faults import Misconfigured


@dataclass(frozen=True)
class Keys:
    sign: SigningKey = field(repr=False)
    box: PrivateKey = field(repr=False)


def make(folder: Path) -> Keys:
    """The keys in `folder`; those that are missing are made, readable by root alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_one(folder / "sign", bytes(SigningKey.generate()))
    _make_one(folder / "box", bytes(PrivateKey.generate()))
    return load(folder)


def load(folder: Path) -> Keys:
    """Raises Misconfigured when they are missing or others may read them."""
    return Keys(SigningKey(_read(folder / "sign")), PrivateKey(_read(folder / "box")))


def replace(new: Path, folder: Path) -> None:
    """Put the keys of `new` in the place of those in `folder`, each whole; `new` stays, so that it can be done again where
    it was cut short. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("box", "sign"):
        private_files.write(folder / name, (new / name).read_bytes())


def _make_one(file: Path, secret: bytes) -> None:
    """Written aside and linked into place, so that two at once agree on one key."""
    if file.exists():
        return
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    private_files.create(aside, b64encode(secret))
    try:
        os.link(aside, file)
    except FileExistsError:
        return
    finally:
        aside.unlink()


def _read(file: Path) -> bytes:
    try:
        mode = file.stat().st_mode
        secret = b64decode(file.read_text())
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"{file} cannot be read: {error}",
            hint="Run on this host: cd /opt/nspawnpanel/src && ../bin/python -m machines.host.agent.enrol",
        ) from error
    if mode & 0o077:
        raise Misconfigured(f"{file} is readable by others.", hint=f"Run: chmod 600 {file}")
    return secret
