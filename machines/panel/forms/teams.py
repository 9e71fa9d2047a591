"""Forms of teams: what one is called, who is in it, and how its deletion is confirmed."""

from typing import Any

from django import forms

from machines.contract.permissions import TEAM_ROLES, Permission, Role
from machines.models import Membership, Team
from machines.panel.forms.setting_fields import PLAIN_TYPING
from machines.panel.teams.teams import RESERVED, SLUG, suggest_slug

ROLES = [
    (Role.VIEWER.value, "Viewer: sees everything of the team"),
    (Role.OPERATOR.value, "Operator: starts and stops machines, too"),
    (Role.EDITOR.value, "Editor: configures and builds, too"),
    (Role.OWNER.value, "Owner: everything in the team, its people included"),
]
assert [role for role, _ in ROLES] == list(TEAM_ROLES)
TAKEN = "Another team has this name."


class TeamForm(forms.ModelForm):  # type: ignore[type-arg]
    """Name and description; of a new team its slug as well."""

    class Meta:
        model = Team
        fields = ["name", "description"]
        help_texts = {"description": "What the team is for, in a sentence."}
        error_messages = {"name": {"required": "Give the team a name.", "unique": TAKEN}}


class NewTeamForm(TeamForm):
    slug = forms.CharField(
        label="Short name",
        max_length=63,
        required=False,
        help_text=(
            "In addresses of pages, in orders, and in the policy of hosts. Lower-case letters, digits and hyphens; made "
            "from the name if left empty. It can never be changed: choose one that outlives a renaming."
        ),
        widget=forms.TextInput(attrs=PLAIN_TYPING),
    )

    class Meta(TeamForm.Meta):
        fields = ["name", "slug", "description"]

    field_order = ["name", "slug", "description"]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        slug = (cleaned.get("slug") or "").strip() or suggest_slug(cleaned.get("name") or "")
        if not slug and "name" in cleaned:
            self.add_error("slug", "Type one: the name has no letters or digits to make it from.")
        elif slug and not SLUG.fullmatch(slug):
            self.add_error("slug", "Only lower-case letters, digits and hyphens, none at either end; e.g. web-shop.")
        elif slug in RESERVED or (slug and Team.objects.filter(slug=slug).exists()):
            self.add_error("slug", f"The short name {slug} is taken.")
        cleaned["slug"] = slug
        return cleaned


class MemberForm(forms.ModelForm):  # type: ignore[type-arg]
    """The role of a member, and the rights it carries besides."""

    role = forms.ChoiceField(choices=ROLES)

    class Meta:
        model = Membership
        fields = ["role", "may_console", "may_remove"]
        labels = {"may_console": "Right to console", "may_remove": "Right to remove"}
        help_texts = {
            "may_console": "A shell inside the team’s machines. Owners have it anyway.",
            "may_remove": "Remove machines with everything in them. Owners have it anyway.",
        }

    def rights(self) -> dict[str, bool]:
        """What the form says, as members.add and members.change take it."""
        return {
            f"may_{right}": bool(self.cleaned_data[f"may_{right}"]) for right in (Permission.CONSOLE, Permission.REMOVE)
        }


class NewMemberForm(MemberForm):
    name = forms.CharField(
        label="Username",
        max_length=150,
        help_text="Exactly as the person signs in.",
        widget=forms.TextInput(attrs=PLAIN_TYPING),
        error_messages={"required": "Type the person’s username."},
    )
    field_order = ["name", "role", "may_console", "may_remove"]


class ConfirmTeamForm(forms.Form):
    confirm = forms.CharField(required=False, widget=forms.TextInput(attrs=PLAIN_TYPING))

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.team = team
        self.fields["confirm"].label = f"Type {team.slug} to confirm"

    def clean_confirm(self) -> str:
        if self.cleaned_data["confirm"] != self.team.slug:
            raise forms.ValidationError(f"Type {self.team.slug}, exactly.")
        return self.team.slug
