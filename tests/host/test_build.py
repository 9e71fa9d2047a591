from machines.contract.orders import PHASES
from machines.host.rootfs import build


def test_its_steps_are_those_the_panel_names_before_they_begin():
    assert tuple(step.__name__.rstrip("_") for step in build.STEPS) == PHASES["build"]
