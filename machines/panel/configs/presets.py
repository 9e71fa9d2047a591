"""Presets: put what one says into a machine's files, see what that would change, and carry it to many machines."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from machines.contract.configuration import limits, nspawn
from machines.contract.configuration.setting import Setting
from machines.contract.problems import BadValue
from machines.models import Machine, Preset, PresetUse
from machines.models.revision import as_settings
from machines.panel.configs import diffs, drafts, validation
from machines.panel.configs.diffs import Change, Files

PresetContent = Mapping[str, Any]  # Preset.content
NOTHING: PresetContent = {"network": ["", ""], "settings": {}}
# What a preset may say one by one: the keys of a network's mode are said by the mode.
OFFERED: dict[str, Setting] = {
    name: setting
    for name, setting in (nspawn.SETTINGS | limits.PROPERTIES).items()
    if name not in {f"{nspawn.NETWORK}.{key}" for key in nspawn.MODE_KEYS}
}

STARTERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "ci": (
        "CI runner",
        "Discards all changes at power-off except in one directory; 1 GiB of memory; user IDs are the host's",
        {
            "Files.Volatile": "overlay",
            "Exec.PrivateUsers": "identity",
            "MemoryMax": "1G",
            "TasksMax": "2048",
            "Files.Bind": "/srv/ci-cache:/var/cache/ci:rootidmap",
        },
    ),
    "hardened": (
        "Hardened",
        "No new privileges, fewer capabilities, a read-only root, limited memory and tasks",
        {
            "Exec.NoNewPrivileges": "yes",
            "Exec.DropCapability": "CAP_AUDIT_CONTROL CAP_SYS_PTRACE CAP_MKNOD CAP_SYS_BOOT",
            "Files.ReadOnly": "yes",
            "MemoryMax": "2G",
            "TasksMax": "1024",
        },
    ),
    "nested": (
        "Nested containers",
        "Docker or Podman inside: the system calls they need. Weaker isolation; the host's policy must allow them",
        {"Exec.SystemCallFilter": "add_key keyctl bpf", "Exec.PrivateUsers": "identity", "TasksMax": "16384"},
    ),
}


def put(files: Files, content: PresetContent, previous: PresetContent = NOTHING) -> Files:
    """Both files with what a preset has. What `previous` had and it no longer has goes, unless somebody changed it since.

    Of a setting that may stand several times, its values are added to those that are there.
    """
    document, wanted = nspawn.parse(files.nspawn), limits.read(files.limits)
    mode, target = content["network"]
    if mode:
        nspawn.put_network(document, mode, target)
    for name in dict.fromkeys([*previous["settings"], *content["settings"]]):
        setting = OFFERED.get(name)
        if setting is None:
            continue
        current = wanted.get(name, "") if setting.in_unit else document.said(setting)
        text = _merged(setting, current, content["settings"].get(name), previous["settings"].get(name))
        if setting.in_unit:
            wanted[name] = text
        else:
            document.put_setting(setting, text)
    document.drop_empty_sections()
    return Files(document.text(), limits.dropin(wanted, files.limits))


def _merged(setting: Setting, current: str, new: str | None, previous: str | None) -> str:
    """The value a setting has afterwards; `new` None where the preset does not have it (any more)."""
    if not setting.repeats:
        if new is not None:
            return setting.normal(new)
        return "" if current == setting.normal(previous or "") else current
    before, after = _values(setting, previous), _values(setting, new)
    kept = [text for text in current.split("\n") if text and (text in after or text not in before)]
    return "\n".join([*kept, *(text for text in after if text not in kept)])


def _values(setting: Setting, text: str | None) -> list[str]:
    return [setting.normal(line) for line in (text or "").split("\n") if line]


def check(name: str, text: str) -> str:
    """A value of a preset as systemd takes it, each line by its setting's own rule. Raises BadValue."""
    setting = OFFERED.get(name)
    if setting is None:
        raise BadValue(f"There is no setting named {name}.")
    lines = [setting.typed(line) for line in text.splitlines() if line.strip()]
    if not lines:
        raise BadValue("Give a value.")
    if len(lines) > 1 and not setting.repeats:
        raise BadValue(f"{setting.key}= takes one value only.")
    for line in lines:
        setting.check(line)
    return "\n".join(lines)


