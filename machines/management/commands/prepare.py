"""`manage.py prepare`: make what a new installation needs and does not have: secrets, Redis users, tables, and how the first administrator comes in."""

import secrets
from argparse import BooleanOptionalAction
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from machines.contract import routes
from machines.contract.problems import Problem
from machines.models import User
from machines.panel.courier import enrol, mailbox, redis_check
from machines.panel.courier.key_ring import load_key
from machines.panel.courier.redis_users import Guard


class Command(BaseCommand):
    help = "Make secrets, Redis users and tables where they are missing, and a link for the first administrator."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--redis-admin-url", help="Redis with a user that may run ACL SETUSER")
        parser.add_argument("--admin", help="make the first administrator by this name, with a password in a file")
        parser.add_argument("--tables", action=BooleanOptionalAction, default=True)

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            enrol.refuse_other_database(options["redis_admin_url"] or "")
        except Problem as problem:
            raise CommandError(f"{problem.message} {problem.hint}") from problem
        data = Path(settings.DATA_DIR)
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        _keep(data / "secret-key", secrets.token_urlsafe(50))
        load_key(Path(settings.SIGNING_KEY_FILE))
        if options["redis_admin_url"]:
            _redis_user(data / "redis-url", options["redis_admin_url"], "np-courier", routes.courier_acl())
            _redis_user(data / "guard-url", options["redis_admin_url"], "np-guard", routes.guard_acl())
            _redis_user(data / "poke-url", options["redis_admin_url"], "np-web", routes.web_acl())
            for fault in redis_check.faults(Guard((data / "guard-url").read_text().strip(), timeout=mailbox.TIMEOUT)):
                self.stderr.write(f"Redis: {fault}")
        if options["tables"]:
            call_command("migrate", interactive=False, verbosity=0)
            self._first_admin(options["admin"], data / "first-password")

    def _first_admin(self, name: str | None, file: Path) -> None:
        if User.objects.exists():
            return
        if not name:
            call_command("setup_link", stdout=self.stdout)
            return
        password = secrets.token_urlsafe(12)
        name = User.objects.create_user(name, password=password, is_administrator=True).username
        _write(file, password)
        self.stdout.write(f"Administrator {name} made; the password is in {file}")


def _keep(file: Path, text: str) -> None:
    if not file.exists():
        _write(file, text)


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text + "\n")


def _redis_user(file: Path, admin_url: str, name: str, rules: list[str]) -> None:
    password = secrets.token_urlsafe(32)
    mailbox.add_user(admin_url, name, password, rules)
    file.unlink(missing_ok=True)
    _write(file, enrol.with_user(admin_url, name, password))
