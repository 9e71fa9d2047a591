"""`manage.py add_user NAME --team web --role operator`: a person who may sign in; prints the first password."""

import secrets
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from machines.contract.permissions import TEAM_ROLES, Role
from machines.models import Membership, Team, User
from machines.panel.people import names


class Command(BaseCommand):
    help = "Make a person who may sign in. Prints a first password, to be changed after signing in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument(
            "--administrator", action="store_true", help="of the installation: sees and does everything"
        )
        parser.add_argument("--team", action="append", default=[], metavar="SLUG", help="may be given more than once")
        parser.add_argument("--role", choices=[role.value for role in TEAM_ROLES], default=Role.VIEWER.value)

    @transaction.atomic
    def handle(self, *_: Any, **options: Any) -> None:
        name = User.normalize_username(options["name"])
        if names.is_taken(name):
            raise CommandError(
                f"There is already somebody named {name}, in this or another case, or with this address."
            )
        password = secrets.token_urlsafe(12)
        user = User.objects.create_user(name, password=password, is_administrator=options["administrator"])
        for slug in options["team"]:
            Membership.objects.create(user=user, team=_team(slug), role=options["role"])
        self.stdout.write(f"User: {name}\nPassword: {password}")


def _team(slug: str) -> Team:
    try:
        return Team.objects.get(slug=slug)
    except Team.DoesNotExist:
        known = ", ".join(Team.objects.values_list("slug", flat=True)[:50]) or "none yet"
        raise CommandError(f"There is no team {slug}; teams are: {known}.") from None
