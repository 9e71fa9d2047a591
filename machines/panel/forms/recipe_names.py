"""What a recipe is called, and why it was changed."""

from typing import Any

from django import forms

from machines.contract.permissions import Permission
from machines.models import User
from machines.panel.forms.team_choice import TeamChoiceField
from machines.panel.forms.validators import errors_of


class RecipeNameForm(forms.Form):
    """Of a new recipe also whose it is: give `by`."""

    name = forms.CharField(
        max_length=80,
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "Web server"}),
        error_messages={"required": "Give the recipe a name."},
    )
    description = forms.CharField(
        label="Purpose", max_length=300, required=False, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    reason = forms.CharField(
        label="What changes",
        max_length=300,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="Shown with this version in the history.",
    )

    def __init__(self, *args: Any, by: User | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if by:
            self.fields["team"] = TeamChoiceField(by, Permission.BUILD)

    def clean_name(self) -> str:
        return " ".join(self.cleaned_data["name"].split())

    def trouble(self) -> list[tuple[str, str, str]]:
        return errors_of(self)
