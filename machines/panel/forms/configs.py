"""A machine's configuration as forms: one for the settings, two sets of rows for binds and ports, and what must hold
across them. The rules of single values are the settings table's; here is only what needs two fields or the host.

The rows are not bound to database rows: a draft is replaced whole, so no row of another tab can be missing or doubled.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction
from django.forms.boundfield import BoundWidget

from machines.contract.configuration import limits, nspawn, values
from machines.contract.configuration.setting import Kind, Setting
from machines.contract.configuration.validate import Finding
from machines.models import BindMount, Host, Machine, PortForward, Revision, User
from machines.models.revision import COLUMNS, LIMITS, MODES, PLAIN, SWITCHES, bind_rows, port_rows
from machines.panel.configs import drafts, validation
from machines.panel.forms.setting_fields import (
    BOUNDED,
    PLAIN_TYPING,
    active_forms,
    field_of,
    help_of,
    lines_of,
    rows_of,
)
from machines.panel.forms.validators import errors_of
from machines.panel.hosts import host_facts

OTHER = "other"
OWN_RANGE = "private_users_range"

LABELS = {
    "network_mode": "Network mode",
    "network_target": "Name of the zone, bridge or NIC",
}
TARGET_HELP = "A zone is created when its first machine starts; a bridge or NIC must exist on the host."
PRIVATE_USERS = [
    ("", "automatic: a UID range of its own (pick, the default)"),
    ("identity", "identity: same IDs inside and outside, still fewer privileges"),
    ("managed", "managed: IDs assigned by the host's nsresourced (systemd 258)"),
    ("no", "no: root inside is root on the host"),
    (OTHER, "other: a first ID of your choice"),
]
# column → its setting
COLUMN_SETTINGS: dict[str, Setting] = {
    column: (nspawn.SETTINGS | limits.PROPERTIES)[name] for name, column in COLUMNS.items()
}
FILE_MODES = {
    mode.word: mode
    for mode in (
        nspawn.NetworkMode(
            nspawn.UNSAID,
            "Not set in the file",
            "As the unit's command line says: by default virtual Ethernet (veth).",
            (),
        ),
        nspawn.NetworkMode(
            nspawn.OTHER, "As written in the file", "A combination that is none of these; see the raw text.", ()
        ),
    )
}
TARGET_KEYS = {mode.target for mode in nspawn.NETWORK_MODES.values() if mode.target}
IN_ROWS = {name: setting for name, setting in PLAIN.items() if setting.kind is Kind.ROWS}


class ConfigForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    """The columns of a revision, and a field for every other setting that is not typed in rows.

    `private_users` is a choice with a field of its own for what no choice covers. A setting the data does not speak of
    stays as it is: its field was not on the page, or the host is too old for it.
    """

    private_users = forms.ChoiceField(choices=PRIVATE_USERS, required=False)
    private_users_range = forms.CharField(
        label="First ID and count",
        required=False,
        max_length=40,
        help_text="A first ID, or first ID and count, such as 524288:65536.",
        widget=forms.TextInput(attrs={"placeholder": "524288:65536"}),
    )

    class Meta:
        model = Revision
        fields = ["network_mode", "network_target", *SWITCHES, "volatile", "private_users", *LIMITS]
        labels = LABELS
        widgets = {"network_mode": forms.RadioSelect}

    field_order = [*Meta.fields[: Meta.fields.index("private_users") + 1], OWN_RANGE]

    def __init__(self, *args: Any, systemd: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.systemd = systemd
        for name, setting in COLUMN_SETTINGS.items():
            self.fields[name].label, self.fields[name].help_text = setting.title, help_of(setting)
            if name in LIMITS:
                self.fields[name].widget.attrs |= {**PLAIN_TYPING, "placeholder": setting.default or "no limit"}
        self.fields["network_target"].help_text = TARGET_HELP
        self.fields["network_target"].widget.attrs |= {**PLAIN_TYPING, "list": "network-targets"}
        self.fields[OWN_RANGE].widget.attrs |= PLAIN_TYPING
        self._offer_modes()
        self._offer_own_range()
        for name, setting in PLAIN.items():
            if setting.kind is not Kind.ROWS:
                self._add(name, setting)

    def _add(self, name: str, setting: Setting) -> None:
        current = self.instance.value(name)
        field = self.fields[name] = field_of(setting, current)
        self.initial[name] = current
        if self.too_old_for(setting) and not current:
            field.widget.attrs["disabled"] = True

    def too_old_for(self, setting: Setting) -> bool:
        return 0 < self.systemd < setting.since

    def _offer_modes(self) -> None:
        """What only a file can say is offered where it is so."""
        said = {self.instance.network_mode, nspawn.network_mode(nspawn.parse(self.instance.base_nspawn))[0]}
        offered = [(word, title) for word, title in MODES if word in nspawn.NETWORK_MODES or word in said]
        self.fields["network_mode"].choices = offered  # type: ignore[attr-defined]

    def _offer_own_range(self) -> None:
        current = self.initial.get("private_users", "")
        if current and current not in dict(PRIVATE_USERS):
            self.initial.update({"private_users": OTHER, OWN_RANGE: current})

    def modes(self) -> Iterator[tuple[BoundWidget, nspawn.NetworkMode]]:
        """Each radio button of the network with the mode it stands for."""
        for radio in self["network_mode"]:
            word = str(radio.data["value"])
            yield radio, nspawn.NETWORK_MODES.get(word) or FILE_MODES[word]

    def keys(self) -> dict[str, str]:
        """field → systemd's own name of the setting, for the label."""
        return {name: f"{setting.key}=" for name, setting in COLUMN_SETTINGS.items()}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        cleaned |= {name: COLUMN_SETTINGS[name].typed(cleaned[name]) for name in LIMITS if cleaned.get(name)}
        if cleaned.get("private_users") == OTHER:
            cleaned["private_users"] = cleaned.get(OWN_RANGE, "")
            if not cleaned["private_users"]:
                self.add_error(OWN_RANGE, "Give the first ID of the range, such as 524288.")
        if not nspawn.NETWORK_MODES.get(cleaned.get("network_mode", ""), nspawn.NETWORK_MODES["none"]).target:
            cleaned["network_target"] = ""
        return cleaned

    def plain(self) -> dict[str, str]:
        """The settings that are no columns, as they were typed."""
        said = {}
        for name in PLAIN.keys() - IN_ROWS.keys():
            here = self.add_prefix(name) in self.data
            said[name] = self.cleaned_data.get(name, "") if here else self.instance.value(name)
        return said

    def _post_clean(self) -> None:
        """The model's own checks; what they say of a range of one's own belongs to the field it was typed in."""
        super()._post_clean()  # type: ignore[misc]  # the stubs do not know it
        typed = self.data.get(self.add_prefix("private_users")) == OTHER
        if typed and "private_users" in self.errors:
            self.errors[OWN_RANGE] = self.errors.pop("private_users")

    def _update_errors(self, errors: ValidationError) -> None:
        """What a file said wrongly before is shown on its own field, once somebody saves it."""
        if hasattr(errors, "error_dict"):
            errors.error_dict.pop("settings", None)
        super()._update_errors(errors)  # type: ignore[misc]