# --- what it would change


@dataclass(frozen=True)
class Step:
    """What a preset would change on one machine, or why it cannot be put there."""

    machine: Machine
    changes: list[Change]
    refused: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def is_due(self) -> bool:
        return not self.refused and bool(self.changes)


def plan(content: PresetContent, machines: Iterable[Machine], previous: Mapping[int, PresetContent]) -> list[Step]:
    """One step for each machine; `previous` is what was put on it last, by the machine's number."""
    read: validation.Read = {}
    return [_step(machine, content, previous.get(machine.pk, NOTHING), read) for machine in machines]


def _step(machine: Machine, content: PresetContent, previous: PresetContent, read: validation.Read) -> Step:
    before = drafts.files(machine.applied)
    after = put(before, content, previous)
    changes = diffs.settings(before, after)
    if drafts.is_unmanaged(machine):
        return Step(machine, changes, "Its files on the host were not written by the panel. Import them first.")
    if drafts.current(machine):
        return Step(machine, changes, "It has a draft. Apply or discard it first.")
    findings = validation.findings(machine.host, machine.name, after, before, machine.next_command, read=read,
                                   named=validation.own(machine))  # fmt: skip
    refused = next((f"{f.key}=: {f.message} {f.hint}".strip() for f in findings if f.refused), "")
    return Step(machine, changes, refused, tuple(f.message for f in findings if not f.refused))


def previous(preset: Preset | None, *machines: Machine) -> dict[int, PresetContent]:
    """What the preset said when it was put on each machine that has it, or on those of these that have it."""
    if preset is None:
        return {}
    uses = PresetUse.objects.filter(preset=preset)
    return {use.machine_id: use.content for use in (uses.filter(machine__in=machines) if machines else uses)}


def with_preset(preset: Preset) -> list[Machine]:
    """The machines of its team that have it."""
    found = Machine.objects.listed().filter(presets__preset=preset, team=preset.team_id)
    return list(found.select_related("host", "applied").order_by("host__name", "name"))


# --- where a machine's settings come from


def notes(machine: Machine) -> dict[str, str]:
    """setting → where it comes from: the preset's name, and what it says where the machine says otherwise."""
    found: dict[str, str] = {}
    now = as_settings(*_texts(machine))
    for _, preset, settings in machine.preset_words:
        for name, text in settings.items():
            setting = OFFERED.get(name)
            if setting is None:
                continue
            said = set(now.get(name, "").split("\n"))
            same = all(any(line in {value, setting.normal(value)} for value in said) for line in text.split("\n"))
            shown = text.replace("\n", ", ")
            found[name] = f"from preset {preset}" if same else f"preset {preset}: {shown}"
    return found


def _texts(machine: Machine) -> tuple[str, str]:
    files = drafts.files(machine.applied)
    return files.nspawn, files.limits


def update_notes(machines: Iterable[int]) -> None:
    """Write anew into these machines' own rows which presets they have."""
    words: dict[int, list[Any]] = {number: [] for number in machines}
    for use in PresetUse.objects.filter(machine__in=words).select_related("preset"):
        words[use.machine_id].append([use.preset_id, use.preset.name, use.content.get("settings", {})])
    for number, said in words.items():
        Machine.objects.filter(pk=number).update(preset_words=said)


def differing(use: PresetUse) -> list[str]:
    """The settings of a preset that its machine no longer has."""
    before = drafts.files(use.machine.applied)
    return [change.key for change in diffs.settings(before, put(before, use.preset.content, use.content))]
