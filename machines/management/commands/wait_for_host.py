"""`manage.py wait_for_host`: until every registered host, or the one named, has sent an inventory."""

import time
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q

from machines.models import Host


class Command(BaseCommand):
    help = "Wait until hosts are heard: an inventory since this command began."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", default="")
        parser.add_argument("--seconds", type=float, default=60)
        parser.add_argument("--since", type=float, default=0, help="seconds since the epoch; default: now")

    def handle(self, *_: Any, **options: Any) -> None:
        began = datetime.fromtimestamp(options["since"] or time.time(), UTC)
        deadline = time.monotonic() + options["seconds"]
        hosts = Host.objects.filter(name=options["name"]) if options["name"] else Host.objects.all()
        unheard = hosts.filter(Q(facts_at=None) | Q(facts_at__lt=began))
        while unheard.exists():
            if time.monotonic() > deadline:
                names = ", ".join(unheard.values_list("name", flat=True))
                raise CommandError(
                    f"No word from {names} in {options['seconds']:g} s; look at: journalctl -u nspawnpanel-host"
                )
            time.sleep(0.1)
