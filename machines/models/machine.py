"""A machine: what its host last reported of it, and which configuration it should have."""

from collections.abc import Collection, Mapping
from copy import copy
from datetime import datetime
from types import MappingProxyType
from typing import Any

from django.apps import apps
from django.db import models
from django.utils import timezone

from machines.contract.configuration import command_line
from machines.contract.configuration.command_line import CommandLine
from machines.contract.orders import ABSENT
from machines.contract.states import MachineState
from machines.models.host import Host
from machines.models.team import OfTeams, team_field

POOL = "/var/lib/machines/"
FIXED = ("mount", "vendor")  # what makes an image read-only that no mark does
PROBLEM_STATES = (MachineState.FAILED, MachineState.RESTARTING, MachineState.DEGRADED, MachineState.UNKNOWN)


def rank_of(state: str) -> int:
    return 0 if state in PROBLEM_STATES else 1


BUILDING_RANK = 0  # of a machine that is being built: on top of the list until its host reports it, or it is forgotten

# The columns of a machine without an image: it is missing, and nothing runs it
MISSING: Mapping[str, Any] = MappingProxyType({
    "state": MachineState.MISSING, "rank": rank_of(MachineState.MISSING), "since": None, "leader": None, "drifted": False,
    "mismatches": 0, "addresses": [], "image_id": "", "image_type": "", "image_path": "", "read_only": False, "read_only_by": "",
    "hidden_images": [], "disk_bytes": None, "enabled": False, "restart_needed": False, "why": "", "unreadable": "",
    "activity": {}, "run_command": [],
})  # fmt: skip
NO_DRIFT: Mapping[str, Any] = MappingProxyType({"drifted": False, "ignored": ""})
# … of one whose files were not written from here
NOT_APPLIED: Mapping[str, Any] = MappingProxyType({**NO_DRIFT, "applied": None, "restart_needed": False})
# … and of one that was never built
NEVER_BUILT: Mapping[str, Any] = MappingProxyType({
    **MISSING, **NOT_APPLIED, "team_id": None, "host_team": None, "built_by": None, "os": "", "nspawn_sha256": ABSENT, "limits_sha256": ABSENT,
})  # fmt: skip
# … and what else a row keeps of a machine
NOTHING_KEPT: Mapping[str, Any] = MappingProxyType({
    "former_team": None, "preset_words": [], "unit": "", "unit_command": [], "effective": {}, "memory_bytes": None, "cpu_ns": None,
    "tasks": None,
})  # fmt: skip
OF_THE_MACHINE = ("PresetUse", "ObservedFiles")  # rows beside it that end with it, as its revisions do not
NOBODYS = 0  # in `former_team`, where None means that nothing is kept


class MachineQuerySet(OfTeams["Machine"]):
    def on(self, host: Host) -> "MachineQuerySet":
        return self.filter(host=host)

    def listed(self) -> "MachineQuerySet":
        """All but those that were removed by order or forgotten by a person."""
        return self.filter(removed_at=None)

    def empty(self) -> None:
        """Take away what these rows keep of former machines, before a team gets them that must not read it. Of one that is listed
        nothing but revisions is left of that (see forget): its other rows and its applied revision are of the machine
        that is there now."""
        gone = list(self.exclude(removed_at=None).values_list("pk", flat=True))
        there = dict(self.filter(removed_at=None).values_list("pk", "applied"))
        revisions = apps.get_model("machines", "Revision").objects.filter(machine__in=[*gone, *there])
        revisions.exclude(pk__in=[applied for applied in there.values() if applied]).delete()
        _delete_beside(gone)
        Machine.objects.filter(pk__in=gone).update(**NOTHING_KEPT)
        Machine.objects.filter(pk__in=there).update(former_team=None)

    def mark_missing(self) -> None:
        """Their host has them no more."""
        self.update(changed_at=timezone.now(), **MISSING)

    def mark_unknown(self, why: str, now: datetime) -> None:
        """Nothing may be claimed of these any more; `why` is for people, "" when their host says nothing at all."""
        claimed = self.exclude(state=MachineState.MISSING).exclude(state=MachineState.UNKNOWN, why=why)
        rank = rank_of(MachineState.UNKNOWN)
        claimed.update(state=MachineState.UNKNOWN, rank=rank, why=why, activity={}, changed_at=now)


