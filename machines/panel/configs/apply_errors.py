"""What a host would not take: why the last apply of a draft failed, and the way on.

A host refuses a draft that systemd would not take, or whose files somebody changed by hand meanwhile; then it sends back
what it has, so that a person can compare and decide.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from django.core.exceptions import ValidationError
from django.db import transaction

from machines.contract.configuration import nspawn
from machines.contract.configuration.setting import Kind
from machines.contract.configuration.validate import Finding
from machines.contract.orders import Apply
from machines.contract.problems import Problem
from machines.contract.states import JobState
from machines.models import BindMount, Job, Machine, ObservedFiles, PortForward, Revision, User
from machines.models.found import ETC
from machines.models.revision import LIMITS, PLAIN, SWITCHES, WORDS, as_settings, bind_rows, port_rows, sha256
from machines.panel.configs.diffs import Files
from machines.panel.configs.drafts import files, keep_rows, locked
from machines.panel.configs.drift import has_arrived

# setting → the id of the part of the form where it can be mended
_PLACES = {
    **{setting.key: f"id_{name}" for name, setting in PLAIN.items()},
    **{setting.key: f"rows_{name}" for name, setting in PLAIN.items() if setting.kind is Kind.ROWS},
    **{nspawn.SETTINGS[name].key: f"id_{field}" for field, name in (SWITCHES | WORDS).items()},
    **{key: f"id_{field}" for field, key in LIMITS.items()},
    **dict.fromkeys(("Zone", "Bridge", "MACVLAN", "IPVLAN"), "id_network_target"),
    **dict.fromkeys(("Private", "VirtualEthernet"), "id_network_mode_field"),
    **dict.fromkeys(("Bind", "BindReadOnly"), "binds"),
    "Port": "ports",
}


LINES_SHOWN = 40


@dataclass(frozen=True)
class ApplyError:
    """Why the draft could not be applied; `lines` are systemd's own words with the part of the form each is about."""

    job: Job
    lines: list[tuple[str, str, str]]  # text, id of the control, the setting


def latest(draft: Revision | None) -> ApplyError | None:
    """Of the last apply of this draft, until somebody saves it anew."""
    if draft is None or not draft.pk:
        return None
    job = draft.jobs.of(Apply).order_by("-id").first()
    if not job or not job.is_final or job.state == JobState.SUCCEEDED or not job.problem:
        return None
    if job.finished_at and draft.changed_at > job.finished_at:
        return None
    said = [line for line in str(job.problem.get("details") or "").splitlines()[:LINES_SHOWN] if line.strip()]
    if not said:  # then the message alone says which setting it is about
        place, key = _place(str(job.problem.get("message")), draft)
        return ApplyError(job, [("", place, key)] if place else [])
    return ApplyError(job, [(line, *_place(line, draft)) for line in said])


def place_of(key: str) -> str:
    """The id of the part of the form where a setting can be mended; "" when the form has none."""
    return _PLACES.get(key, "")


def _place(line: str, draft: Revision) -> tuple[str, str]:
    """Which setting a line of systemd's complains about: by its name, or by its number in the file."""
    for word in re.findall(r"[A-Z][A-Za-z]+", line.replace(" bridge ", " Bridge ")):
        if word in _PLACES:
            return _PLACES[word], word
    numbered = re.search(r"\.(nspawn|conf):(\d{1,6}):", line)
    text = {"nspawn": draft.nspawn_text, "conf": draft.limits_text}[numbered[1]] if numbered else ""
    lines = text.splitlines()
    at = int(numbered[2]) if numbered else 0
    key = lines[at - 1].partition("=")[0].strip() if 1 <= at <= len(lines) else ""
    return _PLACES.get(key, ""), key if key in _PLACES else ""


