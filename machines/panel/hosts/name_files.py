"""Files on a host under the name of a machine that is not there (yet, or any more): what they are, and that they are as a
person saw them when it was decided what becomes of them."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from machines.contract.names import machine_name
from machines.contract.orders import ABSENT, Build, SeenFile
from machines.contract.problems import BadValue
from machines.contract.reports import Leftover
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine

CODE = "name-has-files"  # a host's refusal of a build
_KINDS = {
    "settings": "settings of the machine",
    "drop-in": "a drop-in of its unit",
    "limit": "set by systemctl set-property",
    "unit": "a unit of its own",
    "autostart": "starts it at boot",
    "verity": "verity data of a disk image",
}


def known(host: Host, name: str) -> list[Leftover]:
    """What the host last told, by its inventory or by the refusal of a build since then; nothing for what is no name."""
    try:
        machine_name(name)
    except BadValue:
        return []
    refused = Job.objects.of(Build).filter(host=host, machine_name=name, problem__code=CODE).order_by("-id")
    last = (refused.filter(finished_at__gt=host.inventory_at) if host.inventory_at else refused).first()
    if last is not None:
        return of_job(last)
    told = host.facts.get("leftovers")
    mine = (each for each in told if isinstance(each, dict)) if isinstance(told, list) else ()
    return next((_read(each.get("files")) for each in mine if each.get("name") == name), [])


def of_job(job: Job) -> list[Leftover]:
    """What stood in the way of a build."""
    return _read(job.result.get("leftovers")) if job.problem and job.problem.get("code") == CODE else []


def of_host(host: Host) -> list[tuple[str, list[Leftover]]]:
    """Every name without a machine, with its files; without those that were built since it was told."""
    told = host.facts.get("leftovers")
    mine = [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []
    found = [(str(each.get("name", "")), _read(each.get("files"))) for each in mine]
    if not found:
        return []
    built = Machine.objects.listed().filter(host=host, name__in=[name for name, _ in found])
    there = set(built.exclude(state=MachineState.MISSING).values_list("name", flat=True))
    return [(name, files) for name, files in found if name not in there]


def _read(told: Any) -> list[Leftover]:
    try:
        return [Leftover.model_validate(file) for file in told or ()]
    except (ValidationError, TypeError):
        return []


def words(file: Leftover) -> str:
    """What it is and whose, after its path."""
    if file.target == "/dev/null":
        return "a symlink to /dev/null, which masks it"
    if file.kind == "autostart":
        return _KINDS[file.kind]
    link = f", a symlink to {file.target}" if file.target else ""
    whose = "" if file.kind in {"limit", "verity"} else ", by the panel" if file.ours else ", not by the panel"
    return f"{_KINDS[file.kind]}{whose}{link}"


def digest(files: Iterable[Leftover]) -> str:
    """Names what a person has seen; "" for nothing."""
    lines = [f"{file.path} {file.sha256} {file.target}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def seen(files: Sequence[Leftover]) -> list[SeenFile]:
    return [SeenFile(path=file.path, sha256=file.sha256 or ABSENT) for file in files]
