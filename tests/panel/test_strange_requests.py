"""Addresses and fields that no page of ours sends: an answer, never an internal error, and never a way out of the panel."""

import pytest

from machines.contract.permissions import Role
from machines.contract.states import MachineState
from tests import make

pytestmark = pytest.mark.django_db
MACHINE = "/hosts/alpha/machines/web/"


@pytest.fixture
def web():
    limits = {"MemoryMax": "²", "CPUQuotaPerSecUSec": "²", "TasksMax": "9" * 300}
    return make.machine("web", on=make.host("alpha"), state=MachineState.RUNNING, effective=limits)


@pytest.fixture
def anybody(web):
    client = make.client(make.user("ada", Role.ADMINISTRATOR))
    client.raise_request_exception = False
    return client


@pytest.mark.parametrize(
    "address",
    [
        MACHINE, f"{MACHINE}config/?v=%00", "/hosts/%00/", "/hosts/alpha/machines/%00/", "/hosts/alpha/machines/%00/config/",
        f"{MACHINE}revisions/99999999999999999999/", "/jobs/99999999999999999999/", "/jobs/?q=host:%00 state:%00",
        "/machines/?q=%00 10.%00", "/machines/?after=1.0.1.%00", "/machines/?after=999999999.1.999999999999999999.x",
        "/machines/?q=%ED%A0%80", "/hosts/?q=%00", "/machines/new/?host=%00&memory_max=%00&ssh_keys=%00",
    ],
)  # fmt: skip
def test_a_strange_address_has_an_answer(anybody, address):
    assert anybody.get(address).status_code in {200, 404}


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        (f"{MACHINE}config/", {"add": "binds", "binds-TOTAL_FORMS": "²"}),
        (f"{MACHINE}config/", {"add": "binds", "binds-TOTAL_FORMS": "99999", "network_target": "\0"}),
        (f"{MACHINE}config/apply/", {"key": "\0", "seen": "\0", "reason": "\0"}),
        (f"{MACHINE}config/rebase/", {"seen": "\0", "take": "\0"}),
        (f"{MACHINE}remove/", {"confirm": "\0"}),
        ("/machines/new/", {"key": "\0", "host": "\0", "name": "\0", "root_password": "\0", "ssh_keys": "\0"}),
        ("/settings/theme/", {"theme": "dark", "next": "//evil.example"}),
        ("/settings/theme/", {"theme": "dark", "next": "/\\evil.example"}),
        ("/accounts/login/", {"login": "\0", "password": "\0", "next": "https://evil.example"}),
    ],
)
def test_strange_fields_have_an_answer(anybody, address, fields):
    answer = anybody.post(address, fields)
    assert answer.status_code < 500
    assert "evil" not in answer.headers.get("Location", "")
