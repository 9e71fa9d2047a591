"""`manage.py setup_link`: prints the link by which the first administrator makes their account."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from machines.panel.people import invitations


class Command(BaseCommand):
    help = "Print a one-time link for the first administrator. Links printed before no longer work."

    def handle(self, *_: Any, **__: Any) -> None:
        try:
            link = invitations.setup_link()
        except invitations.NotGood as problem:
            raise CommandError(f"{problem.message} {problem.hint}") from problem
        self.stdout.write(told(link))


def told(link: str) -> str:
    where = "" if "://" in link else " of the panel's address (NSPAWNPANEL_URL is not set)"
    return f"The first administrator opens this{where}, once, within {invitations.SETUP_HOURS} hours:\n{link}"
