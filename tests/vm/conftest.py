"""One virtual machine for the run, with its own kernel, its own control groups and a disk that can lose its power. It is
installed and joins a panel of its own by the README's commands and by nothing else."""

import os
import shlex
import time
from collections.abc import Iterator

import pytest

from nspawnpanel.sandbox import CACHE, VirtualMachine
from nspawnpanel.stack import Stack
from nspawnpanel.valkey import free_port
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
    before, after = readme.host()
    said = [vm.run(["bash", "-ec", line]).stdout for line in before.lines[len(readme.without_systemd()) :]]
    settings = added(panel, vm, keys=said[-1].strip())
    since = time.time()
    for line in after.lines:
        vm.run(["bash", "-ec", line], input=settings)
    panel.wait_for_host("alpha", since, SECONDS)
    return vm


@pytest.fixture(scope="package")
def ada(panel: Stack, alpha_host: VirtualMachine) -> Person:
    """The administrator."""
    return Person(panel)


def added(panel: Stack, vm: VirtualMachine, keys: str) -> str:
    """What the README's add_host prints, with this run's keys and addresses in the places of its examples."""
    python, manage, *words = shlex.split(readme.panel("add_host"), comments=True)
    assert (python, manage) == (".venv/bin/python", "manage.py")
    given = {
        "np-host1:…:…": keys,
        "rediss://panel.example:6379/0": f"redis://{vm.gateway}:{panel.valkey.port}/0",
        "redis://admin:…@127.0.0.1:6379/0": panel.valkey.admin_url,
    }
    assert given.keys() <= set(words)
    return panel.manage(*(given.get(word, word) for word in words))
