"""What a host says of another team's machines stays with the administrators."""

import pytest

from machines.contract import orders
from machines.panel.teams import redact
from tests import make

pytestmark = pytest.mark.django_db
TAKEN = {
    "findings": [
        {"code": "port-taken", "facts": {"port": "tcp 80", "to": "80", "owner": "mail", "leads": "10.0.0.9:80"}},
        {"code": "address-has", "facts": {"addresses": "10.0.0.2"}},
        "junk",
    ],
    "at": 1.0,
}


@pytest.mark.parametrize("whose", ["ops", "others", None])
def test_the_owner_of_a_port_is_named_to_its_own_team(web, whose):
    make.machine("mail", on=web.host, team=make.team(whose) if whose else None)
    told = redact.result(make.job(orders.Diagnose(name="web"), on=web.host), TAKEN)
    first = told["findings"][0]["facts"]
    assert (first["owner"] == "mail") is (whose == "ops")
    assert ("10.0.0.9" in str(told)) is (whose == "ops")
    assert told["findings"][1:] == TAKEN["findings"][1:]


def test_what_an_administrator_asked_of_the_host_stays_as_it_is(web):
    make.machine("mail", on=web.host, team=make.team("others"))
    assert redact.result(make.job(orders.Diagnose(), on=web.host, team=None), TAKEN) == TAKEN
