"""What this host was told when it joined: from the environment, or from /etc/nspawnpanel/host.env when a job's unit or
a person's shell has no such environment. Fails loudly on nonsense."""

import glob
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from nacl.signing import VerifyKey

from machines.contract import routes
from machines.contract.configuration import egress_rules
from machines.contract.envelope import key_id
from machines.host.system.faults import Misconfigured
from machines.host.system.paths import Paths

FILE = Path("/etc/nspawnpanel/host.env")


@dataclass(frozen=True)
class Settings:
    """One host in one of its generations. `panel_keys` maps key ids to the keys whose orders are obeyed."""

    host: UUID
    generation: int
    redis_url: str = field(repr=False)  # holds the password of this host's Redis user
    panel_keys: Mapping[str, VerifyKey]
    paths: Paths
    redis_pins: tuple[
        str, ...
    ] = ()  # SHA-256 of certificates of Redis, in hex; () for what this host's authorities sign
    panels: tuple[str, ...] = ()  # shell patterns of the panel's addresses; () when nothing is known of them


def read(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings out of NSPAWNPANEL_* variables. Raises Misconfigured naming the variable that is wrong."""
    env = {**_from_file(FILE), **os.environ} if environment is None else environment
    try:
        host = UUID(_text(env, "HOST_ID"))
        generation = int(_text(env, "GENERATION"))
        keys = [VerifyKey(b64decode(word)) for word in _text(env, "PANEL_KEYS").split(",")]
    except (ValueError, TypeError) as error:
        raise Misconfigured(
            f"NSPAWNPANEL_HOST_ID, _GENERATION or _PANEL_KEYS cannot be read: {error}",
            hint=f"Copy the lines the panel showed when the host was added into {FILE}.",
        ) from error
    if number := routes.other_database(_text(env, "REDIS_URL")):
        raise Misconfigured(
            f"NSPAWNPANEL_REDIS_URL ends in /{number}, but only database 0 of Redis is used.",
            hint=f"End it in /0 in {FILE}.",
        )
    return Settings(
        host=host,
        generation=generation,
        redis_url=_text(env, "REDIS_URL"),
        panel_keys={key_id(key): key for key in keys},
        paths=Paths(state=state(env)),
        redis_pins=_pins(env),
        panels=_panels(env),
    )


def _panels(env: Mapping[str, str]) -> tuple[str, ...]:
    """Where the panel is, as it said when this host joined. One that did not and has its Redis on this very host may be
    there itself."""
    if address := env.get("NSPAWNPANEL_PANEL_URL", "").strip():
        return (f"{glob.escape(address.rstrip('/'))}/*",)
    redis = _text(env, "REDIS_URL")
    number = egress_rules.literal(redis)
    is_here = urlsplit(redis).hostname in {None, "localhost"} or (number is not None and number.is_loopback)
    return ("*",) if is_here else ()


def _pins(env: Mapping[str, str]) -> tuple[str, ...]:
    """Raises Misconfigured: with a pin that cannot be read, any other certificate would be taken in its place."""
    words = [word for word in env.get("NSPAWNPANEL_REDIS_PINS", "").split(",") if word.strip()]
    pins = tuple(word.strip().lower().replace(":", "") for word in words)
    if bad := [pin for pin in pins if not re.fullmatch("[0-9a-f]{64}", pin)]:
        raise Misconfigured(
            f"NSPAWNPANEL_REDIS_PINS has “{bad[0][:80]}”, which is no SHA-256 sum.",
            hint="openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE prints the right one.",
        )
    return pins


def state(environment: Mapping[str, str] | None = None) -> Path:
    """The directory of ledger and keys."""
    env = {**_from_file(FILE), **os.environ} if environment is None else environment
    return Path(env.get("NSPAWNPANEL_STATE") or Paths().state)


def _text(env: Mapping[str, str], name: str) -> str:
    value = env.get(f"NSPAWNPANEL_{name}", "").strip()
    if not value:
        raise Misconfigured(
            f"NSPAWNPANEL_{name} is not set.",
            hint=f"Copy the lines the panel showed when the host was added into {FILE}.",
        )
    return value


def _from_file(file: Path) -> dict[str, str]:
    """NAME=VALUE lines as systemd's EnvironmentFile= reads them, quotes around the value allowed."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.strip().split("=", 1) for line in lines if "=" in line and line.strip()[0] not in "#;")
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}
