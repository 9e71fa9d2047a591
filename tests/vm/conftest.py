"""One virtual machine for the run, with its own kernel, its own control groups and a disk that can lose its power. It is
installed and joins a panel of its own by the README's commands and by nothing else."""

import os
import time
from collections.abc import Iterator

import pytest

from nspawnpanel.sandbox import CACHE, VirtualMachine
from nspawnpanel.stack import Stack
from nspawnpanel.valkey import free_port
from tests.enrolling import enrol
from tests.person import Person
from tests.vm import readme

SECONDS = 180  # until it is heard; emulated, beside other tests


@pytest.fixture(scope="package")
def vm() -> Iterator[VirtualMachine]:
    with VirtualMachine(f"tests-{os.getpid()}", CACHE, install=readme.without_systemd(), machines=["web"]) as host:
        yield host


@pytest.fixture(scope="package")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Not that of the tests beside these, where another host has the name alpha."""
    with Stack(tmp_path_factory.mktemp("panel-of-vm"), free_port()) as stack:
        yield stack


@pytest.fixture(scope="package")
def alpha_host(panel: Stack, vm: VirtualMachine) -> VirtualMachine:
    """The virtual machine, once it has joined."""
    for line in readme.host()[0].lines[len(readme.without_systemd()) :]:
        vm.run(["bash", "-ec", line])
    since = time.time()
    enrol(Person(panel), vm, "alpha", SECONDS)
    panel.wait_for_host("alpha", since, SECONDS)
    return vm


@pytest.fixture(scope="package")
def ada(panel: Stack, alpha_host: VirtualMachine) -> Person:
    """The administrator."""
    return Person(panel)
