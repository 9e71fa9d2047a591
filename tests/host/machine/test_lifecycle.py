"""What would need luck on a real host: something that goes by itself between a look and a command."""

from types import SimpleNamespace

import pytest

from machines.host.machine import lifecycle
from machines.host.system.faults import CommandFailed


def tidied_up(*seen: str) -> int:
    """Tidy up after a killed run whose mount is in these states, one after the other; systemctl stop fails. Returns how
    often it was run."""
    states, ran = iter(seen), []

    def run(argv):
        ran.append(argv)
        raise CommandFailed(argv, 5)

    bus = SimpleNamespace(unit=lambda name: name, do=lambda name: {"ActiveState": next(states)})
    task = SimpleNamespace(run=run, output=SimpleNamespace(line=lambda text: None))
    lifecycle._tidy_up(SimpleNamespace(name="web", host=SimpleNamespace(bus=bus), task=task))
    return len(ran)


def test_a_leftover_mount_that_goes_by_itself_is_no_reason_not_to_start():
    assert tidied_up("inactive") == 0
    assert tidied_up("active", "inactive") == 1


def test_a_leftover_mount_that_stays_is_one():
    with pytest.raises(CommandFailed):
        tidied_up("active", "active")
