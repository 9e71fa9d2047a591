"""The settings of a new machine's form: the defaults, those of what it is made of, or those of a build that is done again;
and whether what was sent is what was shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from machines.contract.permissions import Permission
from machines.models import Host, Revision, User
from machines.panel.configs import copied_settings, validation
from machines.panel.configs.copied_settings import Copied
from machines.panel.configs.diffs import Files
from machines.panel.forms.configs import Configurator
from machines.panel.forms.sources import Source

# of the form: which settings fill it, which were offered, and whether they are wanted
KEY, SEEN, WANTED = "settings_key", "settings_seen", "settings_wanted"


@dataclass
class Settings:
    """`there` comes with what the machine is made of, `used` fills the form; None for the defaults."""

    there: Copied | None = None
    used: Copied | None = None
    were_shown: bool = True

    @classmethod
    def offered(cls, source: Source) -> "Settings":
        """As a new page has it."""
        there = copied_settings.of_original(source.chosen)
        return cls(there, there if there and there.offered else None)

    @classmethod
    def asked(cls, data: Mapping[str, Any], source: Source, *, by: User) -> "Settings":
        """As it was sent. Of an original that was not shown yet nothing was asked; whoever sends no word of settings
        has none to take over."""
        there, key = copied_settings.of_original(source.chosen), data.get(KEY)
        if key is None:
            return cls(there, None)
        wanted = bool(data.get(WANTED)) if there and data.get(SEEN) == there.origin else bool(there and there.offered)
        used = there if wanted else None
        if key.startswith("again:") and data.get(SEEN, "") == (there.origin if there else ""):
            again = copied_settings.of_build(key.split(":")[1], by=by)
            used = again if again and (wanted or there is None) else used
        return cls(there, used, were_shown=key == (used.key if used else ""))

    def fresh(self, host: Host | None, **columns: Any) -> Configurator:
        """The form with these settings, and with `columns` instead of what they say."""
        if self.used is None:
            return Configurator(instance=Revision(**columns), host=host)
        revision = self.used.revision
        for column, value in columns.items():
            setattr(revision, column, value)
        return Configurator(instance=revision, host=host, bind_rows=self.used.binds, port_rows=self.used.ports)

    def bound(self, data: Mapping[str, Any], host: Host | None, *, by: User) -> Configurator:
        """What was sent, in place of what these settings say; where the form has no field they stay."""
        made = self.used.revision if self.used else Revision()
        return Configurator(data, instance=made, host=host, named=by.teams_where(Permission.VIEW))

    def errors(self) -> list[tuple[str, str, str]]:
        if self.were_shown:
            return []
        whose = f"The settings of {self.used.title} are" if self.used else "The default settings are"
        return [("settings-from", "Settings", f"{whose} in the form now; review them, then build.")]

    @property
    def is_again(self) -> bool:
        return bool(self.used and self.used.origin.startswith("again:"))

    def warnings(self, host: Host | None, *, by: User) -> list[str]:
        """What of them would not hold on this host, also before anybody has said to use them."""
        judged = self.used or self.there
        if host is None or judged is None:
            return []
        files: Files = judged.files
        named = by.teams_where(Permission.VIEW)
        found = validation.findings(host, "", files, named=named)
        return [f"{each.key}=: {each.message} {each.hint}".strip() for each in found]
