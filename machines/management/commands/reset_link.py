"""`manage.py reset_link NAME`: the way back in for whoever lost the password, or with --second-factor what else is asked for."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from machines.models import User
from machines.panel.people import resets

BY = "manage.py"


class Command(BaseCommand):
    help = "Print a one-time link to a new password of somebody."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument(
            "--second-factor",
            action="store_true",
            help="also remove their authenticator app, passkeys and recovery codes",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["name"]).first()
        if user is None:
            known = (
                ", ".join(User.objects.filter(is_administrator=True).values_list("username", flat=True)[:20]) or "none"
            )
            raise CommandError(f"There is nobody named {options['name']}. Administrators: {known}.")
        if not user.is_active:
            raise CommandError(
                f"{user.username} is disabled; an administrator can enable them under Settings → People."
            )
        if options["second_factor"]:
            self.stdout.write(f"Second factors removed: {resets.forget_second_factor(user, by=BY)}")
        path = resets.link(user, by=BY)
        where = "" if settings.PANEL_URL else " of the panel's address (NSPAWNPANEL_URL is not set)"
        hours = settings.PASSWORD_RESET_TIMEOUT // 3600
        self.stdout.write(f"{user.username} opens this{where}, once, within {hours} hours:\n{settings.PANEL_URL}{path}")
