"""A machine's configuration as forms: one for the settings, two sets of rows for binds and ports, and what must hold
across them. The rules of single values are the settings table's; here is only what needs two fields or the host.

The rows are not bound to database rows: a draft is replaced whole, so no row of another tab can be missing or doubled.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django import forms
from django.db import transaction
from django.forms.boundfield import BoundWidget

from machines.contract import limits, nspawn, values
from machines.models import BindMount, Host, Machine, PortForward, Revision
from machines.models.revision import LIMITS, SWITCHES, WORDS

OTHER = "other"
OWN_RANGE = "private_users_range"
MAX_ROWS = 100

LABELS = {
    "network_mode": "How the machine is connected",
    "network_target": "Name of the zone, bridge or network card",
    "boot": "Boot the image's init",
    "ephemeral": "Throw all changes away at stop",
    "notify_ready": "Wait until the machine has booted",
    "read_only": "Read-only root",
    "volatile": "Forget changes at stop",
    "private_users": "User namespace",
}
HELP = {
    "network_target": "A zone is made when its first machine starts; a bridge or a card must exist on the host.",
    "boot": "Off runs only the command of the image, without services inside.",
    "ephemeral": "Each start runs on a fresh copy of the image. Cheap on btrfs, a full copy elsewhere.",
    "notify_ready": "The machine counts as started when its init says so, not when its first process runs.",
    "read_only": "Nothing inside can change the image; most systems then need writable binds for /var.",
    "volatile": "The image stays as it is; what the machine writes lives in memory.",
    "private_users": "Root inside is an ordinary user outside. Leave it picked unless a bind needs known ids.",
}
PRIVATE_USERS = [
    ("", "picked: a free range of ids (default)"),
    ("identity", "identity: same ids inside and outside, still fewer rights"),
    ("no", "no: root inside is root of the host"),
    (OTHER, "other: a first id of your own"),
]


class ConfigForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    """The columns of a revision. `private_users` is a choice with a field of its own for what no choice covers."""

    private_users = forms.ChoiceField(choices=PRIVATE_USERS, required=False)
    private_users_range = forms.CharField(
        label="First id and count",
        required=False,
        max_length=40,
        help_text="A first id, or first id and count, such as 524288:65536.",
        widget=forms.TextInput(attrs={"placeholder": "524288:65536"}),
    )

    class Meta:
        model = Revision
        fields = ["network_mode", "network_target", *SWITCHES, "volatile", "private_users", *LIMITS]
        labels = LABELS
        widgets = {"network_mode": forms.RadioSelect}

    field_order = [*Meta.fields[: Meta.fields.index("private_users") + 1], OWN_RANGE]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, text in HELP.items():
            self.fields[name].help_text = text
        self.fields["private_users"].label = LABELS["private_users"]
        self.fields["network_target"].widget.attrs |= {"list": "network-targets", "autocomplete": "off"}
        for name, key in LIMITS.items():
            prop = limits.PROPERTIES[key]
            self.fields[name].help_text = f"{prop.help} For example {prop.example}."
            self.fields[name].widget.attrs |= {"placeholder": prop.default or "no limit", "autocomplete": "off"}
        for name in ("network_target", OWN_RANGE, *LIMITS):
            self.fields[name].widget.attrs |= {"spellcheck": "false", "autocapitalize": "off"}
        self._offer_own_range()

    def _offer_own_range(self) -> None:
        current = self.initial.get("private_users", "")
        if current and current not in dict(PRIVATE_USERS):
            self.initial.update({"private_users": OTHER, OWN_RANGE: current})

    def modes(self) -> Iterator[tuple[BoundWidget, nspawn.NetworkMode]]:
        """Each radio button of the network with the mode it stands for."""
        for radio in self["network_mode"]:
            yield radio, nspawn.NETWORK_MODES[str(radio.data["value"])]

    def keys(self) -> dict[str, str]:
        """field → systemd's own name of the setting, for the label."""
        named = {name: nspawn.SETTINGS[setting].key for name, setting in (SWITCHES | WORDS).items()} | LIMITS
        return {name: f"{key}=" for name, key in named.items()}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("private_users") == OTHER:
            cleaned["private_users"] = cleaned.get(OWN_RANGE, "")
            if not cleaned["private_users"]:
                self.add_error(OWN_RANGE, "Give the first id of the range, such as 524288.")
        if not nspawn.NETWORK_MODES.get(cleaned.get("network_mode", ""), nspawn.NETWORK_MODES["none"]).target:
            cleaned["network_target"] = ""
        return cleaned

    def _post_clean(self) -> None:
        """The model's own checks; what they say of a range of one's own belongs to the field it was typed in."""
        super()._post_clean()  # type: ignore[misc]  # the stubs do not know it
        typed = self.data.get(self.add_prefix("private_users")) == OTHER
        if typed and "private_users" in self.errors:
            self.errors[OWN_RANGE] = self.errors.pop("private_users")


class BindForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = BindMount
        fields = ["source", "target", "read_only", "ownership"]
        labels = {"source": "On the host", "target": "Inside", "read_only": "Read-only", "ownership": "Owner of files"}
        help_texts = {"source": "", "target": ""}
        widgets = {
            "source": forms.TextInput(attrs={"placeholder": "/srv/data", "autocomplete": "off", "spellcheck": "false"}),
            "target": forms.TextInput(attrs={"placeholder": "the same", "autocomplete": "off", "spellcheck": "false"}),
        }


class PortForm(forms.ModelForm):  # type: ignore[type-arg]
    host_port = forms.IntegerField(label="Port of the host", min_value=1, max_value=65535)
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


_ROWS: dict[str, Any] = {"extra": 0, "can_delete": True, "can_order": True, "max_num": MAX_ROWS, "validate_max": True}
BindFormSet = forms.formset_factory(BindForm, **_ROWS)
PortFormSet = forms.formset_factory(PortForm, **_ROWS)
Row = BindForm | PortForm


class Configurator:
    """A configuration on its way in: `form`, `binds`, `ports`, and the checks across them.

    `instance` is the revision to fill (unsaved for a new draft; its rows may be given as `bind_rows` and `port_rows`),
    `host` what the configuration is for. `data` is the POST, or None to show what the instance holds.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        instance: Revision | None = None,
        host: Host | None = None,
        bind_rows: Iterable[BindMount] | None = None,
        port_rows: Iterable[PortForward] | None = None,
    ) -> None:
        self.instance = instance or Revision()
        self.host = host
        self.form = ConfigForm(data, instance=self.instance)
        binds, ports = bind_rows or [], port_rows or []
        if data is None and self.instance.pk:
            binds = self.instance.binds.all() if bind_rows is None else binds
            ports = self.instance.ports.all() if port_rows is None else ports
        self.binds = BindFormSet(data, prefix="binds", initial=[_initial(row, BindForm) for row in binds] or None)
        self.ports = PortFormSet(data, prefix="ports", initial=[_initial(row, PortForm) for row in ports] or None)

    @property
    def facts(self) -> dict[str, Any]:
        return self.host.facts if self.host else {}

    @property
    def targets(self) -> list[tuple[str, str]]:
        """What may be typed as the network's target: (name, what it is), as the host reported."""
        bridges = list(self.facts.get("bridges", []))
        cards = [name for name in self.facts.get("interfaces", []) if name not in {*bridges, "lo"}]
        return [(name, "bridge") for name in bridges] + [(name, "network card") for name in cards]

    def is_valid(self) -> bool:
        """Check each part, then what must hold across them. Errors stand on the field that can mend them."""
        parts = [self.form.is_valid(), self.binds.is_valid(), self.ports.is_valid()]
        self._check_target()
        self._check_binds()
        self._check_ports()
        return all(parts) and not self.errors()

    def errors(self) -> list[tuple[str, str, str]]:
        """(id of the control, label, sentence) for everything that is wrong, in the order of the page."""
        found = _errors_of(self.form)
        for title, rows in (("Bind", self.binds), ("Port", self.ports)):
            found += [("", f"{title}s", str(text)) for text in rows.non_form_errors()] if rows.is_bound else []
            for number, row in enumerate(_living(rows), 1):
                found += [(at, f"{title} {number}, {label}", text) for at, label, text in _errors_of(row)]
        return found

    def preview(self) -> tuple[str, str]:
        """Both files as they would be written, without saving anything. The form must be valid."""
        revision: Revision = self.form.save(commit=False)
        binds, ports = ([row.instance for row in _living(rows)] for rows in (self.binds, self.ports))
        return revision.render_nspawn(binds, ports), revision.render_limits()

    def save(self, **fields: Any) -> Revision:
        """Store the revision, with `fields` set on it, and replace its rows."""
        revision: Revision = self.form.save(commit=False)
        for name, value in fields.items():
            setattr(revision, name, value)
        mine = [*ConfigForm.Meta.fields, *fields, "changed_at"]
        with transaction.atomic():
            revision.save(update_fields=mine if revision.pk else None)
            _replace(revision, BindMount, self.binds)
            _replace(revision, PortForward, self.ports)
        return revision

    # --- what must hold across fields

    def _check_target(self) -> None:
        cleaned = self.form.cleaned_data if hasattr(self.form, "cleaned_data") else {}
        mode = nspawn.NETWORK_MODES.get(cleaned.get("network_mode", ""))
        name, _, inside = cleaned.get("network_target", "").partition(":")
        known = {"bridge": "bridges", "macvlan": "interfaces", "ipvlan": "interfaces"}.get(mode.word if mode else "")
        if not name or not known or not self.host or "network_target" in self.form.errors:
            return
        there = self.facts.get(known)
        word = "bridge" if known == "bridges" else "network card"
        if there is not None and name not in there:
            has = f"it has {', '.join(there[:8])}" if there else f"it has no {word} at all"
            self.form.add_error("network_target", f"{self.host.name} has no {word} “{name}”; {has}.")
        elif inside and self._older_than(254):
            self.form.add_error("network_target", f"A name inside needs systemd 254; {self._has_systemd()}.")

    def _check_binds(self) -> None:
        seen: set[str] = set()
        for row in _living(self.binds):
            target = row.cleaned_data.get("target") or row.cleaned_data.get("source", "")
            if target and target.rstrip("/") in seen:
                at = "target" if row.cleaned_data.get("target") else "source"
                row.add_error(at, f"{target} is already the target of another bind; the later one would hide it.")
            seen.add(target.rstrip("/"))
            option = row.cleaned_data.get("ownership", "")
            needs = values.BIND_OPTIONS.get(option, 0)
            if self._older_than(needs):
                row.add_error("ownership", f"{option} needs systemd {needs}; {self._has_systemd()}.")

    def _check_ports(self) -> None:
        rows = [row for row in _living(self.ports) if row.cleaned_data.get("host_port")]
        mode = nspawn.NETWORK_MODES.get(self.form.data.get(self.form.add_prefix("network_mode"), ""))
        taken = self._ports_of_others([row.cleaned_data["host_port"] for row in rows])
        seen: set[tuple[str, int]] = set()
        for row in rows:
            port = (row.cleaned_data.get("protocol", ""), row.cleaned_data["host_port"])
            if mode and ("VirtualEthernet", "yes") not in mode.settings:
                row.add_error("host_port", f"“{mode.title}” has no cable to the host to forward to; choose another.")
            if port in seen:
                row.add_error("host_port", f"Port {port[1]} ({port[0].upper()}) of the host is forwarded twice.")
            elif port in taken:
                row.add_error("host_port", f"Port {port[1]} of {self.host} already leads to {taken[port]}.")
            seen.add(port)

    def _ports_of_others(self, wanted: list[int]) -> dict[tuple[str, int], str]:
        if not wanted or not self.host:
            return {}
        others = Machine.objects.listed().on(self.host).exclude(pk=self.instance.machine_id)
        taken = PortForward.objects.filter(revision__in=others.values("applied"), host_port__in=wanted)
        return {(p.protocol, p.host_port): p.revision.machine.name for p in taken.select_related("revision__machine")}

    def _older_than(self, version: int) -> bool:
        return 0 < int(self.facts.get("systemd", 0)) < version

    def _has_systemd(self) -> str:
        return f"{self.host} has {self.facts.get('systemd')}"


