"""Records. This file re-exports the nouns, nothing else."""

from machines.models.archive import Archive
from machines.models.enrolment import Enrolment
from machines.models.epoch import Epoch
from machines.models.event import Event, EventHead, EventSeal
from machines.models.found import ObservedFiles
from machines.models.host import Host
from machines.models.invitation import Invitation
from machines.models.job import Job, LogChunk
from machines.models.machine import Machine
from machines.models.panel_key import PanelKey
from machines.models.preset import GroupMember, JobGroup, Preset, PresetUse
from machines.models.receipt import Receipt
from machines.models.recipe import Recipe, RecipeVersion
from machines.models.redis_check import RedisCheck
from machines.models.refusals import RefusalCount
from machines.models.revision import BindMount, PortForward, Revision
from machines.models.team import HostShare, Membership, Team
from machines.models.token import ApiToken
from machines.models.user import User
from machines.models.web import Attempts, StreamPlace

__all__ = [
    "ApiToken",
    "Archive",
    "Attempts",
    "BindMount",
    "Enrolment",
    "Epoch",
    "Event",
    "EventHead",
    "EventSeal",
    "GroupMember",
    "Host",
    "HostShare",
    "Invitation",
    "Job",
    "JobGroup",
    "LogChunk",
    "Machine",
    "Membership",
    "ObservedFiles",
    "PanelKey",
    "PortForward",
    "Preset",
    "PresetUse",
    "Receipt",
    "Recipe",
    "RecipeVersion",
    "RedisCheck",
    "RefusalCount",
    "Revision",
    "StreamPlace",
    "Team",
    "User",
]
