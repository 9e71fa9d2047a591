"""`manage.py courier`: the process that sends orders and takes reports."""

import signal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from machines.contract import routes
from machines.panel.courier.courier import Courier
from machines.panel.courier.key_ring import KeyRing


class Command(BaseCommand):
    help = "Send orders to the hosts and take their reports, until stopped."

    def handle(self, *_: Any, **__: Any) -> None:
        if not settings.REDIS_URL:
            raise CommandError("REDIS_URL is not set: the courier needs its own Redis user's address.")
        if database := routes.other_database(settings.REDIS_URL):
            raise CommandError(f"REDIS_URL ends in /{database}, and everything lies in database 0 of Redis.")
        key = Path(settings.SIGNING_KEY_FILE)
        courier = Courier(settings.REDIS_URL, KeyRing.of(key), key.with_name("epoch"), guard_url=settings.GUARD_URL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: courier.stop())
        self.stdout.write("courier: at work")
        self.stdout.flush()
        courier.run()
