"""The panel's keys whose orders this host obeys. They change by an order that one of them has signed, and stand in host.env."""

import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nacl.signing import VerifyKey

from machines.contract.envelope import key_id
from machines.contract.problems import NotAllowed
from machines.host.context import private_files
from machines.host.system.faults import Misconfigured

VARIABLE = "NSPAWNPANEL_PANEL_KEYS"


class PanelKeys(Mapping[str, VerifyKey]):
    """By their ids. Read by every thread; what is replaced is the whole."""

    def __init__(self, keys: Mapping[str, VerifyKey], file: Path) -> None:
        self._keys, self._file, self._lock = dict(keys), file, threading.Lock()

    def __getitem__(self, name: str) -> VerifyKey:
        return self._keys[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def ids(self) -> list[str]:
        """As a heartbeat tells them."""
        return sorted(self._keys)

    def trust(self, keys: Sequence[str], *, signed_by: str) -> None:
        """Obey these from now on, in base64, and no others. On disk first. Raises NotAllowed where the key that signed this
        is not among them, which would leave nobody to take it back; Misconfigured, OSError."""
        new = {key_id(key): key for key in (VerifyKey(b64decode(text)) for text in keys)}
        if signed_by not in new:
            raise NotAllowed("The order to obey other keys leaves out the key that signed it.")
        with self._lock:
            if new.keys() == self._keys.keys():
                return
            self._write(new)
            self._keys = new

    def _write(self, keys: Mapping[str, VerifyKey]) -> None:
        text = self._file.read_text()
        lines = [line for line in text.splitlines() if line.partition("=")[0].strip() != VARIABLE]
        if len(lines) == len(text.splitlines()):
            raise Misconfigured(f"{self._file} has no line {VARIABLE}=, so no other keys can be written there.")
        line = f"{VARIABLE}={','.join(b64encode(bytes(key)).decode() for key in keys.values())}"
        private_files.write(self._file, "".join(f"{each}\n" for each in (*lines, line)).encode())
