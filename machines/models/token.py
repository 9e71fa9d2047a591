"""API tokens: what a program sends to act for a person, for some of what that person may do."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from machines.contract.permissions import Permission
from machines.models.host import Host
from machines.models.team import Scope, Team


class ApiToken(models.Model):
    """Its value is shown once; `hash` is the SHA-256 of it, as hex. `all_teams` and `all_hosts` mean those of its owner at the
    time of use: what is chosen one by one and then deleted never widens it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    hash = models.CharField(max_length=64, unique=True)
    hint = models.CharField(max_length=12)  # its first letters, to tell it from others
    rights = models.JSONField(default=list)  # contract.permissions.Permission, beside the one to view
    all_teams = models.BooleanField(default=False)
    teams = models.ManyToManyField(Team, blank=True, related_name="+")
    all_hosts = models.BooleanField(default=True)
    hosts = models.ManyToManyField(Host, blank=True, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    last_address = models.CharField(max_length=45, default="")

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="a_person_has_a_token_of_a_name_once")]

    def __str__(self) -> str:
        return self.name

    @property
    def is_expired(self) -> bool:
        return self.expires_at <= timezone.now()

    @property
    def scope(self) -> Scope:
        """Costs two queries unless `teams` and `hosts` are loaded."""
        known = {right.value for right in Permission}
        return Scope(
            self.name,
            frozenset({Permission.VIEW, *(Permission(right) for right in self.rights if right in known)}),
            None if self.all_teams else frozenset(team.pk for team in self.teams.all()),
            None if self.all_hosts else frozenset(host.pk for host in self.hosts.all()),
        )
