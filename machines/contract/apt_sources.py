"""Where this host's own apt gets its packages, so that builds come from the same place: there is no other default.

Reads both formats, one line per source (sources.list(5)) and deb822 stanzas, and the few apt settings without which a
mirror behind a proxy or a company's certificate authority cannot be reached.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

APT = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
UBUNTU_KEYRING = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
DEBIAN_SUITES = frozenset({
    "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable",
})  # fmt: skip
UBUNTU_SUITES = frozenset({"focal", "jammy", "noble", "plucky", "questing", "resolute", "devel"})
WITHOUT_UPDATES = frozenset({"sid", "unstable", "experimental"})

_ONE_LINE = re.compile(
    r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>[^#]*)(?:#.*)?"
)
_CARRIED = re.compile(
    r'^(Acquire::(?:https?::(?:Proxy\S*|CaInfo|Verify-\S+)|Check-Valid-Until|Check-Date|Retries|ForceIPv4)) "([^"]*)";$', re.M
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One archive: `deb URI SUITE COMPONENT…`."""

    uri: str
    suite: str
    components: tuple[str, ...]

    @property
    def codename(self) -> str:
        """bookworm for bookworm, bookworm-updates, bookworm-security and bookworm/updates."""
        return re.split(r"[-/]", self.suite)[0]

    def line(self, keyring: str = KEYRING) -> str:
        """As one line of sources.list(5), trusted through this keyring alone if one is given."""
        signed = f"[signed-by={keyring}] " if keyring else ""
        return f"deb {signed}{self.uri} {self.suite} {' '.join(self.components)}"


def parse_one_line(text: str) -> Iterator[Source]:
    """sources.list(5), one source per line; disabled lines and deb-src are left out."""
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line)
        if match:
            yield Source(match["uri"].rstrip("/"), match["suite"], tuple(match["components"].split()))


def parse_deb822(text: str) -> Iterator[Source]:
    """Stanzas of *.sources files; those with Enabled: no or without Types: deb are left out."""
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri.rstrip("/"), suite, components)


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", kept):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line[:1].isspace() and key:
                fields[key] += f" {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields:
            yield fields


def read(folder: Path = APT) -> list[Source]:
    """Every binary source of this host, in apt's order. A file that cannot be read counts as empty, as for apt."""
    found: list[Source] = []
    for file in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        try:
            text = file.read_text(errors="replace") if file.suffix in {".list", ".sources"} else ""
        except OSError:
            continue
        found += parse_deb822(text) if file.suffix == ".sources" else parse_one_line(text)
    return found


def of(distribution: str, sources: Iterable[Source]) -> list[Source]:
    """Those that are the distribution's own archive or a mirror of it."""
    suites = UBUNTU_SUITES if distribution == "ubuntu" else DEBIAN_SUITES
    return [s for s in sources if s.codename in suites and "main" in s.components]


def archive(sources: Iterable[Source], distribution: str = "debian") -> str:
    """The address this host takes the distribution from, "" when it takes it from nowhere."""
    return next((s.uri for s in of(distribution, sources) if s.suite == s.codename), "")


def for_release(
    release: str, sources: Iterable[Source], distribution: str = "debian", components: tuple[str, ...] = ("main",)
) -> list[Source]:
    """This host's own sources, written for `release`: the archive, its updates, and security where it has one."""
    own = of(distribution, sources)
    main = archive(own, distribution)
    if not main:
        return []
    wanted = [Source(main, release, components)]
    if release in WITHOUT_UPDATES:
        return wanted
    if any(s.suite.endswith("-updates") for s in own):
        wanted.append(Source(main, f"{release}-updates", components))
    security = next((s.uri for s in own if s.suite.endswith(("-security", "/updates"))), "")
    if security:
        wanted.append(Source(security, f"{release}-security", components))
    return wanted


def carried(dump: str) -> str:
    """The lines of `apt-config dump` without which the mirror cannot be reached from here."""
    return "".join(f'{key} "{value}";\n' for key, value in _CARRIED.findall(dump) if value)