def _delete_beside(machines: Collection[int]) -> None:
    for name in OF_THE_MACHINE:
        apps.get_model("machines", name).objects.filter(machine__in=machines).delete()


class Machine(models.Model):
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="machines")
    name = models.CharField(max_length=255)
    team = team_field(related_name="machines")
    # The slug of the team it belongs to by its host's own ledger: "" nobody's, None where its host has not said
    host_team = models.CharField(max_length=63, null=True, default=None)  # noqa: DJ001 - None is no ""
    # The key of the team whose machine of this name was removed, NOBODYS for nobody's: for it alone its revisions are kept here
    former_team = models.BigIntegerField(null=True, default=None, editable=False)
    state = models.CharField(
        max_length=20, choices=[(s.value, s.value) for s in MachineState], default=MachineState.UNKNOWN
    )
    # 0 for states that need attention, so that lists can put them first by an index
    rank = models.PositiveSmallIntegerField(default=1, editable=False)
    changed_at = models.DateTimeField(default=timezone.now)  # when a fact below last differed
    removed_at = models.DateTimeField(null=True)

    since = models.DateTimeField(null=True)
    unit = models.CharField(max_length=300, default="")
    leader = models.PositiveIntegerField(null=True)
    addresses = models.JSONField(default=list)  # ["10.0.0.2", …], the most useful first
    enabled = models.BooleanField(default=False)
    os = models.CharField(max_length=300, default="")
    image_id = models.CharField(max_length=100, default="")
    image_type = models.CharField(max_length=30, default="")
    image_path = models.CharField(max_length=1000, default="")
    read_only = models.BooleanField(default=False)
    read_only_by = models.CharField(max_length=10, default="")  # contract.reports.MachineFact
    hidden_images = models.JSONField(default=list)  # of the same name, which systemd never uses
    disk_bytes = models.PositiveBigIntegerField(null=True)
    memory_bytes = models.PositiveBigIntegerField(null=True)
    cpu_ns = models.PositiveBigIntegerField(null=True)
    tasks = models.PositiveIntegerField(null=True)
    nspawn_sha256 = models.CharField(max_length=64, default=ABSENT)
    limits_sha256 = models.CharField(max_length=64, default=ABSENT)
    effective = models.JSONField(default=dict)
    why = models.TextField(default="")  # it failed, or is unknown
    unreadable = models.CharField(max_length=300, default="", blank=True)  # which of its files, and why
    activity = models.JSONField(default=dict)  # reports.Activity, without what is as ever

    applied = models.ForeignKey("Revision", null=True, on_delete=models.SET_NULL, related_name="+")
    restart_needed = models.BooleanField(default=False)
    # [[number, name, what it said when it was put here], …] of its presets: a copy, so that its pages cost no query more
    preset_words = models.JSONField(default=list)
    built_by = models.ForeignKey(
        "Job", null=True, on_delete=models.SET_NULL, related_name="+"
    )  # the build it came from
    # Whether the files on the host are not the ones that were applied last, and nobody has said to leave it at that.
    drifted = models.BooleanField(default=False)
    ignored = models.CharField(max_length=130, default="", blank=True)  # the fingerprint of a drift to leave alone
    mismatches = models.PositiveSmallIntegerField(default=0)  # settings that do not hold as asked
    # The words of systemd-nspawn: as its unit would start it, and as the one that runs it was started. [] until told.
    unit_command = models.JSONField(default=list)
    run_command = models.JSONField(default=list)

    objects = MachineQuerySet.as_manager()

    class Meta:
        ordering = ["rank", "name"]
        constraints = [models.UniqueConstraint(fields=["host", "name"], name="one_machine_of_a_name_per_host")]
        indexes = [
            models.Index(fields=["removed_at", "rank", "name", "id"], name="machine_list"),
            models.Index(fields=["removed_at", "name", "id"], name="machine_list_by_name"),
            models.Index(fields=["state"], name="machine_state"),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.rank = rank_of(self.state)
        super().save(*args, **kwargs)

    def _write(self, **columns: Any) -> None:
        """These columns alone, in the row and here: reports write the others meanwhile."""
        Machine.objects.filter(pk=self.pk).update(**columns)
        for column, value in columns.items():
            setattr(self, column, copy(value))  # a list above is not this row's own

    def _change(self, **columns: Any) -> None:
        self._write(changed_at=timezone.now(), **columns)

    def forget(self) -> None:
        """It was removed by order, or its build came to nothing: it leaves the list, and nothing of it is left but revisions, which
        are for the team that it was of."""
        former = self.kept_for if self.removed_at else self.team_id or NOBODYS
        _delete_beside([self.pk])
        self._change(removed_at=timezone.now(), **{**NEVER_BUILT, **NOTHING_KEPT, "former_team": former})

    def hide(self) -> None:
        """A person takes it off the list, which its host can put it back on; only while it is missing."""
        Machine.objects.filter(pk=self.pk, state=MachineState.MISSING).update(removed_at=timezone.now())

    def begin_build(self, team: int | None) -> None:
        """It is to be built for this team: listed on top, and missing until it is. One that had left the list begins anew, and
        without anything of a former machine of another team."""
        if self.kept_for != (team or NOBODYS):
            Machine.objects.filter(pk=self.pk).empty()
            self.refresh_from_db()
        anew = {**NEVER_BUILT, "removed_at": None} if self.removed_at else {}
        self._write(**{**anew, "rank": BUILDING_RANK, "team_id": team, "former_team": None})

    def mark_applied(self, revision: int, **columns: Any) -> None:
        """Its files on the host are those of the revision of this key now."""
        self._change(applied_id=revision, **NO_DRIFT, **columns)

    def mark_not_applied(self) -> None:
        """Its files are somebody else's: a machine that was configured by hand, which can be adopted."""
        self._change(**NOT_APPLIED)

    def ignore_drift(self, fingerprint: str) -> None:
        """Its files may stay as this fingerprint has them."""
        self._change(**{**NO_DRIFT, "ignored": fingerprint})

    @property
    def kept_for(self) -> int:
        """The key of the team whose is what this row keeps, NOBODYS for nobody."""
        return (self.team_id or NOBODYS) if self.former_team is None else self.former_team

    @property
    def shown_state(self) -> MachineState:
        """The state a page may claim: of a silent host nothing is known. Costs a query unless `host` is loaded."""
        if self.host.is_silent and self.state != MachineState.MISSING:
            return MachineState.UNKNOWN
        return MachineState(self.state)

    @property
    def was_up(self) -> bool:
        """Whether it was up when its host last said how it is: `since` stays where silence has made it unknown."""
        state = MachineState(self.state)
        return state.is_up or (state == MachineState.UNKNOWN and self.since is not None)

    @property
    def image_is_fixed(self) -> bool:
        """Whether nothing can change or remove the image, for where it lies."""
        return self.read_only_by in FIXED

    @property
    def command(self) -> CommandLine:
        """What runs it, or would: while it is up the words it was started with, else those of its unit; the stock unit's
        as long as its host has told of none."""
        words = self.run_command if self.was_up else []
        return command_line.parse(words) if words else self.next_command

    @property
    def next_command(self) -> CommandLine:
        """The same of its next start."""
        return command_line.parse(self.unit_command) if self.unit_command else command_line.stock()

    @property
    def image_is_elsewhere(self) -> bool:
        """Whether the image lies outside the folder in which the panel's hosts make and remove images."""
        return bool(self.image_path) and not self.image_path.startswith(POOL)

    @property
    def fingerprint(self) -> str:
        """Names the state of both files on the host."""
        return f"{self.nspawn_sha256}.{self.limits_sha256}"

    @property
    def differs(self) -> bool:
        """Whether a file on the host is not the one we applied last. Costs a query unless `applied` is loaded."""
        applied = self.applied
        return applied is not None and self.fingerprint != f"{applied.nspawn_sha256}.{applied.limits_sha256}"

    @property
    def has_unmanaged_files(self) -> bool:
        """The host has files that are not the ones we applied last: they must not be overwritten unseen."""
        return self.drifted if self.applied_id else self.fingerprint != "absent.absent"
