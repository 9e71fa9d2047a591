"""How to make an image: one model per kind of source, and the answers for the first boot.

What a distribution's tools install (debian, dnf, arch, suse) becomes a base: built once on a host, copied ever after.
What is fetched or copied as it is (pull, archive, clone) is not.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from machines.contract.names import machine_name
from machines.contract.problems import BadValue

# Debian Policy 5.6.1: at least two characters, lower case, digits, + - .
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# rpm's and pacman's, and @groups of dnf; a dash may not lead, for it would be an option
_OTHER_PACKAGE = re.compile(r"@?[A-Za-z0-9_][A-Za-z0-9+._-]*")
_RELEASE = re.compile(r"[a-z][a-z0-9-]{1,30}")
_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?(-stream)?|rawhide|tumbleweed")
_COMPONENT = re.compile(r"[a-z0-9][a-z0-9/-]{1,40}")
_URL = re.compile(r"(https?|file)://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]+")
_PROXY = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/?")
_SSH_KEY = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+( [^\x00-\x1f\x7f]*)?"
)
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LOCALE = re.compile(r"[A-Za-z][A-Za-z_]*(\.[A-Za-z0-9-]+)?(@[a-z]+)?")
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OPENPGP = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----\n[\x20-\x7e\n]+\n-----END PGP PUBLIC KEY BLOCK-----\n?")
# crypt(5): yescrypt or SHA-512, nothing weaker
_PASSWORD_HASH = re.compile(r"\$(y|6)\$[./A-Za-z0-9$=]{8,200}")

DEBIAN_RELEASES = ("trixie", "bookworm", "bullseye", "sid")
UBUNTU_RELEASES = ("resolute", "noble", "jammy")
# Names a machine has already; a person cannot be any of them.
SYSTEM_USERS = frozenset({
    "root", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data", "backup",
    "list", "irc", "nobody", "messagebus", "sshd", "systemd-network", "systemd-resolve", "systemd-timesync", "dbus",
    "adm", "shutdown", "halt", "operator", "ftp", "sudo", "wheel",
})  # fmt: skip


def package(text: str) -> str:
    if not _PACKAGE.fullmatch(text) or len(text) > 100:
        raise BadValue(
            f"“{text[:60]}” is not a Debian package name.",
            hint="Such names have lower-case letters, digits, + - and . only.",
            field="packages",
        )
    return text


def other_package(text: str) -> str:
    if not _OTHER_PACKAGE.fullmatch(text) or len(text) > 100:
        raise BadValue(
            f"“{text[:60]}” is not a package name.",
            hint="Write names such as vim-minimal, or a group with an @ before it: @core.",
            field="packages",
        )
    return text


def release(text: str) -> str:
    if not _RELEASE.fullmatch(text):
        raise BadValue(f"“{text[:40]}” is not a release code name such as bookworm.", field="release")
    return text


def version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise BadValue(f"“{text[:40]}” is not a release such as 43, 9 or 10-stream.", field="release")
    return text


def component(text: str) -> str:
    if not _COMPONENT.fullmatch(text):
        raise BadValue(f"“{text[:40]}” is not a component such as main or contrib.", field="components")
    return text


def mirror(text: str) -> str:
    if text and (not _URL.fullmatch(text) or len(text) > 500):
        raise BadValue("A mirror is a URL that begins with http:// or https:// and has no spaces.", field="mirror")
    without_user(text, "mirror")
    # A policy's pattern would not see where dots lead.
    if ".." in text.replace("%2e", ".").replace("%2E", ".").split("/"):
        raise BadValue("The mirror's URL contains “..”; write the resolved path.", field="mirror")
    return text


def one_address(text: str) -> str:
    """Of an rpm repository: commas would part several, and zypper takes what follows a ? as options, such as the file of
    credentials to send there."""
    if set(",;?#") & set(text):
        raise BadValue("The URL of an rpm repository has no commas, ; ? or #.", field="url")
    return mirror(text)


def suite(text: str) -> str:
    """Part of an address too."""
    if ".." in text.split("/"):
        raise BadValue("A suite must not contain “..”.", field="suite")
    return text


def address(text: str) -> str:
    """Of an image to fetch: like a mirror's, but never empty and never a file of the host's."""
    if not text or text.startswith("file:"):
        raise BadValue("Give the URL of the image; it begins with http:// or https://.", field="url")
    without_user(text, "url")
    try:
        return mirror(text)
    except BadValue as problem:
        raise BadValue(
            "This is not the URL of an image.",
            hint="It begins with http:// or https://, has no spaces and no “..”, and ends in the file name.",
            field="url",
        ) from problem


def without_user(text: str, field: str) -> str:
    """Everybody may see an address, and the pattern of a policy ends before the @ that says where it really leads."""
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise BadValue(
            "The URL contains a username or password; everybody who can see the recipe would see it.", field=field
        )
    return text


def proxy(text: str) -> str:
    if text and not _PROXY.fullmatch(text):
        raise BadValue(
            "A proxy looks like http://proxy.example:3128.",
            hint="A password does not belong in a recipe; put such a proxy into the host's own apt settings.",
            field="proxy",
        )
    return text


def openpgp_key(text: str) -> str:
    text = text.replace("\r\n", "\n").strip()
    if text and (len(text) > 32 * 1024 or not _OPENPGP.fullmatch(text)):
        raise BadValue(
            "That is not an OpenPGP public key in text form.",
            hint="Paste the whole block from “-----BEGIN PGP PUBLIC KEY BLOCK-----” to its end.",
            field="key",
        )
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
        raise BadValue("A hostname has lower-case letters, digits, dashes and dots, 64 at most.", field="hostname")
    return text


def locale(text: str) -> str:
    if text and not _LOCALE.fullmatch(text):
        raise BadValue("A locale looks like C.UTF-8 or en_GB.UTF-8.", field="locale")
    return text


def timezone(text: str) -> str:
    if text and not _TIMEZONE.fullmatch(text):
        raise BadValue("A time zone looks like UTC or Europe/Berlin.", field="timezone")
    return text


def login(text: str) -> str:
    if text and not _LOGIN.fullmatch(text):
        raise BadValue("A username has lower-case letters, digits, - and _, and begins with a letter.", field="user")
    if text in SYSTEM_USERS or text.startswith("systemd-"):
        raise BadValue(f"“{text}” is a system user; choose another name.", field="user")
    return text


def sha256(text: str) -> str:
    if text and not _SHA256.fullmatch(text):
        raise BadValue("A SHA-256 checksum has 64 characters, 0-9 and a-f.", field="sha256")
    return text


def password_hash(text: str) -> str:
    if text and not _PASSWORD_HASH.fullmatch(text):
        raise BadValue("Only a yescrypt or SHA-512 password hash may be sent.", field="root_password")
    return text


# Made here, since inside a class a field's default would hide the function of the same name.
Package = Annotated[str, AfterValidator(package)]
OtherPackage = Annotated[str, AfterValidator(other_package)]
Release = Annotated[str, AfterValidator(release)]
Version = Annotated[str, AfterValidator(version)]
Component = Annotated[str, AfterValidator(component)]
Mirror = Annotated[str, AfterValidator(mirror)]
Address = Annotated[str, AfterValidator(address)]
OneAddress = Annotated[str, AfterValidator(one_address)]
Suite = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]{0,80}/?$"), AfterValidator(suite)]
Proxy = Annotated[str, AfterValidator(proxy)]
OpenPgpKey = Annotated[str, AfterValidator(openpgp_key)]
SshKey = Annotated[str, AfterValidator(ssh_key)]
Hostname = Annotated[str, AfterValidator(hostname)]
Locale = Annotated[str, AfterValidator(locale)]
Timezone = Annotated[str, AfterValidator(timezone)]
Login = Annotated[str, AfterValidator(login)]
Sha256 = Annotated[str, AfterValidator(sha256)]
PasswordHash = Annotated[str, AfterValidator(password_hash)]
Image = Annotated[str, AfterValidator(machine_name)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FirstBoot(_Frozen):
    """What a machine knows before its first start. Nothing in here is secret (see BuildSecrets).

    `user` may log in with the same SSH keys as root and use sudo. `new_identity` empties what must not be shared with
    the original: machine-id, SSH host keys, random seed; only a clone, a pull or an archive may keep them.
    """

    hostname: Hostname = ""
    locale: Locale = "C.UTF-8"
    timezone: Timezone = "UTC"
    ssh_keys: tuple[SshKey, ...] = Field(default=(), max_length=50)
    user: Login = ""
    new_identity: bool = True


class AptRepository(_Frozen):
    """One more archive: `deb URI SUITE COMPONENT…`, trusted by its own key alone (armored OpenPGP text)."""

    uri: Mirror = Field(min_length=8)
    suite: Suite
    components: tuple[Component, ...] = Field(default=(), max_length=20)
    key: OpenPgpKey = ""


class RpmRepository(_Frozen):
    """A repository of rpm packages by its base address, `$releasever` and `$basearch` allowed in it, with its key.

    Without a key its packages are not accepted: signatures are always checked.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,60}$")]
    url: OneAddress = Field(min_length=8)
    key: OpenPgpKey = Field(min_length=1)


