"""The keys that sign orders, and how one follows another: the current one, the next one once it was prepared, and the
previous one until it is retired. The files are the truth; the database has the public halves and what an administrator asks.

Every host is told which keys to obey, by an order that a key it obeys has signed. An order is signed by the newest key that
its host has said to obey, so whoever switches keys leaves no host behind, also not one that is away.
"""

import logging
from base64 import b64decode, b64encode
from collections.abc import Collection
from pathlib import Path

from django.db import transaction
from django.utils import timezone
from nacl.signing import SigningKey, VerifyKey

from machines.contract.envelope import key_id
from machines.models import Event, EventHead, Host, PanelKey
from machines.panel.audit import entries, verify

log = logging.getLogger(__name__)
State, Ask = PanelKey.State, PanelKey.Ask


class KeyRing:
    """Used by all threads of the courier; follow() by one of them."""

    def __init__(self, current: SigningKey, file: Path | None = None) -> None:
        """`file` is that of the current key; without one it is the only key there will be."""
        self._file = file
        self._keys: dict[str, SigningKey] = {State.CURRENT: current}

    @classmethod
    def of(cls, file: Path) -> "KeyRing":
        """Raises PermissionError when others may read a key."""
        return cls(load_key(file), file)

    @property
    def current(self) -> SigningKey:
        return self._keys[State.CURRENT]

    def publics(self) -> list[str]:
        """What hosts are to obey, in base64."""
        return [public_of(key) for key in self._keys.values()]

    def ids(self) -> list[str]:
        """The same as a host says it back."""
        return sorted(key_id(key.verify_key) for key in self._keys.values())

    def named(self, public: str) -> SigningKey | None:
        return next((key for key in self._keys.values() if public_of(key) == public), None)

    def for_host(self, obeyed: Collection[str]) -> SigningKey:
        """The newest key in use that a host obeys, by the ids it has told; the oldest one where it told none of these."""
        keys = self._keys
        in_use = [keys[state] for state in (State.CURRENT, State.PREVIOUS) if state in keys]
        return next((key for key in in_use if key_id(key.verify_key) in obeyed), in_use[-1])

    # --- what an administrator asks

    def follow(self) -> None:
        """Read the files, write down what they are, and do what was asked of them."""
        if self._file is not None:
            self._keys = _read(self._file)
        known = {row.public: row for row in PanelKey.objects.all()}
        if {public_of(key): state for state, key in self._keys.items()} != {p: row.state for p, row in known.items()}:
            self._write_down()
            return
        for row in known.values():
            if row.asked and self._file is not None:
                self._do(self._file, row)

    def _write_down(self) -> None:
        with transaction.atomic():
            PanelKey.objects.exclude(public__in=self.publics()).delete()
            for state, key in self._keys.items():
                PanelKey.objects.update_or_create(public=public_of(key), defaults={"state": state, "asked": ""})

    def _do(self, file: Path, row: PanelKey) -> None:
        before = (row.asked, row.state)
        PanelKey.objects.filter(pk=row.pk).update(asked="")
        match before:
            case (Ask.PREPARE, State.CURRENT) if State.NEXT not in self._keys:
                load_key(_next(file))
            case (Ask.DISCARD, State.NEXT):
                _next(file).unlink(missing_ok=True)
            case (Ask.SWITCH, State.NEXT) if State.PREVIOUS not in self._keys:
                _switch(file)
            case (Ask.RETIRE, State.PREVIOUS):
                _previous(file).unlink(missing_ok=True)
            case _:
                return
        self._keys = _read(file)
        self._write_down()
        _tell(row)


def untold(ids: list[str]) -> list[Host]:
    """Hosts that live, can be told, and do not obey just these keys."""
    awake = Host.objects.awake(timezone.now()).filter(quarantined_at=None)
    return list(awake.exclude(panel_keys=[]).exclude(panel_keys=ids))


def _tell(row: PanelKey) -> None:
    said = {
        Ask.PREPARE: "prepared the next signing key of the panel",
        Ask.DISCARD: "discarded the next signing key of the panel",
        Ask.SWITCH: "switched the panel to its next signing key",
        Ask.RETIRE: "retired the previous signing key of the panel",
    }[Ask(row.asked)]
    log.info("%s %s", row.asked_by, said)
    entries.record("panel-key-changed", f"{row.asked_by} {said}.", by=row.asked_by, result=Event.Result.DONE)


def earlier(file: Path) -> tuple[verify.Earlier, ...]:
    """The keys that were current before, each with the last entry of the history that it may have sealed."""
    kept = _earlier(file)
    lines = [line.split() for line in kept.read_text().splitlines()] if kept.is_file() else []
    return tuple(verify.Earlier(VerifyKey(b64decode(public)), int(until)) for public, until in lines)


def _switch(file: Path) -> None:
    """Cut short between the steps, both keys are there and it is done again."""
    until = EventHead.objects.filter(pk=EventHead.ONLY).values_list("number", flat=True).first() or 0
    with _earlier(file).open("a") as kept:
        kept.write(f"{public_of(load_key(file))} {until}\n")
    aside = file.with_name(f".{file.name}.aside")
    aside.unlink(missing_ok=True)
    _write(aside, SigningKey(b64decode(file.read_text())))
    aside.replace(_previous(file))
    _next(file).replace(file)


def _read(file: Path) -> dict[str, SigningKey]:
    """A previous key that is still the current one is what a switch that was cut short left."""
    keys: dict[str, SigningKey] = {State.CURRENT: load_key(file)}
    for state, other in ((State.NEXT, _next(file)), (State.PREVIOUS, _previous(file))):
        if other.exists() and (key := load_key(other)) != keys[State.CURRENT]:
            keys[state] = key
    return keys


def _next(file: Path) -> Path:
    return file.with_name(f"{file.name}.next")


def _earlier(file: Path) -> Path:
    return file.with_name(f"{file.name}.earlier")


def _previous(file: Path) -> Path:
    return file.with_name(f"{file.name}.previous")


def public_of(key: SigningKey) -> str:
    return b64encode(bytes(key.verify_key)).decode()


def load_key(path: Path) -> SigningKey:
    """A signing key, made on first use: 32 bytes in base64, readable by its owner alone.

    Raises PermissionError when others may read it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, SigningKey.generate())
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} is readable by others; run: chmod 600 {path}")
    return SigningKey(b64decode(path.read_text()))


def _write(path: Path, key: SigningKey) -> None:
    path.touch(mode=0o600)
    path.write_text(b64encode(bytes(key)).decode() + "\n")
