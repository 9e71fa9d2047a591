"""What people say of themselves."""

from typing import Any

from django import forms
from django.contrib.auth.forms import UsernameField
from django.contrib.auth.password_validation import validate_password
from django.http import QueryDict

from machines.contract.permissions import TEAM_ROLES, Permission, Role
from machines.models import Team, User
from machines.panel.people.invitations import Offer
from machines.panel.people.names import is_taken
from machines.panel.web import accounts


class ProfileForm(forms.Form):
    name = forms.CharField(label="Full name", max_length=150, required=False)
    email = forms.EmailField(
        label="Email address", max_length=254, required=False,
        help_text="You can sign in with it, and a link to a new password is sent there.",
    )  # fmt: skip

    def __init__(self, data: QueryDict | None = None, *, person: User) -> None:
        super().__init__(data, initial={"name": person.first_name, "email": person.email})
        self._person = person
        self.fields["name"].widget.attrs |= {"autocomplete": "name"}
        self.fields["email"].widget.attrs |= {"autocomplete": "email"}

    def clean_email(self) -> str:
        """One address, one person: both would be asked for at the sign-in."""
        email: str = self.cleaned_data["email"]
        if email and is_taken(email, but=self._person):
            raise forms.ValidationError("Somebody else has this address.")
        return email


class NewPersonForm(forms.Form):
    """Who accepts an invitation."""

    username = UsernameField(
        max_length=150, validators=[User.username_validator],
        help_text="Letters, digits and @ . + - _. Jobs and logs name you by it; it cannot be changed.",
    )  # fmt: skip
    name = forms.CharField(label="Full name", max_length=150, required=False)
    email = forms.EmailField(
        label="Email address", max_length=254, required=False, help_text="You can sign in with it as well."
    )
    password = forms.CharField(
        widget=forms.PasswordInput, max_length=4096, strip=False, help_text=accounts.OF_A_PASSWORD
    )
    again = forms.CharField(label="Repeat password", widget=forms.PasswordInput, max_length=4096, strip=False)

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data)
        told = {
            "username": "username",
            "name": "name",
            "email": "email",
            "password": "new-password",
            "again": "new-password",
        }
        for field, autocomplete in told.items():
            self.fields[field].widget.attrs |= {"autocomplete": autocomplete}
        self.fields["username"].widget.attrs |= {"autocapitalize": "off", "autofocus": True}

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"]
        if is_taken(username):
            raise forms.ValidationError("Somebody else has this name.")
        return username

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        if email and is_taken(email):
            raise forms.ValidationError("Somebody else has this address.")
        return email

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        person = User(
            username=given.get("username", ""), email=given.get("email", ""), first_name=given.get("name", "")
        )
        try:
            validate_password(given.get("password", ""), person)
        except forms.ValidationError as error:
            self.add_error("password", error)
        if given.get("password") != given.get("again"):
            self.add_error("again", "The two passwords are not the same.")
        return given


class InvitationForm(forms.Form):
    """For whom, and what they become: in a team that the inviting person manages, or an administrator."""

    note = forms.CharField(label="For whom", max_length=100, help_text="A name or address, so that you know it again.")
    team = forms.ModelChoiceField(Team.objects.none(), required=False, empty_label="None")
    role = forms.ChoiceField(
        choices=[(role.value, role.value.title()) for role in TEAM_ROLES], initial=Role.VIEWER.value
    )
    may_console = forms.BooleanField(label="May open consoles", required=False)
    may_remove = forms.BooleanField(label="May remove machines", required=False)
    is_administrator = forms.BooleanField(
        label="Administrator of the installation", required=False, help_text="Sees and does everything, in all teams."
    )
    days = forms.TypedChoiceField(
        label="Works for", coerce=int, initial=7, choices=[(1, "1 day"), (3, "3 days"), (7, "7 days"), (30, "30 days")]
    )

    def __init__(self, data: QueryDict | None = None, *, by: User) -> None:
        super().__init__(data)
        teams = by.teams_where(Permission.MANAGE)
        field = self.fields["team"]
        field.queryset = Team.objects.all() if teams is None else Team.objects.filter(pk__in=teams)  # type: ignore[attr-defined]
        if teams is not None:
            del self.fields["is_administrator"]
            field.required, field.empty_label = True, None  # type: ignore[attr-defined]

    def to_offer(self) -> Offer:
        given = self.cleaned_data
        return Offer(
            given.get("is_administrator", False),
            given["team"],
            given["role"],
            given["may_console"],
            given["may_remove"],
        )