def _initial(row: BindMount | PortForward, form: type[Row]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in form.Meta.fields}


def _living(rows: "forms.BaseFormSet[Any]") -> list[Any]:
    """The rows that were filled in and not taken away, in the order of the page."""
    if not rows.is_bound:
        return []
    first_new = rows.initial_form_count()
    forms_ = [
        f for i, f in enumerate(rows.forms) if (i < first_new or f.has_changed()) and not f.cleaned_data.get("DELETE")
    ]
    return sorted(forms_, key=lambda f: (f.cleaned_data.get("ORDER") is None, f.cleaned_data.get("ORDER") or 0))


def _errors_of(form: "forms.BaseForm") -> list[tuple[str, str, str]]:
    found = [("", "", str(text)) for text in form.non_field_errors()]
    for name, texts in form.errors.items():
        if name in form.fields:
            field = form[name]
            at = f"{field.auto_id}_field" if field.use_fieldset else field.id_for_label
            found += [(at, str(field.label), str(text)) for text in texts]
    return found


def _replace(revision: Revision, model: type[BindMount] | type[PortForward], rows: "forms.BaseFormSet[Any]") -> None:
    model._default_manager.filter(revision=revision).delete()
    kept = [row.instance for row in _living(rows)]
    for position, instance in enumerate(kept):
        instance.pk, instance.revision, instance.position = None, revision, position
    model._default_manager.bulk_create(kept)
