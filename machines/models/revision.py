"""A revision: one numbered configuration of a machine, as typed fields and child rows, and the two files they make.

The settings people ask for most are columns; binds and ports are child rows; every other setting of the two tables of
the contract stands in `settings`, by its id. What no field covers stays word for word in `base_nspawn` and
`base_limits`, comments included; the fields are put into those texts, so a file changes only where a setting changed.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from machines.contract.configuration import command_line, limits, nspawn, validate, values
from machines.contract.configuration.setting import Setting
from machines.contract.orders import ABSENT, Configuration
from machines.contract.problems import BadValue
from machines.models.machine import Machine

# column → setting of contract/configuration/nspawn.py; a boolean column writes yes or no only where it differs from the default
SWITCHES = {
    "boot": "Exec.Boot",
    "ephemeral": "Exec.Ephemeral",
    "notify_ready": "Exec.NotifyReady",
    "read_only": "Files.ReadOnly",
}
WORDS = {"volatile": "Files.Volatile", "private_users": "Exec.PrivateUsers"}
# column → property of contract/configuration/limits.py
LIMITS = {
    "memory_max": "MemoryMax",
    "memory_high": "MemoryHigh",
    "cpu_quota": "CPUQuota",
    "cpu_weight": "CPUWeight",
    "tasks_max": "TasksMax",
    "io_weight": "IOWeight",
}


# setting → its column
COLUMNS = {name: column for column, name in (SWITCHES | WORDS | LIMITS).items()}
BIND, BIND_READ_ONLY, PORT = (nspawn.SETTINGS[name] for name in ("Files.Bind", "Files.BindReadOnly", "Network.Port"))
# settings that the network mode and the child rows stand for
BY_MODE = tuple(f"Network.{key}" for key in nspawn.MODE_KEYS)
BY_ROWS = ("Files.Bind", "Files.BindReadOnly", "Network.Port")
# every other setting: kept in the column `settings`
PLAIN: dict[str, Setting] = {
    name: setting
    for name, setting in (nspawn.SETTINGS | limits.PROPERTIES).items()
    if name not in {*SWITCHES.values(), *WORDS.values(), *LIMITS.values(), *BY_MODE, *BY_ROWS}
}
MODES = [
    *((mode.word, mode.title) for mode in nspawn.NETWORK_MODES.values()),
    (nspawn.UNSAID, "Not set in the file"),
    (nspawn.OTHER, "As written in the file"),
]


def setting_field(**kwargs: Any) -> "models.CharField[str, str]":
    """A text column that holds a value of the settings table."""
    return models.CharField(max_length=300, blank=True, default="", **kwargs)


FOUND_ON_DISK = "found on disk"  # the author of what nobody wrote from here


def limit_field() -> "models.CharField[str, str]":
    return models.CharField(max_length=50, blank=True, default="")


class Revision(models.Model):
    class State(models.TextChoices):
        DRAFT = "draft"
        APPLYING = "applying"
        APPLIED = "applied"

    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField(null=True)  # given when it is applied
    state = models.CharField(max_length=10, choices=State, default=State.DRAFT)
    author = models.ForeignKey(django_settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    author_name = models.CharField(max_length=150, default="")
    reason = models.CharField(max_length=300, blank=True, default="")
    created_at = models.DateTimeField(default=timezone.now)
    changed_at = models.DateTimeField(auto_now=True)
    applied_at = models.DateTimeField(null=True)

    network_mode = models.CharField(max_length=10, choices=MODES, default="veth")
    network_target = models.CharField(max_length=300, blank=True, default="")  # HOST[:INSIDE] where a card is meant
    boot = models.BooleanField(default=True)
    ephemeral = models.BooleanField(default=False)
    notify_ready = models.BooleanField(default=True)
    read_only = models.BooleanField(default=False)
    volatile = setting_field(
        choices=[
            ("", "no: changes are kept (default)"),
            ("overlay", "overlay: everything is writable, nothing is kept"),
            ("state", "state: only /var starts empty, the rest is read-only"),
            ("yes", "yes: everything but /usr starts empty"),
        ],
    )
    private_users = setting_field()

    memory_max = limit_field()
    memory_high = limit_field()
    cpu_quota = limit_field()
    cpu_weight = limit_field()
    tasks_max = limit_field()
    io_weight = limit_field()

    # {"Exec.Hostname": "web", "IOReadBandwidthMax": "/dev/sda 5M\n/dev/sdb 9M"}: of a key that repeats, a value a line
    settings = models.JSONField(default=dict, blank=True)

    # The texts the fields are put into, and the hashes of the files that an apply may replace.
    base_nspawn = models.TextField(blank=True, default="")
    base_limits = models.TextField(blank=True, default="")
    replaces_nspawn = models.CharField(max_length=64, default=ABSENT)
    replaces_limits = models.CharField(max_length=64, default=ABSENT)
    # What was written, word for word (first line included).
    nspawn_text = models.TextField(blank=True, default="")
    limits_text = models.TextField(blank=True, default="")
    # Where a .nspawn text was found that was taken over from another place than the one we write to.
    found_in = models.CharField(max_length=1000, blank=True, default="")

    class Meta:
        ordering = ["-number", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["machine", "number"], name="a_revision_number_is_used_once"),
            models.UniqueConstraint(
                fields=["machine"], condition=models.Q(state__in=["draft", "applying"]), name="one_draft_per_machine"
            ),
        ]

    def __str__(self) -> str:
        return f"revision {self.number}" if self.number else "draft"

    @property
    def is_import(self) -> bool:
        """Whether it was taken over as it lay on the host, and not applied from here."""
        return self.author_name == FOUND_ON_DISK

    @property
    def nspawn_sha256(self) -> str:
        """Of the file in /etc/systemd/nspawn; "absent" while what holds lies elsewhere."""
        return ABSENT if self.found_in else sha256(self.nspawn_text)

    @property
    def limits_sha256(self) -> str:
        return sha256(self.limits_text)

    def clean(self) -> None:
        """Check every column by the rule of its setting. Raises ValidationError, on the fields."""
        errors: dict[str, str] = {}
        for column, problem in self._faults():
            errors.setdefault(column, problem.message)
        if errors:
            raise ValidationError(errors)

    def _faults(self) -> Iterable[tuple[str, BadValue]]:
        for column, setting in WORDS.items():
            yield from _fault(column, getattr(self, column), nspawn.SETTINGS[setting].check)
        for column, key in LIMITS.items():
            yield from _fault(column, getattr(self, column), limits.PROPERTIES[key].check)
        mode = nspawn.NETWORK_MODES.get(self.network_mode)
        target = mode.target if mode else ""
        if target and not self.network_target:
            yield "network_target", BadValue(f"{target}= needs a name.")
        elif target:
            yield from _fault("network_target", self.network_target, nspawn.SETTINGS[f"Network.{target}"].check)
        if _above(self.memory_high, self.memory_max):
            yield "memory_high", BadValue("The soft limit is above the hard one, so it never takes effect.")
        for name, problem in faults_of(self.settings):
            yield "settings", BadValue(f"{name}: {problem.message}")

    def value(self, name: str) -> str:
        """What the setting of this id is to be; "" where nothing is said. (Not of child rows and the network mode.)"""
        if name in PLAIN:
            return str(self.settings.get(name, ""))
        said = getattr(self, COLUMNS[name])
        return said if isinstance(said, str) else "yes" if said else "no"

    def take(self, name: str, text: str) -> None:
        """Say what the setting of this id is to be; "" says nothing of it."""
        if name in PLAIN:
            kept = {key: value for key, value in self.settings.items() if key != name}
            self.settings = kept | ({name: text} if text else {})
        elif COLUMNS[name] in SWITCHES:
            setattr(self, COLUMNS[name], values.is_true(text or nspawn.SETTINGS[name].default))
        else:
            setattr(self, COLUMNS[name], text)

    def render_nspawn(
        self, binds: "Iterable[BindMount] | None" = None, ports: "Iterable[PortForward] | None" = None
    ) -> str:
        """The .nspawn file without our first line. Rows that are not given are read from the database."""
        document = nspawn.parse(nspawn.unmark(self.base_nspawn))
        before = document.text()
        for column, name in SWITCHES.items():
            setting, wanted = nspawn.SETTINGS[name], getattr(self, column)
            if values.is_true(document.said(setting) or self._unsaid(setting)) != wanted:
                document.put_setting(setting, "yes" if wanted else "no")
        setting = nspawn.SETTINGS[WORDS["volatile"]]
        if _plain(setting, document.last(setting.section, setting.key)) != self.volatile:
            document.put(setting.section, setting.key, [self.volatile] if self.volatile else [])
        _put_users(document, self.private_users)
        nspawn.put_network(document, self.network_mode, self.network_target)
        binds = list(self.binds.all() if binds is None else binds)
        _put_rows(document, BIND, [str(b) for b in binds if not b.read_only])
        _put_rows(document, BIND_READ_ONLY, [str(b) for b in binds if b.read_only])
        _put_rows(document, PORT, [str(p) for p in (self.ports.all() if ports is None else ports)])
        for name, setting in PLAIN.items():
            if not setting.in_unit:
                document.put_setting(setting, self.settings.get(name, ""))
        _put_users(document, self.private_users)
        if document.text() != before:
            document.drop_empty_sections()
        return document.text()

    def _unsaid(self, setting: Setting) -> str:
        """What a switch is where the file says nothing: as the command line of the machine's unit has it."""
        unit = self.machine.next_command if self.machine_id else command_line.stock()
        usual = command_line.stock().said.get(setting.id, ["no"])[-1]
        return unit.said.get(setting.id, ["no"])[-1] if unit.is_known and setting.default == usual else setting.default

    def render_limits(self) -> str:
        """The drop-in without our first line; "" when there is nothing to limit."""
        wanted = {name: text for name, text in self.settings.items() if name in limits.PROPERTIES}
        return limits.dropin(wanted | {key: getattr(self, column) for column, key in LIMITS.items()}, self.base_limits)

    def configuration(self, number: int) -> Configuration:
        """What an order carries: both files with their first line, and what they replace."""
        rendered = self.render_limits()
        return Configuration(
            revision=number,
            nspawn=nspawn.mark(self.render_nspawn(), number),
            limits=nspawn.mark(rendered, number) if rendered else "",
            replaces_nspawn=self.replaces_nspawn,
            replaces_limits=self.replaces_limits,
        )

    def next_number(self) -> int:
        """The number that is free for it among its machine's revisions."""
        others = Revision.objects.filter(machine=self.machine_id).exclude(pk=self.pk)
        return (others.aggregate(highest=models.Max("number"))["highest"] or 0) + 1

    def begin_apply(self) -> Configuration:
        """Give it the next number, on its way to the host, and keep what it writes word for word.

        Raises OrderInvalid when the files are larger than an order takes.
        """
        number = self.next_number()
        configuration = self.configuration(number)
        self.number, self.state = number, Revision.State.APPLYING
        self.nspawn_text, self.limits_text = configuration.nspawn, configuration.limits
        self.save(update_fields=["number", "state", "nspawn_text", "limits_text", "changed_at"])
        return configuration

    def mark_applied(self, at: datetime) -> None:
        """Its files were written."""
        Revision.objects.filter(pk=self.pk).update(state=Revision.State.APPLIED, applied_at=at)

    def mark_draft(self) -> None:
        """Its files were not written: it is a draft again, and its number is free."""
        Revision.objects.filter(pk=self.pk).update(state=Revision.State.DRAFT, number=None)

    def keep_written(self, nspawn_text: str, limits_text: str) -> None:
        """What was written has our first line, also where the revision was adopted from a file without one."""
        self.nspawn_text, self.limits_text, self.found_in = nspawn_text, limits_text, ""

    def take_files(self, nspawn_text: str, limits_text: str) -> None:
        """Set columns from the two files (not the child rows, see bind_rows and port_rows)."""
        document = nspawn.parse(nspawn.unmark(nspawn_text))
        for column, name in SWITCHES.items():
            setting = nspawn.SETTINGS[name]
            said = document.last(setting.section, setting.key) or self._unsaid(setting)
            setattr(self, column, values.is_true(said))
        for column, name in WORDS.items():
            setting = nspawn.SETTINGS[name]
            setattr(self, column, _plain(setting, document.last(setting.section, setting.key)))
        self.private_users = _users(document)
        mode, target = nspawn.network_mode(document)
        self.network_mode, self.network_target = mode or nspawn.UNSAID, target
        found = limits.read(nspawn.unmark(limits_text))
        for column, key in LIMITS.items():
            setattr(self, column, found.get(key, ""))
        everything = {name: document.said(setting) for name, setting in nspawn.SETTINGS.items()} | found
        self.settings = {name: everything[name] for name in PLAIN if everything.get(name)}
        self.base_nspawn, self.base_limits = nspawn.unmark(nspawn_text), nspawn.unmark(limits_text)


