"""Forms of machines: removal. (Building one has a file of its own.)"""

from typing import Any

from django import forms

from machines.models import Machine


class RemoveMachineForm(forms.Form):
    """The name of the machine, typed once more."""

    confirm = forms.CharField(label="Name of the machine", max_length=255, strip=False)

    def __init__(self, *args: Any, machine: Machine, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.machine = machine
        self.fields["confirm"].error_messages["required"] = f"Type {machine.name} to confirm."

    def clean_confirm(self) -> str:
        typed: str = self.cleaned_data["confirm"]
        if typed != self.machine.name:
            raise forms.ValidationError(f"That is not its name. Type {self.machine.name} to confirm.")
        return typed

    def clean(self) -> dict[str, Any] | None:
        if self.machine.shown_state.is_up:
            raise forms.ValidationError(f"{self.machine.name} is {self.machine.state}. Power it off first.")
        return super().clean()
