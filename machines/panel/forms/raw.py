"""Both files of a machine as text."""

from typing import Any

from django import forms

from machines.contract.configuration import syntax_check
from machines.contract.configuration.syntax_check import Remark

LARGEST = 60 * 1024  # characters; what an order carries is a little more
AREA = {"spellcheck": "false", "autocapitalize": "off", "autocomplete": "off", "class": "raw-text", "wrap": "off"}


class RawForm(forms.Form):
    """What is wrong is said with its line; a line that was there before may stay as it is."""

    nspawn = forms.CharField(
        label="Settings file", required=False, strip=False, max_length=LARGEST,
        widget=forms.Textarea(attrs={**AREA, "rows": 22}),
    )  # fmt: skip
    limits = forms.CharField(
        label="Drop-in of the unit", required=False, strip=False, max_length=LARGEST,
        widget=forms.Textarea(attrs={**AREA, "rows": 8}),
    )  # fmt: skip

    def __init__(self, data: Any = None, *, nspawn: str, limits: str) -> None:
        """The texts are those of the draft as it is."""
        super().__init__(data, initial={"nspawn": nspawn, "limits": limits})
        self.remarks: dict[str, list[Remark]] = {
            "nspawn": syntax_check.settings_file(nspawn, nspawn),
            "limits": syntax_check.dropin(limits, limits),
        }

    def clean_nspawn(self) -> str:
        return self._checked("nspawn", syntax_check.settings_file)

    def clean_limits(self) -> str:
        return self._checked("limits", syntax_check.dropin)

    def _checked(self, name: str, read: Any) -> str:
        before = str(self.initial[name])
        text = syntax_check.with_ends_of(before, self.cleaned_data[name])
        self.remarks[name] = read(text, before)
        wrong = [f"Line {remark.line}: {remark.text}" for remark in self.remarks[name] if remark.fatal]
        if wrong:
            raise forms.ValidationError(wrong[:20])
        return text
