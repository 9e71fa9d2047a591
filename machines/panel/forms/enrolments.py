"""The name of a host: under which it joins, to which it is renamed, and typed once more to remove it."""

from typing import Any

from django import forms

from machines.contract.names import host_name
from machines.contract.problems import BadValue


class EnrolmentForm(forms.Form):
    name = forms.CharField(
        label="Name of the host",
        max_length=63,
        help_text="What the panel calls it: lower-case letters, digits, dots and dashes, such as alpha or rack2.example.",
    )

    def clean_name(self) -> str:
        try:
            return host_name(self.cleaned_data["name"])
        except BadValue as problem:
            raise forms.ValidationError(problem.message) from problem


class RemoveHostForm(forms.Form):
    """The name of the host, typed once more."""

    confirm = forms.CharField(max_length=63, strip=False)

    def __init__(self, *args: Any, name: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name = name
        self.fields["confirm"].label = f"Type {name} to confirm"
        self.fields["confirm"].error_messages["required"] = f"Type {name} to confirm."
        self.fields["confirm"].widget.attrs |= {"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}

    def clean_confirm(self) -> str:
        if (typed := str(self.cleaned_data["confirm"])) != self._name:
            raise forms.ValidationError(f"The name does not match. Type {self._name} to confirm.")
        return typed
