"""Forms of presets: its name and network, a row for each setting it says, and how it is rolled out."""

from typing import Any

from django import forms
from django.forms import BaseFormSet

from machines.contract.configuration import nspawn, values
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue
from machines.models import Preset, User
from machines.panel.configs import presets
from machines.panel.forms.setting_fields import BOUNDED, PLAIN_TYPING
from machines.panel.forms.setting_sections import TITLES
from machines.panel.forms.team_choice import TeamChoiceField

PREFIX = "settings"
LIST_LINES, MOST_LINES = 3, 12  # of the box of a setting that may stand several times


class PresetForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Preset
        fields = ["name", "description", "network_mode", "network_target"]
        labels = {
            "description": "Purpose",
            "network_mode": "Network mode",
            "network_target": "Zone, bridge or NIC",
        }
        help_texts = {"network_target": "Its name on the host."}
        error_messages = {
            "name": {"required": "Give the preset a name.", "unique": "A preset with this name already exists."}
        }

    def __init__(self, *args: Any, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None:
            self.fields["team"] = TeamChoiceField(by, Permission.CONFIGURE)
        modes = [("", "Leave unchanged"), *((m.word, m.title) for m in nspawn.NETWORK_MODES.values())]
        self.fields["network_mode"] = forms.ChoiceField(
            label=self.fields["network_mode"].label, choices=modes, required=False
        )
        self.fields["network_target"].widget.attrs |= PLAIN_TYPING

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "team" in cleaned:
            self.instance.team = cleaned["team"]
        mode = nspawn.NETWORK_MODES.get(cleaned.get("network_mode", ""))
        target = mode.target if mode else ""
        typed = cleaned["network_target"] = cleaned.get("network_target", "") if target else ""
        if target and not typed:
            self.add_error("network_target", f"{target}= needs a name.")
        elif target:
            try:
                values.one_line(typed)
                nspawn.SETTINGS[f"Network.{target}"].check(typed)
            except BadValue as problem:
                self.add_error("network_target", problem.message)
        return cleaned


def _choices() -> list[Any]:
    """Every setting below the heading it has in a machine's form."""
    groups: dict[str, list[tuple[str, str]]] = {title: [] for title in TITLES.values()}
    for name, setting in presets.OFFERED.items():
        groups[TITLES[setting.group]].append((name, f"{setting.key}= · {setting.title}"))
    return [("", "Choose a setting"), *((title, found) for title, found in groups.items() if found)]


class SaysForm(forms.Form):
    """One setting and its value; of a setting that may stand several times, a value a line."""

    setting = forms.ChoiceField(required=False, choices=_choices)
    value = forms.CharField(
        required=False, max_length=20_000, widget=forms.Textarea(attrs={**PLAIN_TYPING, "rows": 1, "placeholder": "1G"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        setting = presets.OFFERED.get(str(self["setting"].value() or ""))
        if setting and setting.repeats:
            lines = len(str(self["value"].value() or "").splitlines())
            self.fields["value"].widget.attrs["rows"] = min(max(lines + 1, LIST_LINES), MOST_LINES)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        name, text = cleaned.get("setting", ""), cleaned.get("value", "")
        if cleaned.get("DELETE") or not (name or text):
            return cleaned
        if not name:
            self.add_error("setting", "Choose a setting.")
            return cleaned
        try:
            cleaned["value"] = presets.check(name, text)
        except BadValue as problem:
            self.add_error("value", f"{problem.message} {problem.hint}".strip())
        return cleaned


SaysFormSet = forms.formset_factory(SaysForm, extra=0, can_delete=True, **BOUNDED)


def rows_of(settings: dict[str, str], data: Any = None) -> "BaseFormSet[Any]":
    initial = [{"setting": name, "value": text} for name, text in settings.items()]
    rows: BaseFormSet[Any] = SaysFormSet(data, prefix=PREFIX, initial=None if data is not None else initial)
    return rows


def settings_of(rows: "BaseFormSet[Any]") -> dict[str, str]:
    """What valid rows say. Raises BadValue when one setting is said twice or nothing is said at all."""
    said: dict[str, str] = {}
    for row in rows.forms:
        name, text = row.cleaned_data.get("setting"), row.cleaned_data.get("value")
        if not name or row.cleaned_data.get("DELETE"):
            continue
        if name in said:
            raise BadValue(f"{name} is set twice; put its values into one row, one per line.")
        said[name] = str(text)
    return said
