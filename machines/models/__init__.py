"""Records. This file re-exports the nouns, nothing else."""

from machines.models.event import Event
from machines.models.found import Found
from machines.models.host import Host
from machines.models.job import Job, LogChunk
from machines.models.machine import Machine
from machines.models.revision import BindMount, PortForward, Revision
from machines.models.user import User

__all__ = ["BindMount", "Event", "Found", "Host", "Job", "LogChunk", "Machine", "PortForward", "Revision", "User"]