class _Based(_Frozen):
    """What every recipe of packages has. `prime` boots the base once and empties its identity again, so that its
    machines start faster; `trim` masks units a machine does not need."""

    proxy: Proxy = ""
    prime: bool = False
    trim: bool = False


class DebianRecipe(_Based):
    """A Debian or Ubuntu tree by mmdebstrap(1) or debootstrap(8). An empty mirror means: what the host's own apt sources
    name. `tool` "" takes mmdebstrap where it is installed."""

    kind: Literal["debian"] = "debian"
    distribution: Literal["debian", "ubuntu"] = "debian"
    release: Release
    variant: Literal["minbase", "apt", "important", "standard"] = "minbase"
    components: tuple[Component, ...] = Field(default=("main",), min_length=1, max_length=10)
    repositories: tuple[AptRepository, ...] = Field(default=(), max_length=10)
    packages: tuple[Package, ...] = Field(default=(), max_length=500)
    mirror: Mirror = ""
    tool: Literal["", "mmdebstrap", "debootstrap"] = ""


class DnfRecipe(_Based):
    """A tree of the Fedora and RHEL family by `dnf --installroot` (dnf 4 and 5). Without repositories of its own it uses
    those of the host."""

    kind: Literal["dnf"] = "dnf"
    distribution: Literal["fedora", "centos", "almalinux", "rocky"] = "fedora"
    release: Version
    repositories: tuple[RpmRepository, ...] = Field(default=(), max_length=10)
    packages: tuple[OtherPackage, ...] = Field(default=(), max_length=500)


