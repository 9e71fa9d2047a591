"""How to build an image: distribution, release, packages, and the answers for the first boot."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from machines.contract.problems import BadValue

# Debian Policy 5.6.1: at least two characters, lower case, digits, + - .
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_RELEASE = re.compile(r"[a-z][a-z0-9-]{1,30}")
_URL = re.compile(r"(https?|file)://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")
_SSH_KEY = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [^\x00-\x1f\x7f]*)?"
)
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LOCALE = re.compile(r"[A-Za-z][A-Za-z_]*(\.[A-Za-z0-9-]+)?(@[a-z]+)?")
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
# crypt(5): yescrypt or SHA-512, nothing weaker
_PASSWORD_HASH = re.compile(r"\$(y|6)\$[./A-Za-z0-9$=]{8,200}")

DEBIAN_RELEASES = ("trixie", "bookworm", "bullseye", "sid")


def package(text: str) -> str:
    if not _PACKAGE.fullmatch(text) or len(text) > 100:
        raise BadValue(
            f"“{text[:60]}” is not a Debian package name.",
            hint="Such names have lower-case letters, digits, + - and . only.",
            field="packages",
        )
    return text


def release(text: str) -> str:
    if not _RELEASE.fullmatch(text):
        raise BadValue(f"“{text[:40]}” is not a release code name such as bookworm.", field="release")
    return text


def mirror(text: str) -> str:
    if text and (not _URL.fullmatch(text) or len(text) > 500):
        raise BadValue("A mirror is an address that begins with http:// or https:// and has no spaces.", field="mirror")
    # A policy's pattern would not see where dots lead.
    if ".." in text.replace("%2e", ".").replace("%2E", ".").split("/"):
        raise BadValue("The address of the mirror contains “..”; write where it really leads.", field="mirror")
    return text


def ssh_key(text: str) -> str:
    if len(text) > 8192 or not _SSH_KEY.fullmatch(text):
        raise BadValue(
            f"“{text[:40]}…” is not a public SSH key.",
            hint="Paste the line of a .pub file: it begins with ssh-ed25519, ssh-rsa or ecdsa-sha2.",
            field="ssh_keys",
        )
    return text


def hostname(text: str) -> str:
    if text and (len(text) > 64 or not _HOSTNAME.fullmatch(text)):
        raise BadValue("A host name has lower-case letters, digits, dashes and dots, 64 at most.", field="hostname")
    return text


def locale(text: str) -> str:
    if text and not _LOCALE.fullmatch(text):
        raise BadValue("A locale looks like C.UTF-8 or en_GB.UTF-8.", field="locale")
    return text


def timezone(text: str) -> str:
    if text and not _TIMEZONE.fullmatch(text):
        raise BadValue("A time zone looks like UTC or Europe/Berlin.", field="timezone")
    return text


def password_hash(text: str) -> str:
    if text and not _PASSWORD_HASH.fullmatch(text):
        raise BadValue("Only a yescrypt or SHA-512 password hash may travel.", field="root_password")
    return text


# Made here, since inside a class a field's default would hide the function of the same name.
Package = Annotated[str, AfterValidator(package)]
Release = Annotated[str, AfterValidator(release)]
Mirror = Annotated[str, AfterValidator(mirror)]
SshKey = Annotated[str, AfterValidator(ssh_key)]
Hostname = Annotated[str, AfterValidator(hostname)]
Locale = Annotated[str, AfterValidator(locale)]
Timezone = Annotated[str, AfterValidator(timezone)]
PasswordHash = Annotated[str, AfterValidator(password_hash)]


class FirstBoot(BaseModel):
    """What a machine knows before its first start. Nothing in here is secret (see BuildSecrets)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hostname: Hostname = ""
    locale: Locale = "C.UTF-8"
    timezone: Timezone = "UTC"
    ssh_keys: tuple[SshKey, ...] = Field(default=(), max_length=50)


class DebianRecipe(BaseModel):
    """A Debian tree by mmdebstrap(1) or debootstrap(8). An empty mirror means: what the host's own apt sources name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    distribution: Literal["debian"] = "debian"
    release: Release
    packages: tuple[Package, ...] = Field(default=(), max_length=500)
    mirror: Mirror = ""


Recipe = DebianRecipe


class BuildSecrets(BaseModel):
    """Travels only sealed to the host's key; the panel keeps the sealed bytes until the job has ended, never the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root_password_hash: PasswordHash = ""
