"""`manage.py add_user NAME --role viewer`: a person who may sign in; prints the first password."""

import secrets
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from machines.contract.permissions import Role
from machines.models import User


class Command(BaseCommand):
    help = "Make a person who may sign in. Prints a first password, to be changed after signing in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--role", choices=[role.value for role in Role], default=Role.VIEWER.value)

    def handle(self, *_: Any, **options: Any) -> None:
        if User.objects.filter(username=options["name"]).exists():
            raise CommandError(f"There is already somebody named {options['name']}.")
        password = secrets.token_urlsafe(12)
        User.objects.create_user(options["name"], password=password, role=options["role"])
        self.stdout.write(f"User: {options['name']}\nPassword: {password}")
