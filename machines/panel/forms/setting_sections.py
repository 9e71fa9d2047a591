"""The configuration form as its page shows it: sections, and in each the settings people ask for and the rare ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.forms import BaseFormSet, BoundField

from machines.contract.configuration import limits
from machines.contract.configuration.setting import Group, Kind, Setting
from machines.models.revision import PLAIN
from machines.panel.configs import validation
from machines.panel.forms.configs import COLUMN_SETTINGS, Configurator

TITLES = {
    Group.NETWORK: "Network",
    Group.PORTS: "Port forwards",
    Group.STORAGE: "Storage and binds",
    Group.RESOURCES: "Resources",
    Group.SECURITY: "Security",
    Group.BOOT: "Boot and process",
    Group.HOST: "Host integration",
}


@dataclass(frozen=True)
class Shown:
    """One setting with its field, or with the rows it is typed in."""

    setting: Setting
    field: BoundField | None = None
    rows: "BaseFormSet[Any] | None" = None
    needs: str = ""  # why it cannot be used on this host
    holds: bool = False  # something is said, or something is wrong
    column: str = ""
    preset: str = ""  # which preset it comes from, or what one says instead
    lacks: str = ""  # why nothing on this host enforces it

    @property
    def is_wide(self) -> bool:
        return self.setting.kind in {Kind.ROWS, Kind.LINES}

    @property
    def facts(self) -> str:
        """Since when, and when it acts."""
        acts = "takes effect immediately" if self.setting.live else "takes effect on restart"
        return f"since systemd {self.setting.since} · {acts}"


@dataclass
class Section:
    group: Group
    title: str
    usual: list[Shown] = field(default_factory=list)
    rare: list[Shown] = field(default_factory=list)


def sections(configurator: Configurator, notes: Mapping[str, str] | None = None) -> list[Section]:
    """Every setting of the table in its section, but for those that the network mode, binds and ports stand for.

    `notes` says of a setting which preset has to do with it. A rare one that says something stands among the usual ones.
    """
    found = {group: Section(group, title) for group, title in TITLES.items()}
    lacks = validation.lacking(configurator.host) if configurator.host else {}
    for bare in _shown(configurator):
        name = bare.setting.id
        lacking = limits.unenforced(lacks[name]) if name in lacks else ""
        shown = replace(bare, preset=(notes or {}).get(name, ""), lacks=lacking)
        section = found[shown.setting.group]
        (section.rare if shown.setting.rare and not shown.holds and not shown.preset else section.usual).append(shown)
    return list(found.values())


def _shown(configurator: Configurator) -> Iterator[Shown]:
    form = configurator.form
    for column, setting in COLUMN_SETTINGS.items():
        yield Shown(setting, form[column], column=column)
    for name, setting in PLAIN.items():
        host = configurator.host
        needs = f"Needs systemd {setting.since}; {host} has {form.systemd}." if form.too_old_for(setting) else ""
        rows = configurator.rows.get(name)
        if rows is None:
            yield Shown(setting, form[name], needs=needs, holds=bool(form[name].value() or form[name].errors))
        else:
            yield Shown(setting, rows=rows, needs=needs, holds=bool(rows.forms))