class BindMount(models.Model):
    class Ownership(models.TextChoices):
        PLAIN = "", "as it is"
        ROOT = "rootidmap", "root inside is the owner on the host"
        SAME = "idmap", "same IDs inside and outside"
        OWNER = "owneridmap", "owner inside is the owner on the host (systemd 256)"

    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="binds")
    position = models.PositiveSmallIntegerField(default=0)
    source = models.CharField(max_length=1024, help_text="Path on the host")
    target = models.CharField(max_length=1024, blank=True, default="", help_text="Path inside; the same when empty")
    read_only = models.BooleanField(default=False)
    # one of Ownership, or other options as they were found in a file
    ownership = models.CharField(max_length=60, blank=True, default=Ownership.PLAIN)

    class Meta:
        ordering = ["position", "id"]

    def __str__(self) -> str:
        parts = [values.escape_colons(self.source), values.escape_colons(self.target), self.ownership]
        while len(parts) > 1 and not parts[-1]:
            parts.pop()
        return ":".join(parts)

    def clean(self) -> None:
        faults = [
            *_fault("source", self.source.removeprefix("+"), values.absolute_path),  # + means inside the image
            *_fault("target", self.target, values.absolute_path),
        ]
        faults = faults or list(_fault("source", str(self), values.bind))
        if faults:
            raise ValidationError({column: problem.message for column, problem in faults})


