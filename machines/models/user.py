"""The people: Django's user with a role and a theme, so that a page needs no second query for them."""

from django.contrib.auth.models import AbstractUser
from django.db import models

from machines.contract.permissions import Permission, Role, authorize
from machines.contract.problems import NotAllowed


class User(AbstractUser):
    class Theme(models.TextChoices):
        SYSTEM = "system"
        LIGHT = "light"
        DARK = "dark"

    role = models.CharField(max_length=30, choices=[(r.value, r.value) for r in Role], default=Role.VIEWER)
    theme = models.CharField(max_length=10, choices=Theme, default=Theme.SYSTEM)

    def may(self, permission: Permission) -> bool:
        try:
            authorize(self.role if self.is_active else "", permission)
        except NotAllowed:
            return False
        return True
