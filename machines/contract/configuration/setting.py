"""One line of the tables of settings: what contract/configuration/nspawn.py and contract/configuration/limits.py are made of.

Forms, renderer, parser, checks and help read these lines and nothing else: a setting that is added there has a field.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from machines.contract.configuration import values
from machines.contract.problems import BadValue

MANUAL = "https://www.freedesktop.org/software/systemd/man/latest/"


class Group(StrEnum):
    """The sections of the form, in their order."""

    NETWORK = "network"
    PORTS = "ports"
    STORAGE = "storage"
    RESOURCES = "resources"
    SECURITY = "security"
    BOOT = "boot"
    HOST = "host"


class Kind(StrEnum):
    """What kind of field a value is typed in."""

    SWITCH = "switch"
    CHOICE = "choice"
    NUMBER = "number"
    TEXT = "text"
    LINES = "lines"  # may stand several times, one value a line
    ROWS = "rows"  # may stand several times, each value in a row of fields of its own


@dataclass(frozen=True)
class Setting:
    """One key: how its value is checked, since which systemd it exists, and what it does.

    A .nspawn file is read when the machine starts; of the unit's properties, those that are `live` act at once.
    """

    section: str
    key: str
    check: values.Check
    title: str
    help: str
    group: Group
    since: int = 226
    default: str = ""  # what holds without a line, as far as it can be said
    example: str = ""
    repeats: bool = False
    row: values.Row | None = None  # the fields of one value, where it has several parts
    later: tuple[tuple[str, int], ...] = ()  # (pattern of a value, since which systemd it is taken)
    rare: bool = False  # folded away until it holds something
    trusted: bool = False  # systemd drops it from a file beside the image
    live: bool = False
    guarded: bool = False  # takes from the host's hold over the machine: only where the host's policy names it
    shows: str = ""  # the name under which systemctl show gives it back
    page: str = "systemd.nspawn"
    anchor: str = ""

    @property
    def in_unit(self) -> bool:
        """Whether it stands in the drop-in of the machine's unit, not in its .nspawn file."""
        return self.section in {"Unit", "Service"}

    @property
    def id(self) -> str:
        return self.key if self.in_unit else f"{self.section}.{self.key}"

    @property
    def shown_as(self) -> str:
        return self.shows or self.key

    @property
    def manual(self) -> str:
        return f"{MANUAL}{self.page}.html#{self.anchor or f'{self.key}='}"

    @property
    def kind(self) -> Kind:
        if self.repeats:
            return Kind.ROWS if self.row else Kind.LINES
        if self.check is values.boolean:
            return Kind.SWITCH
        if isinstance(self.check, values.OneOf | values.BooleanOr):
            return Kind.CHOICE
        return Kind.NUMBER if isinstance(self.check, values.WholeNumber) else Kind.TEXT

    def needs(self, text: str) -> int:
        """Since which systemd this value is taken."""
        return max(self.since, *(since for pattern, since in self.later if re.fullmatch(pattern, text)), 0)

    @property
    def words(self) -> tuple[str, ...]:
        """What there is to choose from; () where anything may be typed."""
        if self.check is values.boolean:
            return ("yes", "no")
        if isinstance(self.check, values.BooleanOr):
            return ("yes", "no", *self.check.words)
        return self.check.words if isinstance(self.check, values.OneOf) else ()

    def typed(self, text: str) -> str:
        """A value as systemd takes it, out of what people type or paste: the whole line, lower-case sizes, 50 for 50%."""
        bare = re.sub(rf"^\s*{re.escape(self.key)}\s*=\s*(?=\S)", "", text).strip()
        as_typed = values.AS_TYPED.get(self.check)
        return as_typed(bare) if as_typed else bare

    def normal(self, text: str) -> str:
        """A value in the one spelling the form has for it: yes for true, on and 1."""
        if isinstance(self.check, values.BooleanOr) or self.check is values.boolean:
            try:
                values.boolean(text)
            except BadValue:
                return text
            return "yes" if values.is_true(text) else "no"
        return self.row.join(self.row.split(text)) if self.row else text

    def spelt(self, wanted: list[str], said: list[str]) -> list[str]:
        """The wanted values, each in the spelling it has in the file already, if it is there."""
        known = {self.normal(text): text for text in said}
        return [known.get(self.normal(text), text) for text in wanted]