class PortForward(models.Model):
    class Protocol(models.TextChoices):
        TCP = "tcp", "TCP"
        UDP = "udp", "UDP"

    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="ports")
    position = models.PositiveSmallIntegerField(default=0)
    protocol = models.CharField(max_length=3, choices=Protocol, default=Protocol.TCP)
    host_port = models.PositiveIntegerField(help_text="Port on the host")
    machine_port = models.PositiveIntegerField(null=True, blank=True, help_text="Port inside; the same when empty")

    class Meta:
        ordering = ["position", "id"]

    def __str__(self) -> str:
        inside = f":{self.machine_port}" if self.machine_port else ""
        return f"{self.protocol}:{self.host_port}{inside}"

    def clean(self) -> None:
        errors = {
            column: "A port is a number from 1 to 65535."
            for column in ("host_port", "machine_port")
            if getattr(self, column) is not None and not 1 <= getattr(self, column) <= 65535
        }
        if errors:
            raise ValidationError(errors)


def bind_rows(text: str) -> list[BindMount]:
    """The unsaved rows of a file's Bind= and BindReadOnly= lines; those no row can hold are left to the file."""
    document = nspawn.parse(text)
    rows = [
        _bind_row(value, setting is BIND_READ_ONLY)
        for setting in (BIND, BIND_READ_ONLY)
        for value in document.get(setting.section, setting.key)
        if _as_row(setting, value)
    ]
    for position, row in enumerate(rows):
        row.position = position
    return rows


