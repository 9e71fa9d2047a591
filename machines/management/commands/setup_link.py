"""`manage.py setup_link`: prints the link by which the first administrator makes their account."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from machines.panel.people import invitations


class Command(BaseCommand):
    help = "Print a one-time link for the first administrator. Links printed before no longer work."

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            path = invitations.setup_link()
        except invitations.NotGood as problem:
            raise CommandError(f"{problem.message} {problem.hint}") from problem
        self.stdout.write(told(path))


def told(path: str) -> str:
    where = "" if settings.PANEL_URL else " of the panel's address (NSPAWNPANEL_URL is not set)"
    hours = invitations.SETUP_HOURS
    return f"The first administrator opens this{where}, once, within {hours} hours:\n{settings.PANEL_URL}{path}"