def marks(error: ApplyError | None, findings: list[Finding]) -> dict[str, list[str]]:
    """id of a part of the form → what is wrong there: by our own judgement, and by the host's when it refused the draft."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        if finding.refused and place_of(finding.key):
            found.setdefault(place_of(finding.key), []).append(f"{finding.message} {finding.hint}".strip())
    for text, place, _ in error.lines if error else []:
        if place:
            found.setdefault(place, []).append(text or str(error.job.problem.get("message")))  # type: ignore[union-attr]
    return found


# --- the host's files were changed by hand


def found(machine: Machine, draft: Revision | None) -> Files | None:
    """What the host has instead of the files this draft was based on: as it sent them back when it refused the draft, else
    as it told them when they changed. None when they are as the draft takes them to be, or nothing is known."""
    if draft is None or not draft.pk:
        return None
    error = latest(draft)
    there = _found(error.job) if error else None
    return there or _told(machine, draft)


def _told(machine: Machine, draft: Revision) -> Files | None:
    told = ObservedFiles.objects.filter(machine=machine).first()
    if told is None or draft.state != Revision.State.DRAFT or not has_arrived(machine, told):
        return None
    ours = f"{ETC}{machine.name}.nspawn"
    both = next((f for f in told.nspawn_files if f.path == ours), None), told.ours
    if any(file and not file.is_plain for file in both):
        return None
    there = Files(*(file.text if file else "" for file in both))
    based = (draft.replaces_nspawn, draft.replaces_limits)
    return there if (sha256(there.nspawn), sha256(there.limits)) != based else None


def _found(job: Job) -> Files | None:
    texts = [job.result.get(key) for key in ("found_nspawn", "found_limits")]
    return Files(*texts) if all(isinstance(text, str) for text in texts) else None


def replaced(machine: Machine, draft: Revision) -> Files:
    """What applying the draft would replace: what was applied last, or what was found on the host and accepted."""
    if machine.applied and draft.replaces_nspawn == machine.applied.nspawn_sha256:
        return files(machine.applied)
    for job in draft.jobs.of(Apply).order_by("-id")[:5]:
        there = _found(job)
        if there and sha256(there.nspawn) == draft.replaces_nspawn:
            return Files(nspawn.unmark(there.nspawn), nspawn.unmark(there.limits))
    return files(machine.applied)


class RebaseMode(StrEnum):
    """What becomes of a draft whose files were changed on the host meanwhile."""

    MERGE = "merge"  # its own changes, put onto what the host has
    OURS = "ours"  # it stays, and replaces what the host has
    THEIRS = "theirs"  # what the host has is the draft now


def rebase(machine: Machine, *, by: User, seen: str, mode: RebaseMode) -> None:
    """Base the draft on what the host has.

    Raises StaleDraft, Busy, and Problem when nothing was found or a form cannot hold it.
    """
    with transaction.atomic():
        draft = locked(machine, seen)
        there = found(machine, draft)
        if draft is None or there is None:
            raise Problem("The host has reported no other files for this draft.")
        if mode is RebaseMode.MERGE:
            _take(draft, merged(replaced(machine, draft), there, files(draft)))
        elif mode is RebaseMode.THEIRS:
            _take(draft, there)
        draft.replaces_nspawn, draft.replaces_limits = sha256(there.nspawn), sha256(there.limits)
        draft.author, draft.author_name, draft.state, draft.number = by, by.username, Revision.State.DRAFT, None
        draft.save()


def merged(base: Files, theirs: Files, mine: Files) -> Files:
    """Their files with the settings that mine changed; where both did, mine holds."""
    return Files(
        *(
            _merged(*texts)
            for texts in ((base.nspawn, theirs.nspawn, mine.nspawn), (base.limits, theirs.limits, mine.limits))
        )
    )


def _merged(base: str, theirs: str, mine: str) -> str:
    before, wanted = nspawn.parse(base), nspawn.parse(mine)
    made = nspawn.parse(nspawn.unmark(theirs))
    for section, key in dict.fromkeys((e.section, e.key) for e in (*wanted.settings(), *before.settings())):
        if wanted.get(section, key) != before.get(section, key):
            made.put(section, key, wanted.get(section, key))
    made.drop_empty_sections()
    return made.text()


def _take(draft: Revision, there: Files) -> None:
    """Fill the draft from files that somebody wrote by hand. Raises Problem when its form would lose something."""
    draft.take_files(there.nspawn, there.limits)
    try:
        binds, ports = bind_rows(there.nspawn), port_rows(there.nspawn)
        for part in (draft, *binds, *ports):
            part.clean()
        kept = as_settings(draft.render_nspawn(binds, ports), "")
    except (ValidationError, ValueError) as error:
        raise _no_form("something that is not valid") from error
    said = as_settings(nspawn.unmark(there.nspawn), "")
    lost = [name for name, value in said.items() if kept.get(name) != value]
    if lost:
        raise _no_form(", ".join(lost[:5]))
    BindMount.objects.filter(revision=draft).delete()
    PortForward.objects.filter(revision=draft).delete()
    keep_rows(draft, binds, ports)


def _no_form(what: str) -> Problem:
    return Problem(
        f"The host's files contain {what}, which the form cannot represent.", hint="Apply the draft over them instead."
    )
