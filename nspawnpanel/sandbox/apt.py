"""Where a sandbox's packages come from: this machine's own apt sources, and the settings by which they are reached.

A machine behind a mirror, a proxy or a company's certificate authority then builds its trees, and the trees inside
its sandboxes, from the same place it installs its own packages from.
"""

import re
from urllib.parse import urlsplit, urlunsplit

from machines.contract import apt_sources
from machines.contract.apt_sources import Source


def debian(suite: str, mirror: str | None = None) -> list[Source]:
    """The sources of a Debian `suite`: from `mirror` when named, else from where this machine takes its own Debian.

    Empty on a machine that takes Debian from nowhere (Ubuntu, say): mmdebstrap then knows a mirror by itself. Only
    official suites and the component main: third-party archives have no business in a sandbox.
    """
    if mirror:
        return [Source(mirror.rstrip("/"), suite, ("main",))]
    return apt_sources.for_release(suite, apt_sources.read())


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
