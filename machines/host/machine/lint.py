"""Whether a configuration would do what it says, judged before anything is written.

systemd fails open: a bad value is dropped with a warning and the machine starts without it. So our own check comes
first, then this host's policy and what the files name (paths, bridges, ports), then systemd's own parsers, where any
word about the candidate is a refusal. Facts: systemd-nspawn given a directory that does not exist reads the settings,
complains and stops; with the flags of the machine's own unit it also finds combinations that would be fatal at start.
systemd-analyze verify says "ignoring" with exit status 0 unless --recursive-errors=no is given. A backslash at a line's
end swallows the next line without a word, so a new one is refused.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from machines.contract.configuration import command_line, limits, nspawn, syntax_check, validate
from machines.contract.configuration.command_line import CommandLine
from machines.contract.configuration.validate import Facts, Finding
from machines.contract.names import MachineName, is_usable
from machines.contract.problems import BadValue, Problem
from machines.host.files import files_on_disk
from machines.host.files.nspawn_file import Files
from machines.host.network import listeners
from machines.host.observe import host_facts
from machines.host.policy import policy, protection
from machines.host.policy.policy import Policy
from machines.host.system import guarded, systemctl
from machines.host.system.faults import CommandFailed
from machines.host.system.paths import DROPIN, PROBE, Paths, unit_of
from machines.host.system.run import run

SCRATCH = "lint-"  # begins the names of folders for the same
NOWHERE = "/run/nspawnpanel/no-such-tree"
NET = Path("/sys/class/net")
REMEMBERED = 200
Runs = Callable[[MachineName], CommandLine]
_STOCK = command_line.stock()
_spotless: dict[tuple[str, ...], None] = {}
TEMPLATES = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))


def check(
    paths: Paths, rules: Policy, name: MachineName, wanted: Files, found: Files, *, unit_runs: Runs = lambda _: _STOCK
) -> list[str]:
    """What systemd complains of in lines that stood there already; [] when the configuration is sound on this host.

    Raises Problem config-refused or NotAllowed for what is new. What stands in the host's files already is not held
    against the draft by anybody: policy, our own checks or systemd's parsers. `unit_runs` says what the unit of a
    machine runs.
    """
    document, unit = nspawn.parse(wanted.nspawn), unit_runs(name)
    others = list(_others(paths, name, unit_runs)) if _has_to_do_with_others(document) else []
    _own_check(name, wanted, found, _facts(paths, name, document, unit, others))
    _refuse_shared(name, wanted, found, others)
    policy.allow_files(
        rules, paths, document, nspawn.parse(wanted.limits), found=(found.nspawn, found.limits), unit=unit
    )
    given = flags(unit)
    said = systemd_words(paths, name, wanted, given)
    if not any(words for _, words in said):
        return []
    before = [] if found == Files() else systemd_words(paths, name, found, given)
    known = _told_of_lines(before, found)
    for (file, words), text in zip(said, _texts(wanted), strict=True):
        _refuse_words(file, [word for word in words if _of_line(word, text) not in known])
    return [word for _, words in said for word in words]


def _texts(files: Files) -> tuple[str, str]:
    """In the order of systemd_words()."""
    return files.nspawn, files.limits


def _told_of_lines(said: list[tuple[str, list[str]]], files: Files) -> set[tuple[str, str]]:
    return {_of_line(word, text) for (_, words), text in zip(said, _texts(files), strict=False) for word in words}


def _of_line(word: str, text: str) -> tuple[str, str]:
    """(the line a word of systemd's is about, the word without its number): the same wherever the line stands."""
    match = re.match(r"\S+?:(\d+): (.*)", word, re.DOTALL)
    lines = text.splitlines()
    if match is None or not 1 <= int(match[1]) <= len(lines):
        return "", word
    return lines[int(match[1]) - 1].strip(), match[2]


def _refuse(message: str, hint: str = "", details: str = "") -> Problem:
    return Problem(message, code="config-refused", hint=hint, details=details)


# --- our own


def _own_check(name: MachineName, wanted: Files, found: Files, facts: Facts) -> None:
    document = nspawn.parse(wanted.nspawn)
    findings = [*validate.judge(document, wanted.limits, facts), *_missing(document)]
    told = validate.fresh(findings, (wanted.nspawn, wanted.limits), (found.nspawn, found.limits))
    held = [finding for finding in told if finding.refused]
    lines = [_placed(name, wanted, finding) for finding in held] + _misread(name, wanted, found)
    if lines:
        raise _refuse(lines[0], hint=held[0].hint if held else "", details="\n".join(lines))


def _refuse_shared(name: MachineName, wanted: Files, found: Files, others: Iterable["_Other"]) -> None:
    """What judge._nested says by names, by what is reached: a folder that another machine can write to may have another name,
    through a mount or a link. Of lines that are new. Raises Problem config-refused."""
    known = {(each.key, each.value) for each in protection.sources(nspawn.parse(found.nspawn))}
    mine = [
        each for each in protection.sources(nspawn.parse(wanted.nspawn)) if (each.key, each.value) not in known
    ]  # fmt: skip
    if not mine:
        return
    guard = protection.Protection(())
    bound = [(other.name, each) for other in others for each in protection.sources(other.settings)]
    theirs = [(spot, whose) for whose, each in bound if each.writable for spot in guard.spots_of(each)]
    for each in mine:
        if met := guard.inside(each.path, theirs):
            raise _refuse(f"{each.key}={each.value}: {_could(met[0], met[1])}", "Bind a directory outside it.")
    own = [(spot, str(name)) for each in mine if each.writable for spot in guard.spots_of(each)]
    for whose, each in bound if own else ():
        if met := guard.inside(each.path, own):
            raise _refuse(f"{whose} binds {each.path}. {_could(met[0], str(name))}", "Bind a directory outside it.")


def _could(step: str, whose: str) -> str:
    return (
        f"{step} is in a directory that {whose} can write to: it could place a symlink there that points anywhere "
        "on the host."
    )


def _placed(name: MachineName, wanted: Files, finding: Finding) -> str:
    """FILE:LINE: Key=value: what is wrong, in the manner of systemd's own words."""
    section, _, key = finding.settings[0].rpartition(".")
    file, text = (f"{name}.nspawn", wanted.nspawn) if section else (DROPIN, wanted.limits)
    line = 1
    for entry in nspawn.parse(text).entries:
        if (entry.section, entry.key) == (section or limits.section_of(key), key) and finding.value in {
            "",
            entry.value,
        }:
            return f"{file}:{line}: {key}={entry.value[:80]}: {finding.message}"
        line += max(1, entry.raw.count("\n"))
    return f"{file}: {key}=: {finding.message}"


def _misread(name: MachineName, wanted: Files, found: Files) -> list[str]:
    """What systemd's parsers would drop, swallow or take otherwise than it looks, some of it without a word."""
    return [
        f"{file}:{remark.line}: {remark.text}"
        for file, remarks in (
            (f"{name}.nspawn", syntax_check.settings_file(wanted.nspawn, found.nspawn)),
            (DROPIN, syntax_check.dropin(wanted.limits, found.limits)),
        )
        for remark in remarks
        if remark.fatal and not remark.is_value
    ]


def _missing(document: nspawn.Document) -> Iterator[Finding]:
    """What comes in must be there, or the machine would not start."""
    for key, value, path in validate.sources(document):
        if not guarded.is_there(Path(path)):
            yield Finding(
                (f"{nspawn.FILES}.{key}",), f"{path} does not exist on this host.",
                f"Create it first (mkdir -p {path}), or bind another path.", value,
            )  # fmt: skip


def _facts(
    paths: Paths, name: MachineName, wanted: nspawn.Document, unit: CommandLine, others: Iterable["_Other"]
) -> Facts:
    """This host and what its other machines have."""
    links = [link.name for link in NET.iterdir()]
    asked = {validate.host_port(value) for value in wanted.get(nspawn.NETWORK, "Port")}
    taken = listeners.taken().items() if asked else ()
    ports = {port: listeners.who(inode) for port, inode in taken if port in asked}
    own = images_of(paths).get(name, paths.image(name))
    writable, bound = {str(own): "this machine itself"}, dict[str, str]()
    for other in others:
        document = other.settings
        ports |= {
            port: other.name for value in document.get(nspawn.NETWORK, "Port") if (port := validate.host_port(value))
        }
        writable |= {str(other.image): other.name}
        writable |= {path: other.name for _, _, path in validate.sources(document, writable=True)}
        bound |= {path: other.name for _, _, path in validate.sources(document)}
    return Facts(
        systemd=host_facts.systemd_version(),
        bridges=[link for link in links if (NET / link / "bridge").exists()],
        interfaces=[link for link in links if link != "lo"],
        ports=ports, writable=writable, bound=bound, way=guarded.steps, unit=unit,
    )  # fmt: skip


@dataclass(frozen=True)
class _Other:
    """Another machine that has an image here: `settings` are those it gets, by its file and by its unit's command line."""

    name: MachineName
    image: Path
    settings: nspawn.Document


def _has_to_do_with_others(wanted: nspawn.Document) -> bool:
    """Whether other machines need be looked at: each costs a read and a question to systemd."""
    return bool(wanted.get(nspawn.NETWORK, "Port")) or any(protection.sources(wanted))


def _others(paths: Paths, name: MachineName, unit_runs: Runs) -> Iterator[_Other]:
    """Every other machine with an image; files alone are leftovers."""
    for other, image in images_of(paths).items():
        if other != name:
            yield _Other(other, image, settings_of(paths, other, image, unit_runs(other)))


def images_of(paths: Paths) -> dict[MachineName, Path]:
    """Trees and disk images; of two of one name the one that systemd finds first."""
    found: dict[MachineName, Path] = {}
    for folder in paths.image_folders:
        with contextlib.suppress(OSError):
            for entry in sorted(guarded.names(folder)):
                name = entry.removesuffix(".raw")
                if is_usable(name) and not entry.endswith(".nspawn"):
                    found.setdefault(MachineName(name), folder / entry)
    return found


def settings_of(paths: Paths, name: MachineName, image: Path, line: CommandLine) -> nspawn.Document:
    """What another machine gets; of a file that cannot be read, nothing."""
    with contextlib.suppress(OSError):
        return files_on_disk.asked_settings(paths, name, image.parent, line)
    return command_line.settings_of(line, nspawn.parse(""), trusted=False)


# --- systemd's own parsers


def _refuse_words(file: str, words: list[str]) -> None:
    if words:
        raise _refuse(
            f"systemd would not accept {file} as it is: {words[0]}",
            hint="It would start the machine without that line, so nothing was written.",
            details="\n".join(words),
        )


def flags(unit: CommandLine) -> tuple[str, ...]:
    """The words of the unit's command line that combinations in the file depend on, without those whose value systemd puts
    in when it starts the machine. A file that the unit does not read is judged as if it did."""
    if not unit.is_known:
        return command_line.STOCK
    known = (word for word in unit.flags if "$" not in word)
    return (*known, f"--settings={unit.reads if unit.reads_files else command_line.OVERRIDE}")


def systemd_words(
    paths: Paths, name: MachineName, wanted: Files, options: tuple[str, ...] = command_line.STOCK
) -> list[tuple[str, list[str]]]:
    """What systemd says of both files, asked at the same time: either takes its tens of milliseconds.

    Texts it had nothing to say about are remembered, since every machine made with the defaults has the same.
    """
    told = (nspawn.unmark(wanted.nspawn), nspawn.unmark(wanted.limits), *options)
    if told in _spotless:
        return []
    said = _ask_systemd(paths, name, wanted, options)
    if not any(words for _, words in said):
        _spotless[told] = None
        while len(_spotless) > REMEMBERED:
            _spotless.pop(next(iter(_spotless)), None)
    return said


def _ask_systemd(
    paths: Paths, name: MachineName, wanted: Files, options: tuple[str, ...]
) -> list[tuple[str, list[str]]]:
    with ThreadPoolExecutor(1) as beside:
        dropin = beside.submit(dropin_words, paths, name, wanted.limits) if wanted.limits else None
        said = nspawn_words(paths, name, wanted.nspawn, options) if wanted.nspawn else []
        return [(f"{name}.nspawn", said), (DROPIN, dropin.result() if dropin else [])]


def nspawn_words(
    paths: Paths, name: MachineName, text: str, options: tuple[str, ...] = command_line.STOCK
) -> list[str]:
    """What systemd-nspawn says of a settings file, with NAME.nspawn:LINE in place of the probe's path; [] if nothing.

    Raises CommandFailed when the parser did not run at all: no answer is no approval.
    """
    probe = f"{PROBE}{_whose()}"
    file = paths.probes / f"{probe}.nspawn"
    paths.probes.mkdir(parents=True, exist_ok=True)
    argv = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        *options,
        f"--machine={probe}",
        f"--directory={NOWHERE}",
    ]
    try:
        file.write_bytes(text.encode(errors="surrogateescape"))
        run(argv, timeout=20)
    except CommandFailed as failed:
        if failed.status < 0 or failed.status == 127:
            raise
        said = failed.tail
    else:
        said = "systemd-nspawn did not report whether it accepts the file."
    finally:
        file.unlink(missing_ok=True)
    words = list(_about(said, str(file), f"{name}.nspawn", ignore=NOWHERE))
    if not words and NOWHERE not in said:  # 257 ends without a word where a card of Interface= is missing
        return ["systemd-nspawn stopped before it reached the machine's image and did not say why."]
    return words


