"""Whether a configuration would do what it says, judged before anything is written.

systemd fails open: a bad value is dropped with a warning and the machine starts without it. So our own check comes
first, then this host's policy and what the files name (paths, bridges, ports), then systemd's own parsers, where any
word about the candidate is a refusal. Facts: systemd-nspawn given a directory that does not exist reads the settings,
complains and stops; with the flags of the stock unit it also finds combinations that would be fatal at start.
systemd-analyze verify says "ignoring" with exit status 0 unless --recursive-errors=no is given. A backslash at a line's
end swallows the next line without a word, so a new one is refused.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from machines.contract import limits, nspawn
from machines.contract.names import MachineName
from machines.contract.problems import BadValue, Problem
from machines.host import policy, systemctl
from machines.host.faults import CommandFailed
from machines.host.nspawn_file import Files
from machines.host.paths import DROPIN, PROBE, Paths, unit_of
from machines.host.policy import Policy
from machines.host.run import run

# The stock unit's command line (systemd-nspawn@.service), without what registers or starts anything.
STOCK = ("--boot", "--link-journal=try-guest", "--network-veth", "-U", "--settings=override")
NOWHERE = "/run/nspawnpanel/no-such-tree"
NET = Path("/sys/class/net")
TEMPLATES = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))


def check(paths: Paths, rules: Policy, name: MachineName, wanted: Files, found: Files) -> None:
    """Pass silently when the configuration is sound on this host. Raises Problem config-refused or NotAllowed.

    Lines that stand in the host's files already are not held against the draft by policy or by our own checks.
    """
    document, dropin = nspawn.parse(wanted.nspawn), nspawn.parse(wanted.limits)
    _own_check(name, wanted, found)
    policy.allow_files(rules, document, dropin, found=(found.nspawn, found.limits))
    _check_host(paths, name, document)
    if wanted.nspawn:
        _refuse_words(f"{name}.nspawn", nspawn_words(paths, name, wanted.nspawn))
    if wanted.limits:
        _refuse_words(DROPIN, dropin_words(paths, name, wanted.limits))


def _refuse(message: str, hint: str = "", details: str = "") -> Problem:
    return Problem(message, code="config-refused", hint=hint, details=details)


def _own_check(name: MachineName, wanted: Files, found: Files) -> None:
    for file, text, before, problems in (
        (f"{name}.nspawn", wanted.nspawn, found.nspawn, nspawn.check(nspawn.parse(wanted.nspawn))),
        (DROPIN, wanted.limits, found.limits, limits.check(wanted.limits)),
    ):
        known = {entry.raw for entry in nspawn.parse(before).settings()}
        fresh = [entry for entry in nspawn.parse(text).settings() if entry.raw not in known]
        keys = {key for e in fresh for key in (e.key, f"{e.section}.{e.key}")}
        lines = [f"{key}: {problem.message}" for key, problem in problems if key in keys]
        lines += [
            f"{e.key}: a backslash at the line's end swallows the next line." for e in fresh if "\n" in e.raw.strip()
        ]
        if lines:
            raise _refuse(f"{file}: {lines[0]}", details="\n".join(lines))


def _check_host(paths: Paths, name: MachineName, document: nspawn.Document) -> None:
    """What the file names must be there, or the machine would not start."""
    for key in ("Bind", "BindReadOnly"):
        for value in document.get(nspawn.FILES, key):
            source = policy.source_of(value)
            if source and not os.path.lexists(source):
                raise _refuse(
                    f"{key}={value}: {source} does not exist on this host.",
                    hint=f"Make it first (mkdir -p {source}), or bind another path.",
                )
    for value in document.get(nspawn.NETWORK, "Bridge"):
        if not (NET / value / "bridge").exists():
            raise _refuse(f"There is no bridge named {value} on this host.", hint=_choices("bridge"))
    for key in ("MACVLAN", "IPVLAN", "Interface"):
        for value in document.get(nspawn.NETWORK, key):
            for pair in value.split():
                if not (NET / pair.split(":")[0]).exists():
                    raise _refuse(f"{key}={pair}: there is no such interface on this host.", hint=_choices())
    _check_ports(paths, name, document)


def _choices(kind: str = "") -> str:
    names = sorted(link.name for link in NET.iterdir() if link.name != "lo" and (not kind or (link / kind).exists()))
    return f"There is: {', '.join(names)}." if names else f"There is no {kind or 'interface'} at all."


def _check_ports(paths: Paths, name: MachineName, document: nspawn.Document) -> None:
    wanted = {policy.host_port(value) for value in document.get(nspawn.NETWORK, "Port")}
    if not wanted:
        return
    for file in sorted(paths.nspawn.glob("*.nspawn")):
        other = file.name.removesuffix(".nspawn")
        if other == name or not os.path.lexists(paths.machines / other):
            continue
        for port in sorted(wanted & _ports_of(file)):
            raise _refuse(
                f"Port {port[1]}/{port[0]} of this host already leads to {other}.", hint="Choose another port."
            )


def _ports_of(file: Path) -> set[tuple[str, int]]:
    found = set()
    with contextlib.suppress(OSError):
        for value in nspawn.parse(file.read_text(errors="replace")).get(nspawn.NETWORK, "Port"):
            with contextlib.suppress(ValueError, IndexError):
                found.add(policy.host_port(value))
    return found


# --- systemd's own parsers


def _refuse_words(file: str, words: list[str]) -> None:
    if words:
        raise _refuse(
            f"systemd would not take {file} as it stands: {words[0]}",
            hint="It would start the machine without that line, so nothing was written.",
            details="\n".join(words),
        )


def nspawn_words(paths: Paths, name: MachineName, text: str) -> list[str]:
    """What systemd-nspawn says of a settings file, with NAME.nspawn:LINE in place of the probe's path; [] if nothing.

    Raises CommandFailed when the parser did not run at all: no answer is no approval.
    """
    probe = f"{PROBE}{secrets.token_hex(8)}"
    file = paths.probes / f"{probe}.nspawn"
    paths.probes.mkdir(parents=True, exist_ok=True)
    argv = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        *STOCK,
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
        said = "systemd-nspawn did not say what it thinks of the file."
    finally:
        file.unlink(missing_ok=True)
    return list(_about(said, str(file), f"{name}.nspawn", ignore=NOWHERE))


def dropin_words(paths: Paths, name: MachineName, text: str) -> list[str]:
    """What systemd says of a drop-in for the machine's unit; [] if nothing. Raises CommandFailed as above."""
    folder = paths.scratch / f"lint-{secrets.token_hex(8)}"
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
    return words or ([said.strip() or "The unit would not load."] if status else [])


def template() -> str:
    """The stock unit of machines as this host has it. Raises BadValue when it has none."""
    for folder in TEMPLATES:
        file = folder / "systemd-nspawn@.service"
        if file.exists():
            return file.read_text()
    raise BadValue("This host has no systemd-nspawn@.service.", hint="Install systemd-container.")


def _about(said: str, path: str, shown: str, *, ignore: str = "", only: bool = False) -> Iterator[str]:
    """Lines about our candidate, its path replaced by the name people know."""
    for line in said.splitlines():
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        if not plain or (ignore and ignore in plain) or (only and path not in plain):
            continue
        yield plain.replace(path, shown)