def port_rows(text: str) -> list[PortForward]:
    """The unsaved rows of a file's Port= lines; those no row can hold are left to the file."""
    said = [value for value in nspawn.parse(text).get(nspawn.NETWORK, "Port") if _as_row(PORT, value)]
    return [_port_row(value, position) for position, value in enumerate(said)]


def without_field(text: str) -> list[tuple[str, str]]:
    """(setting, value) of the lines of a .nspawn file that the form cannot show; they stay as they are written."""
    document = nspawn.parse(text)
    strange = [
        (f"{e.section}.{e.key}", e.value)
        for e in document.settings()
        if f"{e.section}.{e.key}" not in nspawn.SETTINGS and e.value
    ]
    for setting in (BIND, BIND_READ_ONLY, PORT):
        strange += [
            (setting.id, value) for value in document.get(setting.section, setting.key) if not _as_row(setting, value)
        ]
    return strange


def faults_of(settings: Mapping[str, Any]) -> Iterable[tuple[str, BadValue]]:
    """(id, problem) of the values that their settings do not take."""
    for name, text in settings.items():
        setting = PLAIN.get(name)
        if setting is None or not isinstance(text, str):
            yield name, BadValue("There is no such setting.")
            continue
        for line in text.split("\n") if setting.repeats else [text]:
            yield from _fault(name, line, setting.check)