def dropin_words(paths: Paths, name: MachineName, text: str) -> list[str]:
    """What systemd says of a drop-in for the machine's unit; [] if nothing. Raises CommandFailed as above."""
    folder = paths.scratch / f"{SCRATCH}{_whose()}"
    unit = folder / unit_of(name)
    dropin = folder / f"{unit_of(name)}.d" / DROPIN
    dropin.parent.mkdir(parents=True)
    status = 0
    try:
        unit.write_text(template())
        dropin.write_bytes(text.encode(errors="surrogateescape"))
        said = run(systemctl.verify(str(unit)), timeout=30).tail
    except CommandFailed as failed:
        if failed.status < 0 or failed.status == 127:
            raise
        said, status = failed.tail, failed.status
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    words = list(_about(said, str(dropin), DROPIN, only=True))
    return words or ([said.strip() or "The unit would fail to load."] if status else [])


def _whose() -> str:
    """Ends the names of files for systemd's parsers: whoever finds one knows whether its maker still lives."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def forget_dead(paths: Paths) -> None:
    """Remove what processes that were killed have left for the parsers. Raises OSError."""
    for folder, prefix in ((paths.probes, PROBE), (paths.scratch, SCRATCH)):
        for left in folder.glob(f"{prefix}*-*"):
            maker = left.name.removeprefix(prefix).split("-")[0]
            if maker.isdecimal() and not Path("/proc", maker).exists():
                left.unlink(missing_ok=True) if left.is_file() else shutil.rmtree(left, ignore_errors=True)


def template() -> str:
    """The stock unit of machines as this host has it. Raises BadValue when it has none."""
    for folder in TEMPLATES:
        with contextlib.suppress(FileNotFoundError):
            return guarded.whole(folder / "systemd-nspawn@.service").decode()
    raise BadValue("This host has no systemd-nspawn@.service.", hint="Install systemd-container.")


def _about(said: str, path: str, shown: str, *, ignore: str = "", only: bool = False) -> Iterator[str]:
    """Lines about our candidate, its path replaced by the name people know."""
    for line in said.splitlines():
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        if not plain or (ignore and ignore in plain) or (only and path not in plain):
            continue
        yield plain.replace(path, shown)
