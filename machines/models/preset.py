"""A preset: a named set of settings that several machines have in common; which machines it was put on; and the groups of
jobs that carry a change to many of them."""

from typing import Any

from django.conf import settings as django_settings
from django.db import models
from django.utils import timezone

from machines.contract.states import FINAL_JOB_STATES, JobState
from machines.models.machine import Machine
from machines.models.revision import MODES
from machines.models.team import OfTeams, team_field


class PresetQuerySet(OfTeams["Preset"]):
    pass


class Preset(models.Model):
    name = models.CharField(max_length=80)
    team = team_field(related_name="presets")
    description = models.CharField(max_length=300, blank=True, default="")
    network_mode = models.CharField(max_length=10, blank=True, default="", choices=[("", "as it is"), *MODES])
    network_target = models.CharField(max_length=300, blank=True, default="")
    # {"Exec.Hostname": "web", "Files.Bind": "/srv/a\n/srv/b"}: of a key that repeats, a value a line
    settings = models.JSONField(default=dict, blank=True)
    author_name = models.CharField(max_length=150, default="")
    created_at = models.DateTimeField(default=timezone.now)
    changed_at = models.DateTimeField(auto_now=True)

    objects = PresetQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["team", "name"], name="a_team_has_a_preset_of_a_name_once"),
            models.UniqueConstraint(fields=["name"], condition=models.Q(team=None), name="one_preset_of_a_name"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def content(self) -> dict[str, Any]:
        """Everything it says, as one thing that can be kept: contract settings, and the network's mode and target."""
        return {"network": [self.network_mode, self.network_target], "settings": dict(self.settings)}


class PresetUse(models.Model):
    """A machine has a preset; `content` is what the preset had when it was put there last."""

    preset = models.ForeignKey(Preset, on_delete=models.CASCADE, related_name="uses")
    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="presets")
    content = models.JSONField(default=dict)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["at"]
        constraints = [models.UniqueConstraint(fields=["preset", "machine"], name="a_preset_is_put_once")]

    def __str__(self) -> str:
        return f"{self.preset} on {self.machine}"


class JobGroupQuerySet(OfTeams["JobGroup"]):
    pass


class JobGroup(models.Model):
    """One change on many machines: a job for each. With `stop_at_failure` they go one after the other."""

    team = team_field(related_name="job_groups")
    title = models.CharField(max_length=200)
    preset = models.ForeignKey(Preset, null=True, on_delete=models.SET_NULL, related_name="groups")
    content = models.JSONField(default=dict)
    restart = models.BooleanField(default=False)
    stop_at_failure = models.BooleanField(default=True)
    author = models.ForeignKey(django_settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    author_name = models.CharField(max_length=150, default="")
    key = models.UUIDField(null=True, unique=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    objects = JobGroupQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.title


class GroupMember(models.Model):
    """One machine of a group."""

    class State(models.TextChoices):
        WAITING = "waiting"
        PLACED = "placed"  # there is a job; its state says the rest
        DONE = "done"  # its job has succeeded, and the preset is one of the machine's
        UNCHANGED = "unchanged"  # nothing had to be done
        REFUSED = "refused"
        SKIPPED = "skipped"  # an earlier one failed

    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="members")
    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="+")
    position = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    job = models.ForeignKey("Job", null=True, on_delete=models.SET_NULL, related_name="members")
    problem = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["group", "machine"], name="a_machine_is_in_a_group_once")]

    def __str__(self) -> str:
        return f"{self.machine} in {self.group}"

    @property
    def has_succeeded(self) -> bool:
        if self.state == self.State.PLACED:
            return self.job is not None and self.job.state == JobState.SUCCEEDED
        return self.state in {self.State.UNCHANGED, self.State.DONE}

    @property
    def has_ended(self) -> bool:
        if self.state == self.State.PLACED:
            return self.job is None or self.job.state in FINAL_JOB_STATES or self.job.is_given_up
        return self.state != self.State.WAITING

    @property
    def has_failed(self) -> bool:
        return self.has_ended and not self.has_succeeded
