"""`manage.py add_host NAME KEYS`: register a host, and print its host.env."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from machines.contract.problems import Problem
from machines.panel.courier import enrol
from machines.panel.courier.key_ring import KeyRing


class Command(BaseCommand):
    help = "Register a host by the line that `python -m machines.host.agent.enrol` printed there; prints its host.env."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("keys", help="np-host1:…:…")
        parser.add_argument(
            "--redis-url", required=True, help="Redis as the host reaches it, e.g. rediss://panel.example:6379/0"
        )
        parser.add_argument("--redis-admin-url", required=True, help="Redis with a user that may run ACL SETUSER")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            for url in (options["redis_url"], options["redis_admin_url"]):
                enrol.refuse_other_database(url)
            host = enrol.register(options["name"], options["keys"])
        except Problem as problem:
            raise CommandError(f"{problem.message} {problem.hint}".strip()) from problem
        self.stdout.write(
            enrol.environment(
                host,
                redis_url=options["redis_url"],
                redis_admin_url=options["redis_admin_url"],
                panel_keys=KeyRing.of(Path(settings.SIGNING_KEY_FILE)).publics(),
                panel_url=settings.PANEL_URL,
            ),
            ending="",
        )