def _as_row(setting: Setting, value: str) -> str:
    """How a row would write the value; "" where a row cannot hold it."""
    try:
        values.one_line(value)
        setting.check(value)
    except BadValue:
        return ""
    return str(_port_row(value, 0) if setting is PORT else _bind_row(value, False))


def _put_rows(document: nspawn.Document, setting: Setting, wanted: list[str]) -> None:
    """Write the rows, each in the spelling it has in the file already; lines that no row can hold stay before them."""
    said = document.get(setting.section, setting.key)
    known = {_as_row(setting, value): value for value in said}
    if [_as_row(setting, value) for value in said if _as_row(setting, value)] == wanted:
        return
    strange = [value for value in said if not _as_row(setting, value)]
    document.put(setting.section, setting.key, strange + [known.get(text, text) for text in wanted])


def sha256(text: str) -> str:
    """Hex digest of a file's text; "absent" for a file that does not exist (or is empty, which we never write)."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ABSENT


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(setting, before, after) for each setting that differs, in the order of `after`, then of `before`."""
    names = list(dict.fromkeys([*after, *before]))
    return [(n, before.get(n, ""), after.get(n, "")) for n in names if before.get(n, "") != after.get(n, "")]


def as_settings(nspawn_text: str, limits_text: str) -> dict[str, str]:
    """Both files as {"Network.Zone": "a", "MemoryMax": "512M", …}; each value of a repeated key on its own line."""
    document = nspawn.parse(nspawn_text)
    names = dict.fromkeys((e.section, e.key) for e in document.settings())
    found = {f"{section}.{key}": "\n".join(document.get(section, key)) for section, key in names}
    return found | limits.read(limits_text)


def _users(document: nspawn.Document) -> str:
    """The column of PrivateUsers=: a file that only says how owners are mapped turns the user namespace off."""
    setting = nspawn.SETTINGS[WORDS["private_users"]]
    said = document.last(setting.section, setting.key)
    return "no" if not said and _maps_owners(document) else _plain(setting, said)


def _put_users(document: nspawn.Document, wanted: str) -> None:
    """Write the column of PrivateUsers=; ids that are picked are said where silence would turn them off."""
    setting = nspawn.SETTINGS[WORDS["private_users"]]
    if _users(document) != wanted:
        text = wanted or ("pick" if _maps_owners(document) else "")
        document.put(setting.section, setting.key, [text] if text else [])


def _maps_owners(document: nspawn.Document) -> bool:
    return any(document.last(nspawn.FILES, key) for key in validate.OWNERS)


def _plain(setting: Setting, said: str) -> str:
    """A value as the form knows it: yes for every spelling of it, and "" for the default spelt out."""
    try:
        values.boolean(said)
    except BadValue:
        plain = said
    else:
        plain = "yes" if values.is_true(said) else "no"
    return "" if plain == setting.default else plain


def _above(one: str, other: str) -> bool:
    """Whether a size is larger than another; False where they cannot be compared."""
    try:
        if one.endswith("%") and other.endswith("%"):
            return float(one[:-1]) > float(other[:-1])
        return values.size_in_bytes(one) > values.size_in_bytes(other)
    except (BadValue, ValueError):
        return False


def _fault(column: str, text: str, check: values.Check) -> Iterable[tuple[str, BadValue]]:
    if not text:
        return
    try:
        values.one_line(text)
        check(text)
    except BadValue as problem:
        yield column, problem


def _bind_row(value: str, read_only: bool) -> BindMount:
    parts = [*values.split_colons(value), "", ""]
    return BindMount(
        source=values.unescape_colons(parts[0]),
        target=values.unescape_colons(parts[1]),
        ownership=parts[2],
        read_only=read_only,
    )


def _port_row(value: str, position: int) -> PortForward:
    protocol, rest = value.split(":", 1) if value.startswith(("tcp:", "udp:")) else ("tcp", value)
    outside, _, inside = rest.partition(":")
    return PortForward(
        protocol=protocol, host_port=int(outside), machine_port=int(inside) if inside else None, position=position
    )
