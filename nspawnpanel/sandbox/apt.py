"""Where Debian packages come from: read from this machine's own apt sources, written for any suite.

A machine behind a mirror, a proxy or a company's certificate authority then builds its trees, and the trees inside
its sandboxes, from the same place it installs its own packages from.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

DEBIAN = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
CODENAMES = {"bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "testing", "unstable"}

_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?:\s+(?P<components>[^#]*))?"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One archive apt reads: `deb URI SUITE COMPONENT…`."""

    uri: str
    suite: str
    components: tuple[str, ...]

    @property
    def codename(self) -> str:
        """bookworm for bookworm, bookworm-updates, bookworm-security and bookworm/updates."""
        return re.split(r"[-/]", self.suite)[0]

    def line(self) -> str:
        """As a one-line source, trusted through Debian's own keyring and nothing else."""
        return f"deb [signed-by={KEYRING}] {self.uri} {self.suite} {' '.join(self.components)}"


def parse(text: str) -> list[Source]:
    """Every enabled binary source of a file's text, in either of apt's two formats (deb822 or one per line)."""
    one_line = [match for line in text.splitlines() if (match := _ONE_LINE.match(line.strip()))]
    if one_line:
        return [Source(m["uri"].rstrip("/"), m["suite"], tuple((m["components"] or "").split())) for m in one_line]
    return [source for fields in _stanzas(text) for source in _sources(fields)]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", kept):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line[:1].isspace() and key:
                fields[key] += f" {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                key = name.strip().lower()
                fields[key] = value.strip()
        if fields:
            yield fields


def _sources(fields: dict[str, str]) -> Iterator[Source]:
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false", "0"}:
        return
    components = tuple(fields.get("components", "").split())
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            yield Source(uri.rstrip("/"), suite, components)


def of_this_machine(etc: Path = Path("/etc/apt")) -> list[Source]:
    """What this machine's apt reads, in the order of its files; an unreadable file counts as empty."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    return [
        source
        for file in files
        if file.is_file() and (file.suffix in {".list", ".sources"})
        for source in parse(file.read_text(errors="replace"))
    ]


def debian(suite: str, machine: Iterable[Source], mirror: str | None = None) -> list[Source]:
    """The sources of a Debian `suite`: from `mirror` when named, else from where `machine` takes its own Debian.

    A machine without Debian sources (Ubuntu, say) gets Debian's public mirror. Only official suites and the
    component main: third-party archives of the outer machine have no business in a sandbox.
    """
    if mirror:
        return [Source(mirror.rstrip("/"), suite, ("main",))]
    known = [source for source in machine if source.codename in CODENAMES and "main" in source.components]
    archive = next((s.uri for s in known if s.suite == s.codename), DEBIAN)
    security = next((s.uri for s in known if s.suite.endswith(("-security", "/updates"))), None)
    if security is None:
        security = SECURITY if archive == DEBIAN else None
    wanted = [Source(archive, suite, ("main",))]
    if suite not in {"sid", "unstable"}:
        wanted.append(Source(archive, f"{suite}-updates", ("main",)))
        wanted += [Source(security, f"{suite}-security", ("main",))] if security else []
    return wanted


def seen_from_inside(url: str, gateway: str) -> str:
    """The same URL as a sandbox must write it: the outer machine's loopback is `gateway` in there."""
    parts = urlsplit(url)
    if parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        return url
    port = f":{parts.port}" if parts.port else ""
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{gateway}{port}" if user else f"{gateway}{port}"))


def carried_over(dump: str, gateway: str) -> str:
    """The lines of `apt-config dump` that decide whether a mirror can be reached, for the apt inside a sandbox."""
    kept = re.findall(
        r'^(Acquire::(?:https?::(?:Proxy\S*|CaInfo)|Check-Valid-Until|Check-Date|Retries)) "([^"]*)";$', dump, re.M
    )
    return "".join(f'{key} "{seen_from_inside(value, gateway)}";\n' for key, value in kept if value)
