"""Whose something new is to be."""

from typing import Any

from django import forms

from machines.contract.permissions import Permission
from machines.models import Team, User
from machines.models.team import teams_where

NOBODY = "Nobody (administrators only)"


def first(by: User, permission: Permission) -> Team | None:
    """Whose something becomes where nobody is asked: the first team for which the person may do that; of an administrator
    the first of their own, if they are in one."""
    teams = teams_where(by.grants, permission)
    return Team.objects.filter(pk__in=teams).first()


class TeamChoiceField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """The teams for which this person may do that; an administrator may also choose none. It is not shown to whoever has
    no choice."""

    def __init__(self, by: User, permission: Permission, **options: Any) -> None:
        teams = by.teams_where(permission)
        offered = Team.objects.all() if teams is None else Team.objects.filter(pk__in=teams)
        self.only = offered.first() if teams is not None and len(teams) == 1 else None
        super().__init__(
            offered,
            to_field_name="slug",
            required=teams is not None,
            empty_label=NOBODY if teams is None else None,
            initial=first(by, permission),
            widget=forms.HiddenInput if self.only else forms.Select,
            error_messages={"required": "Choose a team.", "invalid_choice": "You cannot do that for this team."},
            **options,
        )

    def clean(self, value: Any) -> Team | None:
        return self.only if self.only and value in self.empty_values else super().clean(value)
