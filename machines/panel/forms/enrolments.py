"""The name under which a host joins."""

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