class ArchRecipe(_Based):
    """An Arch Linux tree by pacstrap(8). An empty mirror means the host's own mirrorlist."""

    kind: Literal["arch"] = "arch"
    packages: tuple[OtherPackage, ...] = Field(default=(), max_length=500)
    mirror: Mirror = ""


class SuseRecipe(_Based):
    """An openSUSE tree by `zypper --root`. Without repositories of its own it uses those of the host."""

    kind: Literal["suse"] = "suse"
    release: Version
    repositories: tuple[RpmRepository, ...] = Field(default=(), max_length=10)
    packages: tuple[OtherPackage, ...] = Field(default=(), max_length=500)


class PullRecipe(_Frozen):
    """An image fetched by systemd's own puller and verified: by the signature of its SHA256SUMS, or by its sum."""

    kind: Literal["pull"] = "pull"
    url: Address
    format: Literal["tar", "raw"] = "tar"
    verify: Literal["signature", "sha256", "none"] = "signature"
    sha256: Sha256 = ""


class ArchiveRecipe(_Frozen):
    """An archive that lies on the panel: uploaded by a person or exported from a machine. `url` is where the host gets
    it, with the token in BuildSecrets; `size` in bytes."""

    kind: Literal["archive"] = "archive"
    title: str = Field(default="", max_length=200)
    url: Mirror = Field(min_length=8)
    format: Literal["tar", "raw"] = "tar"
    sha256: Sha256 = Field(min_length=64)
    size: int = Field(ge=1, le=2**53)


