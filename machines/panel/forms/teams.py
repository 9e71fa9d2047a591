"""Forms of teams: what one is called, who is in it, how its deletion is confirmed, and what it may use of a host."""

import re
from collections.abc import Callable
from typing import Any

from django import forms

from machines.contract.configuration import nspawn, values
from machines.contract.permissions import TEAM_ROLES, Permission, Role
from machines.contract.problems import BadValue
from machines.models import Host, HostShare, Membership, Team
from machines.panel.forms import validators
from machines.panel.forms.setting_fields import PLAIN_TYPING
from machines.panel.teams import quota_words
from machines.panel.teams.teams import RESERVED, SLUG, suggest_slug

ROLES = [
    (Role.VIEWER.value, "Viewer: sees everything of the team"),
    (Role.OPERATOR.value, "Operator: starts and stops machines, too"),
    (Role.EDITOR.value, "Editor: configures and builds, too"),
    (Role.OWNER.value, "Owner: everything in the team, its people included"),
]
assert [role for role, _ in ROLES] == list(TEAM_ROLES)
MOST_BYTES, MOST_PERCENT, MOST_WORDS = 1 << 60, 1_000_000, 50
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


class TypedSize(forms.CharField):
    """Bytes, typed as 8G; None for no limit."""

    def prepare_value(self, value: Any) -> Any:
        return quota_words.size_as_typed(value) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        text = str(super().clean(value))
        return _read(lambda: values.size_in_bytes(text), at_most=MOST_BYTES) if text else None


class TypedPercent(forms.CharField):
    """Percent of one CPU, typed as 200%; None for no limit."""

    def prepare_value(self, value: Any) -> Any:
        return f"{value}%" if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        text = str(super().clean(value))
        return _read(lambda: quota_words.read_percent(text), at_most=MOST_PERCENT) if text else None


class TypedWords(forms.CharField):
    """A list, separated by spaces, commas or lines."""

    widget = forms.Textarea(attrs={**PLAIN_TYPING, "rows": 2})

    def __init__(self, check: Callable[[str], str], **more: Any) -> None:
        super().__init__(max_length=2000, required=False, **more)
        self._check = check

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> list[str]:
        text = str(super().clean(value))
        return list(validators.each(self._check, validators.words(text), at_most=MOST_WORDS))


def _read(parse: Callable[[], int], *, at_most: int) -> int:
    try:
        number = parse()
    except BadValue as problem:
        raise forms.ValidationError(f"{problem.message} {problem.hint}".strip()) from None
    if number > at_most:
        raise forms.ValidationError("That is more than any host has.")
    return number


def _network(word: str) -> str:
    """A mode, with a colon and a pattern for single zones, bridges and NICs. Raises BadValue."""
    mode, colon, name = word.partition(":")
    known = nspawn.NETWORK_MODES.get(mode)
    if known is None and not (mode == "interface" and colon):
        raise BadValue(
            f"“{word}” is no network: {', '.join(nspawn.NETWORK_MODES)}, or one of a kind as bridge:br0 or zone:lab*."
        )
    if colon and (not name or (known and not known.target)):
        raise BadValue(f"“{word}”: {mode} has no {'name' if name else 'name behind the colon'}.")
    return word


def _folder(path: str) -> str:
    values.absolute_path(path)
    return path


class ShareForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a team may use of a host. Everything may stay empty: no limit."""

    max_machines = forms.IntegerField(label="Machines", required=False, min_value=0, max_value=10_000)
    max_memory = TypedSize(
        label="Memory", required=False, max_length=20, help_text="The sum of MemoryMax=, such as 8G."
    )
    max_cpu = TypedPercent(
        label="CPU", required=False, max_length=20, help_text="The sum of CPUQuota=; 200% are two CPUs."
    )
    max_disk = TypedSize(label="Disk", required=False, max_length=20, help_text="The sum of all images, such as 100G.")
    networks = TypedWords(
        _network,
        label="Networks",
        help_text="Modes such as veth or zone, or single ones: bridge:br0 zone:lab*. Empty: all.",
    )
    bind_sources = TypedWords(
        _folder,
        label="Bind sources",
        help_text="Folders of the host, with all in them: /srv/web. Empty: all its policy allows.",
    )

    class Meta:
        model = HostShare
        fields = [
            "max_machines", "max_memory", "max_cpu", "max_disk", "networks", "bind_sources", "name_pattern", "claims",
        ]  # fmt: skip
        labels = {"name_pattern": "Names of machines", "claims": "Claim machines that are found"}
        help_texts = {
            "name_pattern": "New machines must match it, such as web-* (* and ? stand for any letters). Empty: any name.",
            "claims": (
                "A machine that the host reports for the first time, and whose name matches, belongs to the team at once. "
                "Where several teams claim a name, none gets it. Machines that belong to somebody are never taken."
            ),
        }
        widgets = {"name_pattern": forms.TextInput(attrs=PLAIN_TYPING)}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("max_machines", "max_memory", "max_cpu", "max_disk"):
            self.fields[name].widget.attrs |= {**PLAIN_TYPING, "placeholder": "no limit"}

    def clean_name_pattern(self) -> str:
        pattern: str = self.cleaned_data["name_pattern"].strip()
        if not re.fullmatch(r"[A-Za-z0-9._*?\[\]!-]*", pattern):
            raise forms.ValidationError(
                "Letters, digits, dots and hyphens, as names of machines have them, with * and ?."
            )
        return pattern


class NewShareForm(ShareForm):
    host = forms.ModelChoiceField(
        queryset=Host.objects.none(), empty_label="Choose a host", error_messages={"required": "Choose a host."}
    )
    field_order = ["host", *ShareForm.Meta.fields]

    class Meta(ShareForm.Meta):
        fields = ["host", *ShareForm.Meta.fields]

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["host"].queryset = Host.objects.exclude(shares__team=team)  # type: ignore[attr-defined]
