"""What an apply replaces, kept until twenty later ones: STATE/generations/NAME/REVISION/, with both files and a record.

The record says which job keeps it, how the machine ran then, and what both files were, word for word. It is synced before
anything of the job takes effect; so a worker that comes back knows exactly what to put back, and whether it had begun to.
The files beside it are for people who look for them.
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import UUID

from machines.contract.names import MachineName
from machines.host.files import nspawn_file
from machines.host.files.nspawn_file import Files
from machines.host.system.paths import DROPIN, Paths

GENERATIONS = 20
RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """Of the job's first moment: whether the machine ran and since when (seconds since the epoch, 0 for never). `reason`
    says why the files were put back, once that has begun; `back_at` when they were in place again."""

    job: str
    nspawn: str = ""
    limits: str = ""
    was_up: bool = False
    started: float = 0.0
    reason: str = ""
    back_at: float = 0.0

    @property
    def files(self) -> Files:
        """Both files as they were before."""
        return Files(self.nspawn, self.limits)


def keep(paths: Paths, name: MachineName, revision: int, replaced: Files, record: Record) -> Record:
    """Keep what revision `revision` is about to replace. An earlier attempt under that number is forgotten."""
    folder = paths.generations(name) / str(revision)
    folder.mkdir(parents=True, exist_ok=True)
    record = replace(record, nspawn=replaced.nspawn, limits=replaced.limits)
    _write(folder, record)
    for file, text in ((f"{name}.nspawn", replaced.nspawn), (DROPIN, replaced.limits)):
        (folder / file).write_bytes(text.encode(errors="surrogateescape"))
    kept = sorted((f for f in folder.parent.iterdir() if f.name.isdigit()), key=lambda f: int(f.name))
    for old in kept[:-GENERATIONS]:
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return record


def of_job(paths: Paths, name: MachineName, revision: int, job: UUID) -> Record | None:
    """The record, when this very job has kept what it replaces; None when it has not come so far."""
    try:
        record = Record(**json.loads((paths.generations(name) / str(revision) / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.job == str(job) else None


def note(paths: Paths, name: MachineName, revision: int, record: Record, **changed: str | float) -> Record:
    """Write down, durably, how far the way back is."""
    fresh = replace(record, **changed)  # type: ignore[arg-type]  # the names are the record's own
    _write(paths.generations(name) / str(revision), fresh)
    return fresh


def _write(folder: Path, record: Record) -> None:
    nspawn_file.write_one(folder / RECORD, json.dumps(asdict(record)))
