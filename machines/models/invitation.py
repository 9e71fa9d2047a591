"""Links that let somebody in once: the first administrator, and whoever is invited."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from machines.contract.permissions import TEAM_ROLES, Role
from machines.models.team import Team, team_field


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def open(self) -> "InvitationQuerySet":
        """Those that can still be accepted: neither used, nor run out, nor of somebody who is disabled by now."""
        mine = self.filter(used_at=None, expires_at__gt=timezone.now())
        return mine.filter(models.Q(is_setup=True) | models.Q(invited_by__is_active=True))


class Invitation(models.Model):
    """The link's secret is known to whoever has the link; here is its SHA-256."""

    digest = models.CharField(max_length=64, unique=True)
    is_setup = models.BooleanField(default=False)  # of the first administrator: by the command line
    note = models.CharField(max_length=100, default="")  # for whom it is
    is_administrator = models.BooleanField(default=False)
    team: models.ForeignKey[Team | None] = team_field(related_name="invitations")
    role = models.CharField(max_length=10, choices=[(r.value, r.value) for r in TEAM_ROLES], default=Role.VIEWER)
    may_console = models.BooleanField(default=False)
    may_remove = models.BooleanField(default=False)
    invited_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="invitations"
    )
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"invitation {self.pk} until {self.expires_at}"