class BindForm(forms.ModelForm):  # type: ignore[type-arg]
    ownership = forms.ChoiceField(label="File owner", choices=BindMount.Ownership.choices, required=False)

    class Meta:
        model = BindMount
        fields = ["source", "target", "read_only", "ownership"]
        labels = {"source": "On the host", "target": "Inside", "read_only": "Read-only", "ownership": "File owner"}
        help_texts = {"source": "", "target": ""}
        widgets = {
            "source": forms.TextInput(attrs={"placeholder": "/srv/data", "autocomplete": "off", "spellcheck": "false"}),
            "target": forms.TextInput(attrs={"placeholder": "the same", "autocomplete": "off", "spellcheck": "false"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        said = str(self.data.get(self.add_prefix("ownership")) or self.initial.get("ownership") or "")
        pasted = _pasted_bind(str(self.data.get(self.add_prefix("source")) or ""))
        for option in dict.fromkeys([said, pasted.ownership if pasted else ""]):
            known = all(word in values.BIND_OPTIONS for word in option.split(","))
            if known and option not in BindMount.Ownership.values:
                self.fields["ownership"].choices += [(option, f"{option} (as written)")]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """A whole line of a file that was pasted into the first field is taken apart."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        pasted = _pasted_bind(cleaned.get("source", ""))
        if pasted:
            cleaned |= {name: getattr(pasted, name) for name in self.Meta.fields}
        return cleaned


def _pasted_bind(text: str) -> BindMount | None:
    if not re.match(r"\s*Bind(ReadOnly)?\s*=", text):
        return None
    return next(iter(bind_rows(f"[Files]\n{text}\n")), None)


class PortForm(forms.ModelForm):  # type: ignore[type-arg]
    host_port = forms.IntegerField(label="Host port", min_value=1, max_value=65535)
    machine_port = forms.IntegerField(label="Port inside", min_value=1, max_value=65535, required=False)

    class Meta:
        model = PortForward
        fields = ["protocol", "host_port", "machine_port"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["host_port"].widget.attrs |= {"placeholder": "8080"}
        self.fields["machine_port"].widget.attrs |= {"placeholder": "the same"}
        for name in ("host_port", "machine_port"):
            said = "A port is a number from 1 to 65535."
            self.fields[name].error_messages |= {"invalid": said, "min_value": said, "max_value": said}
            for validator in self.fields[name].validators:
                validator.message = said  # type: ignore[attr-defined]  # MinValueValidator, MaxValueValidator


_ROWS: dict[str, Any] = {"extra": 0, "can_delete": True, "can_order": True, **BOUNDED}
BindFormSet = forms.formset_factory(BindForm, **_ROWS)
PortFormSet = forms.formset_factory(PortForm, **_ROWS)
RowForm = BindForm | PortForm


class Configurator:
    """A configuration on its way in: `form`, `binds`, `ports`, and the checks across them.

    `instance` is the revision to fill (unsaved for a new draft; its rows may be given as `bind_rows` and `port_rows`),
    `host` what the configuration is for. `data` is the POST, or None to show what the instance holds. Machines of the
    teams `named`, None for all, are called by their names where they are in the way.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        instance: Revision | None = None,
        host: Host | None = None,
        bind_rows: Iterable[BindMount] | None = None,
        port_rows: Iterable[PortForward] | None = None,
        named: Collection[int] | None = (),
    ) -> None:
        self.instance = instance or Revision()
        self.host, self.named = host, named
        self._users_before = self.instance.private_users
        self.form = ConfigForm(data, instance=self.instance, systemd=host_facts.systemd(host))
        binds, ports = bind_rows or [], port_rows or []
        if data is None and self.instance.pk:
            binds = self.instance.binds.all() if bind_rows is None else binds
            ports = self.instance.ports.all() if port_rows is None else ports
        self.binds = BindFormSet(data, prefix="binds", initial=[_initial(row, BindForm) for row in binds] or None)
        self.ports = PortFormSet(data, prefix="ports", initial=[_initial(row, PortForm) for row in ports] or None)
        self.defaults: dict[str, str] = {}  # setting → what it shall be where the form says nothing of it
        self.rows = {name: rows_of(setting, self.instance.value(name), data) for name, setting in IN_ROWS.items()}

    @property
    def targets(self) -> list[tuple[str, str]]:
        """What may be typed as the network's target: (name, what it is), as the host reported."""
        return host_facts.network_targets(self.host)

    def is_valid(self) -> bool:
        """Check each part, then what must hold across them. Errors stand on the field that can mend them."""
        parts = [self.form.is_valid(), self.binds.is_valid(), self.ports.is_valid()]
        parts += [rows.is_valid() for rows in self.rows.values() if rows.is_bound]
        self._check_ages()
        self._check_target()
        self._check_binds()
        self._check_ports()
        return all(parts) and not self.errors()

    def errors(self) -> list[tuple[str, str, str]]:
        """(id of the control, label, sentence) for everything that is wrong, in the order of the page."""
        found = errors_of(self.form)
        for title, rows in (("Bind", self.binds), ("Port", self.ports)):
            found += [("", f"{title}s", str(text)) for text in rows.non_form_errors()] if rows.is_bound else []
            for number, row in enumerate(active_forms(rows), 1):
                found += errors_of(row, f"{title} {number}, ")
        for name, rows in self.rows.items():
            title = PLAIN[name].title
            found += [("", title, str(text)) for text in rows.non_form_errors()] if rows.is_bound else []
            for number, row in enumerate(active_forms(rows), 1):
                found += errors_of(row, f"{title} {number}, ")
        return found

    def settings(self) -> dict[str, str]:
        """Every setting that is no column, as it was typed or as it was."""
        said = self.form.plain()
        for name, rows in self.rows.items():
            said[name] = lines_of(active_forms(rows)) if rows.is_bound else self.instance.value(name)
        said |= {name: text for name, text in self.defaults.items() if not said[name]}
        return {name: said[name] for name in PLAIN if said[name]}

    def preview(self) -> tuple[str, str]:
        """Both files as they would be written, without saving anything. The form must be valid."""
        revision: Revision = self.form.save(commit=False)
        revision.settings = self.settings()
        binds, ports = ([row.instance for row in active_forms(rows)] for rows in (self.binds, self.ports))
        return revision.render_nspawn(binds, ports), revision.render_limits()

    def save(self, **fields: Any) -> Revision:
        """Store the revision, with `fields` set on it, and replace its rows."""
        revision: Revision = self.form.save(commit=False)
        revision.settings = self.settings()
        for name, value in fields.items():
            setattr(revision, name, value)
        mine = [*ConfigForm.Meta.fields, "settings", *fields, "changed_at"]
        with transaction.atomic():
            revision.save(update_fields=mine if revision.pk else None)
            _replace(revision, BindMount, self.binds)
            _replace(revision, PortForward, self.ports)
        return revision

    def save_draft(self, machine: Machine, *, by: User, seen: str) -> Revision:
        """Keep it as the machine's draft, in place of the one that was seen. Raises StaleDraft, Busy, UnmanagedFiles."""
        with drafts.saving(machine, seen=seen):
            return self.save(**drafts.authored(by))

    def refuse(self, finding: Finding) -> None:
        """Put what the host or a quota does not allow on the field that it was typed in. The form must have been valid."""
        text = f"{finding.message} {finding.hint}".strip()
        name = finding.settings[0]
        bind = next((row for row in active_forms(self.binds) if str(row.instance) == finding.value), None)
        if name.startswith(nspawn.FILES) and bind:
            bind.add_error("source", text)
        elif name.startswith(nspawn.NETWORK):
            self.form.add_error("network_target" if finding.key in TARGET_KEYS else "network_mode", text)
        else:
            self.form.add_error(COLUMNS.get(name), text)

    # --- what must hold across fields

    def _check_ages(self) -> None:
        """What this host's systemd would ignore may stay as it is, but not be newly said."""
        for name, setting in PLAIN.items():
            before = self.instance.value(name).split("\n")
            if name in self.rows:
                for row in active_forms(self.rows[name]):
                    if self._is_new(setting, row.value(), before):
                        row.add_error("part0", self._too_old(setting, row.value()))
                continue
            for text in str(self.form.cleaned_data.get(name, "")).split("\n"):
                if self._is_new(setting, text, before):
                    self.form.add_error(name, self._too_old(setting, text))
        users = self.form.cleaned_data.get("private_users", "")
        if self._is_new(COLUMN_SETTINGS["private_users"], users, [self._users_before]):
            self.form.add_error("private_users", self._too_old(COLUMN_SETTINGS["private_users"], users))

    def _is_new(self, setting: Setting, text: str, before: list[str]) -> bool:
        """Whether it is newly said and this host's systemd does not take it."""
        return bool(text) and text not in before and self._older_than(setting.needs(text))

    def _too_old(self, setting: Setting, text: str) -> str:
        needs = setting.needs(text)
        what = f"{setting.key}=" if needs == setting.since else text
        return f"{what} needs systemd {needs}; {self._has_systemd()}."

    def _check_target(self) -> None:
        cleaned = self.form.cleaned_data if hasattr(self.form, "cleaned_data") else {}
        mode = nspawn.NETWORK_MODES.get(cleaned.get("network_mode", ""))
        name, _, inside = cleaned.get("network_target", "").partition(":")
        if not name or not self.host or not host_facts.takes_target(mode) or "network_target" in self.form.errors:
            return
        if lacking := host_facts.lacks_target(self.host, mode, name):
            self.form.add_error("network_target", lacking)
        elif inside and self._older_than(254):
            self.form.add_error("network_target", f"A name inside needs systemd 254; {self._has_systemd()}.")

    def _check_binds(self) -> None:
        seen: set[str] = set()
        for row in active_forms(self.binds):
            target = row.cleaned_data.get("target") or row.cleaned_data.get("source", "")
            if target and target.rstrip("/") in seen:
                at = "target" if row.cleaned_data.get("target") else "source"
                row.add_error(at, f"{target} is already the target of another bind; the later one would hide it.")
            seen.add(target.rstrip("/"))
            option = row.cleaned_data.get("ownership", "")
            needs = max(values.BIND_OPTIONS.get(word, 0) for word in option.split(","))
            if self._older_than(needs):
                row.add_error("ownership", f"{option} needs systemd {needs}; {self._has_systemd()}.")

    def _check_ports(self) -> None:
        rows = [row for row in active_forms(self.ports) if row.cleaned_data.get("host_port")]
        mode = nspawn.NETWORK_MODES.get(self.form.data.get(self.form.add_prefix("network_mode"), ""))
        wanted = [row.cleaned_data["host_port"] for row in rows]
        taken = self._taken_ports(wanted)
        seen: set[tuple[str, int]] = set()
        for row in rows:
            port = (row.cleaned_data.get("protocol", ""), row.cleaned_data["host_port"])
            if mode and ("VirtualEthernet", "yes") not in mode.settings:
                row.add_error(
                    "host_port", f"“{mode.title}” has no veth link to the host to forward to; choose another mode."
                )
            if port in seen:
                row.add_error("host_port", f"Port {port[1]} ({port[0].upper()}) of the host is forwarded twice.")
            elif port in taken:
                row.add_error("host_port", f"Port {port[1]} of {self.host} already leads to {taken[port]}.")
            seen.add(port)

    def _taken_ports(self, wanted: list[int]) -> dict[tuple[str, int], str]:
        if self.host is None:
            return {}
        return validation.ports_of_others(self.host, self.instance.machine_id, wanted, named=self.named)

    def _older_than(self, version: int) -> bool:
        return host_facts.has_older_systemd(self.host, version)

    def _has_systemd(self) -> str:
        return f"{self.host} has {host_facts.systemd(self.host)}"


def of_draft(machine: Machine, draft: Revision | None, data: Mapping[str, Any] | None = None) -> Configurator:
    """The form on the draft, or on a new one."""
    if draft:
        return Configurator(data, instance=draft, host=machine.host, named=validation.own(machine))
    fresh = drafts.new(machine)
    text = fresh.base_nspawn
    return Configurator(data, instance=fresh, host=machine.host, bind_rows=bind_rows(text), port_rows=port_rows(text))


def _initial(row: BindMount | PortForward, form: type[RowForm]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in form.Meta.fields}


def _replace(revision: Revision, model: type[BindMount] | type[PortForward], rows: "forms.BaseFormSet[Any]") -> None:
    model._default_manager.filter(revision=revision).delete()
    kept = [row.instance for row in active_forms(rows)]
    for position, instance in enumerate(kept):
        instance.pk, instance.revision, instance.position = None, revision, position
    model._default_manager.bulk_create(kept)
