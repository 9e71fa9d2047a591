"""The one Django app: its records live in machines.models, its pages in machines.panel."""

from django.apps import AppConfig


class MachinesConfig(AppConfig):
    name = "machines"
    verbose_name = "nspawnpanel"
    default_auto_field = "django.db.models.BigAutoField"
