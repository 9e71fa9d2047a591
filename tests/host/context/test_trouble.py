"""What a host cannot do is told in every heartbeat, so nothing in it may keep that from being sent."""

import os

from machines.contract.reports import Heartbeat
from machines.host.context.trouble import Trouble


def test_trouble_of_any_length_and_with_any_name_can_be_told():
    trouble = Trouble()
    why = f"{os.fsdecode(b'/srv/caf' + bytes([0xE9]))} cannot be read. " * 30
    assert trouble.note("files", why)
    assert not trouble.note("files", why)
    assert Heartbeat(trouble=trouble.told()).trouble["files"].startswith("/srv/caf� cannot")
