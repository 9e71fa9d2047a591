"""An image by its address, fetched and verified by systemd's own puller, then unpacked by us.

`systemd-pull raw --direct` decompresses into one file, keeps to a size, and ends with success only when what it fetched is
what the signed list of sums (or the recipe) says. So nothing of a tar archive is unpacked before somebody has vouched for
all of it. Files of settings beside an image are never asked for.

Facts (systemd 252 and 257): the sum of what was fetched is only said at the log level “debug”, together with every header;
the signature is looked for as SHA256SUMS.gpg, the sums as FILE.sha256 and then as SHA256SUMS; gpg's own words are part of
the output; zstd passes through as it is.
"""

import re
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from machines.contract.problems import Problem
from machines.contract.recipes import FirstBoot, PullRecipe
from machines.host.rootfs import archive
from machines.host.rootfs.steps import egress_proxy
from machines.host.rootfs.steps.building import SAID, Building
from machines.host.rootfs.systems import debian
from machines.host.storage import decompress, disk_image, pool, uid_shift, unpack
from machines.host.storage.decompress import KEEP_FREE, Limits, look_for_room
from machines.host.system import tools
from machines.host.system.faults import CommandFailed, full_place, is_full, no_space
from machines.host.system.run import run

PULL = Path("/usr/lib/systemd/systemd-pull")
# systemd takes the first that is there; an administrator's own takes the place of the distribution's.
KEYRINGS = tuple(
    Path(folder, f"import-pubring.{ending}")
    for folder in ("/etc/systemd", "/usr/lib/systemd")
    for ending in ("pgp", "gpg")
)
OWN_KEYRING = "/etc/systemd/import-pubring.gpg"
_SPEAK = {"SYSTEMD_LOG_LEVEL": "debug", "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_COLOR": "0"}
_WORTH_SAYING = (
    "Pulling", "Downloading", "Acquired", "Download of", "SHA256", "gpg:", "Signature", "DOWNLOAD", "HTTP request",
    "Transfer failed", "Failed", "File overly", "Stream is compressed: g", "Stream is compressed: x",
    "Stream is compressed: b", "No space",
)  # fmt: skip


TIGHT = 1024**3  # bytes of room; with less, a write that fails is first of all one that did not fit
CUT_SHORT = "Failed to write file: Input/output error"  # of a write that fits only in part, too (252 and 257)


def extra_packages(_: PullRecipe, __: FirstBoot) -> tuple[str, ...]:
    return ()


def _recipe(building: Building) -> PullRecipe:
    assert isinstance(building.recipe, PullRecipe)
    return building.recipe


# --- prepare


def prepare(building: Building) -> None:
    """The tools, and who vouches for the image. Raises Problem tool-missing, keyring-missing or sum-missing."""
    recipe = _recipe(building)
    building.raw = recipe.format == "raw"
    if building.raw:
        disk_image.check_host()
    tools.need("pull", *(["disk-images"] if building.raw else []))
    building.task.output.line(_voucher(recipe))


def _voucher(recipe: PullRecipe) -> str:
    if recipe.verify == "none":
        return "This image is not verified: neither a signature nor a checksum is checked."
    if recipe.verify == "sha256":
        if not recipe.sha256:
            raise Problem("The recipe has no SHA-256 checksum to verify the image.", code="sum-missing", hint="Add it.")
        return f"The image must have the SHA-256 checksum {recipe.sha256}."
    tools.need("signatures")
    return f"The image's checksums must be signed by a key in {keyring()}."


def keyring() -> Path:
    """The one systemd takes. Raises Problem keyring-missing."""
    found = next((file for file in KEYRINGS if file.exists()), None)
    if found is None:
        raise Problem(
            f"This host has no keyring for images ({OWN_KEYRING}).", code="keyring-missing",
            hint="Put the publisher's key there, or give the image's SHA-256 checksum.",
        )  # fmt: skip
    return found


# --- bootstrap: fetch


