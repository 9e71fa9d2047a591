"""The form of a new API token: what it is for, and until when."""

from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone

from machines.models import ApiToken, Host, Team, User
from machines.panel.teams import tokens

WORDS = {
    "operate": "operate: start and stop machines",
    "configure": "configure",
    "build": "build, and upload archives",
    "console": "console: a shell in machines",
    "remove": "remove machines",
    "manage": "manage the people of a team",
}
DAYS = [("1", "1 day"), ("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "a year")]


class SomeOf(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """Some of few rows, compared as text: no number is too large for that, and no text reaches the database."""

    def clean(self, value: Any) -> Any:
        offered = {str(each.pk) for each in self.queryset or ()}
        for each in value if isinstance(value, list | tuple) else ():
            if str(each) not in offered:
                raise forms.ValidationError("That is not one of yours.", code="invalid_choice")
        return super().clean(value)


class NewTokenForm(forms.ModelForm):  # type: ignore[type-arg]
    rights = forms.MultipleChoiceField(
        choices=[(right.value, WORDS[right]) for right in tokens.RIGHTS],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="Beside seeing what you see. Where you do not hold a right yourself, the token does not either.",
    )
    all_teams = forms.BooleanField(label="All my teams, also those I join later", required=False)
    teams = SomeOf(Team.objects.none(), required=False, widget=forms.CheckboxSelectMultiple, label="Only these teams")
    all_hosts = forms.BooleanField(label="All hosts of my teams", required=False, initial=True)
    hosts = SomeOf(Host.objects.none(), required=False, widget=forms.CheckboxSelectMultiple, label="Only these hosts")
    days = forms.ChoiceField(label="Expires after", choices=DAYS, initial="30")

    class Meta:
        model = ApiToken
        fields = ["name", "rights", "all_teams", "all_hosts"]
        help_texts = {"name": "What uses it, such as “ci on build-1”. It stands in the audit log beside your name."}
        error_messages = {"name": {"required": "Give the token a name."}}

    def __init__(self, *args: Any, by: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by = by
        self.fields["teams"].queryset = Team.objects.visible_to(by)  # type: ignore[attr-defined]
        self.fields["hosts"].queryset = Host.objects.visible_to(by)  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if ApiToken.objects.filter(user=self.by, name=name).exists():
            raise forms.ValidationError("You have a token of this name already.")
        if ApiToken.objects.filter(user=self.by).count() >= tokens.MOST:
            raise forms.ValidationError(f"You have {tokens.MOST} tokens. Revoke one first.")
        return name

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for one, every in (("teams", "all_teams"), ("hosts", "all_hosts")):
            chosen = bool(cleaned.get(one))
            if chosen == bool(cleaned.get(every)) and one not in self.errors:
                self.add_error(
                    one, f"Choose all {one}, or some, but not both." if chosen else f"Choose some {one}, or all."
                )
        return cleaned

    def to_token(self) -> ApiToken:
        given = self.cleaned_data
        return ApiToken(
            user=self.by, name=given["name"], rights=given["rights"], all_teams=given["all_teams"], all_hosts=given["all_hosts"],
            expires_at=timezone.now() + timedelta(days=int(given["days"])),
        )  # fmt: skip
