"""Form fields made from the tables of settings: one kind of field for each kind of value.

A setting that stands in the table has a field here without another line of code.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from django import forms
from django.forms.utils import flatatt
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from machines.contract.configuration import values
from machines.contract.configuration.setting import Kind, Setting
from machines.contract.problems import BadValue

PLAIN_TYPING = {"autocomplete": "off", "spellcheck": "false", "autocapitalize": "off"}
MAX_ROWS = 100
# Rows of a kind, and how many more are drawn, with what is wrong; Django would draw a thousand for whoever asks for them.
BOUNDED: dict[str, Any] = {"max_num": MAX_ROWS, "validate_max": True, "absolute_max": 2 * MAX_ROWS}
LONGEST = 20_000


# Django renders each input by a template; a page has 150 of these, and without them it comes in half the time.


class _Input(forms.TextInput):
    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:  # noqa: ARG002
        given = self.build_attrs(self.attrs, {"type": "text", "name": name, **(attrs or {})})
        said = self.format_value(value)
        return format_html("<input{}>", flatatt(given | ({"value": said} if said is not None else {})))


class _Area(forms.Textarea):
    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:  # noqa: ARG002
        given = self.build_attrs(self.attrs, {"name": name, **(attrs or {})})
        return format_html("<textarea{}>\n{}</textarea>", flatatt(given), self.format_value(value) or "")


class _Select(forms.Select):
    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:  # noqa: ARG002
        given = self.build_attrs(self.attrs, {"name": name, **(attrs or {})})
        options = ((word, flatatt({"selected": word == (value or "")}), text) for word, text in self.choices)
        return format_html(
            "<select{}>{}</select>", flatatt(given), format_html_join("", '<option value="{}"{}>{}</option>', options)
        )


def field_of(setting: Setting, current: str = "") -> forms.Field:
    """The field of a setting (not of one that is typed in rows); `current` can always stay as it is."""
    if setting.words:
        return _choice(setting, current)
    placeholder = setting.default or "not set"
    widget: forms.Widget = _Input(attrs={**PLAIN_TYPING, "placeholder": placeholder})
    if setting.kind is Kind.LINES:
        rows = max(1, min(8, current.count("\n") + 1))
        widget = _Area(attrs={**PLAIN_TYPING, "rows": rows, "placeholder": placeholder})
    elif setting.kind is Kind.NUMBER and not getattr(setting.check, "words", ()):
        widget.attrs["inputmode"] = "text" if "-" in setting.help else "numeric"
    return SettingField(setting, widget)


def help_of(setting: Setting) -> str:
    """What it does, with an example."""
    return f"{setting.help} For example {setting.example}." if setting.example and not setting.row else setting.help


def check(setting: Setting, text: str) -> None:
    """Raises ValidationError in the setting's own words."""
    try:
        values.one_line(text)
        setting.check(text)
    except BadValue as problem:
        raise forms.ValidationError(problem.message) from None


class SettingField(forms.CharField):
    """A value of the table, or several of them as lines."""

    def __init__(self, setting: Setting, widget: forms.Widget) -> None:
        self.setting = setting
        super().__init__(
            label=setting.title, help_text=help_of(setting), required=False, widget=widget, max_length=LONGEST
        )

    def clean(self, value: Any) -> str:
        text = super().clean(value)
        lines = [line.strip() for line in text.split("\n")] if self.setting.kind is Kind.LINES else [text]
        kept = [self.setting.typed(line) for line in lines if line]
        for line in kept:
            check(self.setting, line)
        return "\n".join(kept)


def _choice(setting: Setting, current: str) -> forms.ChoiceField:
    nothing = f"not set ({setting.default})" if setting.default else "not set"
    choices = [("", nothing), *((word, word) for word in setting.words)]
    if current and current not in setting.words:
        choices.append((current, f"{current} (as written)"))
    return forms.ChoiceField(
        label=setting.title, help_text=help_of(setting), required=False, choices=choices, widget=_Select
    )


# --- Values that are typed in rows


class SettingRow(forms.Form):
    """One value of a setting that may stand several times, a field for each of its parts."""

    setting: Setting

    @property
    def parts(self) -> list[forms.BoundField]:
        return [self[f"part{number}"] for number in range(len(_row(self.setting).columns))]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        text = self.value()
        if text and not cleaned.get("DELETE"):
            try:
                check(self.setting, text)
            except forms.ValidationError as error:
                self.add_error("part0", error)
        return cleaned

    def value(self) -> str:
        typed = [str(self.cleaned_data.get(part.name) or "") for part in self.parts]
        return self.setting.typed(_row(self.setting).join(typed)) if any(typed) else ""


def _row(setting: Setting) -> values.Row:
    assert setting.row is not None
    return setting.row


@cache
def _row_form(setting: Setting) -> Any:
    shown = _row(setting).split(setting.example)
    fields: dict[str, Any] = {"setting": setting}
    for number, column in enumerate(_row(setting).columns):
        widget = _Input(attrs={**PLAIN_TYPING, "placeholder": shown[number] if number < len(shown) else ""})
        fields[f"part{number}"] = forms.CharField(
            label=column, required=False, strip=not _row(setting).quotes, max_length=2048, widget=widget
        )
    made = type("SettingRowOf", (SettingRow,), fields)
    return forms.formset_factory(made, extra=0, can_delete=True, can_order=True, **BOUNDED)


def rows_of(setting: Setting, current: str, data: Any = None) -> "forms.BaseFormSet[Any]":
    """The rows of a setting. Data that does not speak of them leaves them as they are."""
    said = [_row(setting).split(text) for text in current.split("\n")] if current else []
    initial = [{f"part{number}": part for number, part in enumerate(parts)} for parts in said]
    about = data if data is not None and f"{setting.id}-TOTAL_FORMS" in data else None
    rows: forms.BaseFormSet[Any] = _row_form(setting)(
        about, prefix=setting.id, initial=initial if about is None else None
    )
    return rows


def active_forms(rows: "forms.BaseFormSet[Any]") -> list[Any]:
    """The rows that were filled in and not taken away, in the order of the page."""
    if not rows.is_bound:
        return []
    first_new = rows.initial_form_count()
    kept = [
        f for i, f in enumerate(rows.forms) if (i < first_new or f.has_changed()) and not f.cleaned_data.get("DELETE")
    ]
    return sorted(kept, key=lambda f: (f.cleaned_data.get("ORDER") is None, f.cleaned_data.get("ORDER") or 0))


def lines_of(rows: Iterable[SettingRow]) -> str:
    """What the rows say, a value a line."""
    return "\n".join(text for text in (row.value() for row in rows) if text)