def bootstrap(building: Building) -> None:
    """Fetch and verify; a disk image is then complete."""
    recipe, task = _recipe(building), building.task
    file = building.raw_file if building.raw else building.host.paths.download(task.job)
    heard = Heard(recipe.url, task.output.line, task.output.progress)
    limit = _limit(building)
    argv = command(recipe, file, limit)
    task.output.command(argv)
    try:
        _fetch(building, argv, heard)
    except Problem as problem:
        needs = f"The image is larger than the {limit // 1024**2:,} MiB of available space"
        if problem.code == "archive-too-large" and limit < building.host.policy.max_archive_gib * 1024**3:
            raise no_space(str(file.parent), needs=f"{needs}.") from problem
        if limit < TIGHT and CUT_SHORT in problem.message + problem.details:
            needs += ", or the disk is failing: systemd-pull reports “Input/output error” for both."
            raise no_space(str(file.parent), problem.details, needs=needs) from problem
        raise
    task.output.progress(1.0, "fetched and verified" if recipe.verify != "none" else "fetched")
    if heard.sum:
        building.found["sha256"] = heard.sum
        task.output.line(f"Its SHA-256 checksum is {heard.sum}.")
    if building.raw:
        _check_raw(file)
        building.found["bytes"] = file.stat().st_blocks * 512


def _limit(building: Building) -> int:
    """Bytes that may come: what the policy allows and this disk can spare. Raises NoSpace."""
    folder = building.host.paths.machines
    look_for_room(folder)
    spare = max(1, shutil.disk_usage(folder).free - KEEP_FREE)
    return min(building.host.policy.max_archive_gib * 1024**3, spare)


def _fetch(building: Building, argv: Sequence[str], heard: "Heard") -> None:
    """Run the puller where it reaches only what the policy allows. Raises Problem."""
    policy, task, recipe = building.host.policy, building.task, _recipe(building)
    with egress_proxy.around(policy.pull_addresses, recipe.url) as listener:
        try:
            run(
                listener.command(argv), timeout=building.seconds_left, heard=heard.line, stop=task.stop,
                extra={**_SPEAK, **listener.variables},
            )  # fmt: skip
        except CommandFailed as failed:
            if listener.refused:
                task.output.line(listener.refused[0].message)
                raise listener.refused[0] from failed
            for away in dict.fromkeys(listener.failures):
                task.output.line(f"No connection: {away}.")
            raise explain(failed, heard.said, recipe, policy.max_archive_gib, listener.failures) from failed


def command(recipe: PullRecipe, file: Path, limit: int) -> list[str]:
    """The command; `limit` in bytes, of what is written."""
    verify = {"signature": "signature", "sha256": recipe.sha256, "none": "no"}[recipe.verify]
    return [
        str(PULL), "raw", "--direct", "--settings=no", f"--verify={verify}", f"--size-max={limit}", "--",
        recipe.url, str(file),
    ]  # fmt: skip


class Heard:
    """What the puller says: what is worth reading into the log, how far it is, and the sum of what came."""

    def __init__(self, url: str, say: Callable[[str, str], None], progress: Callable[[float, str], None]) -> None:
        self._url, self._say, self._progress = url, say, progress
        self._size = ""
        self.sum = ""
        self.said: deque[str] = deque(maxlen=SAID)

    def line(self, source: str, text: str) -> None:
        """Take one line."""
        if match := re.fullmatch(rf"Got (\d+)% of {re.escape(self._url)}\.(?: .*?at (\S+/s)\.)?.*", text):
            self._progress(int(match[1]) / 100, self._words(match[1], match[2]))
        elif match := re.fullmatch(rf"SHA256 of {re.escape(self._url)} is ([0-9a-f]{{64}})\.", text):
            self.sum = match[1]
        elif text.startswith(_WORTH_SAYING):
            if match := re.fullmatch(rf"Downloading (\S+) for {re.escape(self._url)}\.", text):
                self._size = match[1]
            self.said.append(text)
            self._say(text, source)

    def _words(self, percent: str, speed: str | None) -> str:
        of = f" of {self._size}" if self._size else ""
        return f"{percent} %{of} fetched" + (f", {speed}" if speed else "")


