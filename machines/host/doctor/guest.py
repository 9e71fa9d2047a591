"""What an image says of itself, read from outside by openat2: nothing in it is run and nothing in it is believed
further than the machine itself is concerned.

It is read below /var/lib/machines and not through /proc/LEADER/root: what a machine mounts over its own files (a file
system that never answers, for one) is not seen from here.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from machines.host.system import tree

NETWORKD = "systemd-networkd.service"
_UNITS = "etc/systemd/system"
_SHARED = re.compile(r"libsystemd-shared-(\d{3})\b")
_WORDS = re.compile(r"[0-9A-Fa-f:.%a-z]{2,60}")


@dataclass(frozen=True)
class Guest:
    image: Path

    @property
    def is_readable(self) -> bool:
        return tree.exists(self.image, "usr")

    @cached_property
    def systemd(self) -> int:
        """The number of the systemd in the image, by its library's name; 0 when it cannot be told."""
        for folder in ("usr/lib/systemd", "usr/lib64/systemd", *self._multiarch(), "lib/systemd"):
            for name in tree.names(self.image, folder):
                if match := _SHARED.match(name):
                    return int(match[1])
        return 0

    def _multiarch(self) -> list[str]:
        return [f"usr/lib/{name}/systemd" for name in tree.names(self.image, "usr/lib") if "-linux-" in name]

    @property
    def has_networkd(self) -> bool:
        return any(tree.exists(self.image, f"{lib}/systemd/systemd-networkd") for lib in ("usr/lib", "lib"))

    def is_masked(self, unit: str) -> bool:
        return tree.link(self.image, f"{_UNITS}/{unit}") == "/dev/null"

    def is_enabled(self, unit: str) -> bool:
        """Whether some target wants it."""
        wants = [name for name in tree.names(self.image, _UNITS) if name.endswith((".wants", ".requires"))]
        return any(unit in tree.names(self.image, f"{_UNITS}/{folder}") for folder in wants)

    @property
    def asks_resolved(self) -> bool:
        """Whether its resolv.conf is systemd-resolved's, which lies in /run."""
        return "systemd/resolve/" in tree.link(self.image, "etc/resolv.conf")

    @property
    def name_servers(self) -> list[str]:
        return parse_servers(tree.read_text(self.image, "etc/resolv.conf"))


def parse_servers(text: str) -> list[str]:
    words = (line.split() for line in text.splitlines())
    return [w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and _WORDS.fullmatch(w[1])][:5]
