"""`manage.py wait_for_host`: until every registered host, or the one named, has sent an inventory."""

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import F, Q
from django.utils import timezone

from machines.models import Host


class Command(BaseCommand):
    help = "Wait until hosts are heard: an inventory since this command began."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", default="")
        parser.add_argument("--seconds", type=float, default=60)

    def handle(self, *_: Any, **options: Any) -> None:
        began, deadline = timezone.now(), time.monotonic() + options["seconds"]
        hosts = Host.objects.filter(name=options["name"]) if options["name"] else Host.objects.all()
        unheard = hosts.filter(
            Q(last_seen=None) | Q(last_seen__lt=began) | Q(facts_at=None) | Q(joined_at__gt=F("facts_at"))
        )
        while unheard.exists():
            if time.monotonic() > deadline:
                names = ", ".join(unheard.values_list("name", flat=True))
                raise CommandError(
                    f"No word from {names} in {options['seconds']:g} s; look at: journalctl -u nspawnpanel-host"
                )
            time.sleep(0.1)