class CloneRecipe(_Frozen):
    """A copy of a machine or template of the same host."""

    kind: Literal["clone"] = "clone"
    source: Image


PackagesRecipe = DebianRecipe | DnfRecipe | ArchRecipe | SuseRecipe
WITH_BASE = frozenset({"debian", "dnf", "arch", "suse"})


def _kind(data: Any) -> str:
    """Orders from before there were kinds are of Debian."""
    return str(data.get("kind", "debian")) if isinstance(data, dict) else str(getattr(data, "kind", ""))


Based = Annotated[
    Annotated[DebianRecipe, Tag("debian")]
    | Annotated[DnfRecipe, Tag("dnf")]
    | Annotated[ArchRecipe, Tag("arch")]
    | Annotated[SuseRecipe, Tag("suse")],
    Discriminator(_kind),
]
Recipe = Annotated[
    Annotated[DebianRecipe, Tag("debian")]
    | Annotated[DnfRecipe, Tag("dnf")]
    | Annotated[ArchRecipe, Tag("arch")]
    | Annotated[SuseRecipe, Tag("suse")]
    | Annotated[PullRecipe, Tag("pull")]
    | Annotated[ArchiveRecipe, Tag("archive")]
    | Annotated[CloneRecipe, Tag("clone")],
    Discriminator(_kind),
]
AnyRecipe = PackagesRecipe | PullRecipe | ArchiveRecipe | CloneRecipe


def key_of(recipe: AnyRecipe, also: tuple[str, ...] = ()) -> str:
    """SHA-256 (hex) of a recipe and of what `also` decides how its tree comes out; the same everywhere."""
    text = json.dumps([recipe.model_dump(mode="json"), sorted(also)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_unverified(recipe: object) -> TypeGuard[PullRecipe]:
    """Whether nothing vouches for what the recipe fetches."""
    return isinstance(recipe, PullRecipe) and recipe.verify == "none"


_RPM_FAMILY = {"fedora": "Fedora", "centos": "CentOS Stream", "almalinux": "AlmaLinux", "rocky": "Rocky Linux"}


def title_of(recipe: AnyRecipe) -> str:
    """A recipe in a few words, for lists and logs."""
    if isinstance(recipe, PullRecipe | ArchiveRecipe | CloneRecipe):
        return _origin_of(recipe)
    match recipe:
        case DebianRecipe():
            return f"{recipe.distribution.capitalize()} {recipe.release}"
        case DnfRecipe():
            return f"{_RPM_FAMILY[recipe.distribution]} {recipe.release.removesuffix('-stream')}"
        case ArchRecipe():
            return "Arch Linux"
        case SuseRecipe():
            return f"openSUSE {'Tumbleweed' if recipe.release == 'tumbleweed' else f'Leap {recipe.release}'}"


def _origin_of(recipe: PullRecipe | ArchiveRecipe | CloneRecipe) -> str:
    match recipe:
        case PullRecipe():
            return recipe.url.rsplit("/", 1)[-1][:100]
        case ArchiveRecipe():
            return recipe.title or f"archive {recipe.sha256[:12]}"
        case CloneRecipe():
            return f"clone of {recipe.source}"


class BuildSecrets(_Frozen):
    """Travels only sealed to the host's key; the panel keeps the sealed bytes until the job has ended, never the text.

    `token` lets the host fetch one archive from the panel, or put one there.
    """

    root_password_hash: PasswordHash = ""
    user_password_hash: PasswordHash = ""
    token: str = Field(default="", max_length=500)
