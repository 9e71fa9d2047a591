"""The one Django app: its records live in machines.models, its pages in machines.panel."""

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate

from machines import audit_triggers


class MachinesConfig(AppConfig):
    name = "machines"
    verbose_name = "nspawnpanel"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        post_migrate.connect(keep_history, sender=self)


def keep_history(using: str, **_: Any) -> None:
    audit_triggers.create(connections[using])
