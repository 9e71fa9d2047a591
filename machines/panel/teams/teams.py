"""Teams themselves: made, renamed and deleted. What a team is called can change, its slug cannot."""

import re
import unicodedata
from typing import Any

from django.db import transaction
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from machines.contract.problems import Problem
from machines.models import Archive, HostShare, Machine, Membership, Preset, Recipe, Team, User
from machines.panel.audit.entries import record

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAME_LENGTH = 80  # of a recipe's and a preset's name
RESERVED = frozenset({"new", "show"})  # /teams/new/ …


def suggest_slug(name: str) -> str:
    """One for a team of this name that is free; "" where the name has no letter or digit to make it of."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:59].strip("-")
    if not slug:
        return ""
    taken = RESERVED | set(Team.objects.filter(slug__startswith=slug).values_list("slug", flat=True))
    return next(each for each in (slug, *(f"{slug}-{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def create(team: Team, by: User) -> None:
    """Raises IntegrityError when somebody was faster with its name or slug."""
    with transaction.atomic():
        team.save(force_insert=True)
        record("team-created", f"{by.username} created the team {team.name}.", by=by, on=team)


def change(team: Team, by: User, *, name: str, description: str) -> None:
    """Its name and description. Raises IntegrityError when another has the name."""
    before = Team.objects.get(pk=team.pk)
    if (before.name, before.description) == (name, description):
        return
    with transaction.atomic():
        Team.objects.filter(pk=team.pk).update(name=name, description=description)
        renamed = (
            f"renamed the team {before.name} to {name}" if name != before.name else f"described the team {name} anew"
        )
        record("team-changed", f"{by.username} {renamed}.", by=by, on=team)


def with_contents(teams: QuerySet[Team]) -> QuerySet[Team]:
    """With how many people, hosts, machines, recipes, presets and archives each has, as `people`, `hosts` …"""
    counted: dict[str, QuerySet[Any]] = {
        "people": Membership.objects.all(),
        "hosts": HostShare.objects.all(),
        "machines_held": Machine.objects.listed(),
        "recipes_held": Recipe.objects.all(),
        "presets_held": Preset.objects.all(),
        "archives_held": Archive.objects.all(),
    }
    return teams.annotate(**{word: _count(rows) for word, rows in counted.items()})


def _count(rows: QuerySet[Any]) -> Coalesce:
    mine = rows.filter(team=OuterRef("pk")).order_by().values("team").annotate(number=Count("pk"))
    return Coalesce(Subquery(mine.values("number")), 0)


def delete(team: Team, by: User) -> None:
    """What it held is nobody's afterwards. Raises Problem while a job of it is under way: that would end as nobody's."""
    with transaction.atomic():
        locked = Team.objects.select_for_update().get(pk=team.pk)
        under_way = locked.jobs.unfinished().count()
        if under_way:
            raise Problem(
                f"{team.name} has {under_way} job{'' if under_way == 1 else 's'} in progress.",
                hint="Wait until they have ended, or cancel them.",
            )
        _make_names_free(locked)
        said = f"{by.username} deleted the team {team.name}; what it held belongs to nobody."
        record("team-deleted", said, by=by, on=locked, team_id=None)
        locked.delete()


def _make_names_free(team: Team) -> None:
    """Nobody has one recipe and one preset of a name: those that would be the second are told apart by the team's slug."""
    for kind in (Recipe, Preset):
        taken = set(kind.objects.filter(team=None).values_list("name", flat=True))
        for each in kind.objects.filter(team=team, name__in=taken):
            number, name = 1, each.name
            while name in taken:
                tail = f" ({team.slug}{f' {number}' if number > 1 else ''})"
                name, number = f"{each.name[: NAME_LENGTH - len(tail)]}{tail}", number + 1
            kind.objects.filter(pk=each.pk).update(name=name)
            taken.add(name)
