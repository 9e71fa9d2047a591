"""Real Debian hosts on one machine, for tests and for `make demo`: nothing of the machine's owner is at stake.

from nspawnpanel.sandbox import CACHE, Sandbox

with Sandbox("alpha", CACHE) as host:
    host.plant("web")
    host.run(["machinectl", "start", "web"])
"""

from nspawnpanel.sandbox.host import CACHE, Sandbox, can_boot
from nspawnpanel.sandbox.run import CommandFailed, SandboxError, kill_group
from nspawnpanel.sandbox.trees import prepare, prepare_machine
from nspawnpanel.sandbox.vm import VirtualMachine, can_emulate

__all__ = [
    "CACHE",
    "CommandFailed",
    "Sandbox",
    "SandboxError",
    "VirtualMachine",
    "can_boot",
    "can_emulate",
    "kill_group",
    "prepare",
    "prepare_machine",
]
