"""One virtual machine for the run, with its own kernel, its own control groups and a disk that can lose its power."""

import os
from collections.abc import Iterator

import pytest

from nspawnpanel.sandbox import CACHE, VirtualMachine


@pytest.fixture(scope="session")
def vm() -> Iterator[VirtualMachine]:
    with VirtualMachine(f"tests-{os.getpid()}", CACHE) as host:
        yield host