def explain(
    failed: CommandFailed, said: Sequence[str], recipe: PullRecipe, limit: int, away: Sequence[str] = ()
) -> Problem:
    """The failure of a pull as what it really is, with the file that was missing or the key that is unknown; `away` are
    connections that could not be made."""
    text = "\n".join(said)
    asked = re.findall(r"HTTP request to (\S+) failed with code (\d+)", text)
    if is_full(text):
        return no_space(full_place(""), text[-4000:])
    if "File overly large" in text:
        return Problem(
            f"The image is larger than the {limit} GiB this host allows.", code="archive-too-large", details=text[-4000:],
            hint="Its administrator can change the rule “max_archive_gib” in /etc/nspawnpanel/policy.toml.",
        )  # fmt: skip
    if not away and (found := _explain_trust(text, asked)):
        return found
    status = next((status for url, status in asked if url == recipe.url), "")
    if status and not away:
        return Problem(
            f"The server answers {status} for {recipe.url}{': there is no such file' if status == '404' else ''}.",
            code="image-not-found", hint="Check the URL.", details=text[-4000:],
        )  # fmt: skip
    return Problem(
        f"The image could not be downloaded: {away[0] if away else _last(text) or failed.message}.", code="image-unreachable", retryable=True,
        hint="Try again; if it persists, check the network, proxy and DNS of this host.", details=text[-4000:],
    )  # fmt: skip


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("Transfer failed", "Failed"))]
    return lines[0].removeprefix("Transfer failed: ") if lines else ""


def _explain_trust(text: str, asked: Sequence[tuple[str, str]]) -> Problem | None:
    missing = next((url for url, _ in reversed(asked)), "")
    if "Failed to retrieve signature file" in text:
        return Problem(
            f"The image is not signed: {missing or 'its signature'} is missing.", code="signature-missing",
            details=text[-4000:], hint="Give its SHA-256 checksum instead, from a source you trust.",
        )  # fmt: skip
    if "Failed to retrieve SHA256 checksum" in text:
        return Problem(
            f"There is nothing to verify the image with: {missing or 'SHA256SUMS'} is missing.", code="sums-missing",
            details=text[-4000:], hint="Give its SHA-256 checksum in the form, from a source you trust.",
        )  # fmt: skip
    if match := re.search(r"using \S+ key (?:ID )?([0-9A-F]+)(?s:.*)No public key", text):
        return Problem(
            f"The image is signed by a key this host does not know: {match[1]}.", code="key-unknown", details=text[-4000:],
            hint=f"Once you have verified whose key that is, add it on the host: gpg --no-default-keyring "
            f"--keyring {OWN_KEYRING} --import KEYFILE",
        )  # fmt: skip
    if "Signature verification failed" in text or "BAD signature" in text:
        return Problem(
            "The signature of the image's checksums is not valid.", code="signature-wrong", details=text[-4000:],
            hint="Do not use this image; it may have been tampered with.",
        )  # fmt: skip
    if "DOWNLOAD INVALID" in text:
        return Problem(
            "The image's SHA-256 checksum does not match, so the image has been discarded.", code="checksum-wrong",
            details=text[-4000:],
            hint="Check the checksum. If it comes from the server's SHA256SUMS, the file may be missing there or damaged.",
        )  # fmt: skip
    return None


_OTHER_FORMATS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"conectix": "VHD",
    b"vhdxfile": "VHDX",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def _check_raw(file: Path) -> None:
    """Raises Problem image-unusable for images of other formats, by their first bytes."""
    with file.open("rb") as opened:
        begin = opened.read(8)
    for magic, name in _OTHER_FORMATS.items():
        if begin.startswith(magic):
            raise Problem(
                f"This is not a raw disk image but one in {name} format.", code="image-unusable",
                hint="Use a raw image, optionally compressed with gzip, bzip2 or xz, or a tar archive.",
            )  # fmt: skip


# --- packages: unpack


def packages(building: Building) -> None:
    """A tar archive becomes a tree; what systemd-nspawn's user namespaces have left in its owners goes."""
    if building.raw:
        return
    file = building.host.paths.download(building.task.job)
    limits = Limits(file.stat().st_size, building.host.policy.max_archive_gib * 1024**3)
    pool.make(building.tree)
    with decompress.opened(file, limits) as stream:
        archive.say(building, unpack.unpack(stream, building.tree, limits, building.task.output.progress))
    file.unlink()
    uid_shift.reset(building.tree)


def configure(building: Building) -> None:
    """A machine already; only its size is not known yet."""
    building.found.setdefault("bytes", pool.size(building.tree))


def installed(root: Path) -> list[str]:
    return debian.installed(root)
