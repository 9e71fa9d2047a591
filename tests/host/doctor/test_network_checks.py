"""Single answers of the network's checks, where a real host would have to be lucky to show them."""

import pytest

from machines.host.doctor import network_checks
from machines.host.network import listeners

NETWORKD, DNSMASQ = "systemd-network (process 88)", "dnsmasq (process 99)"


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ([], ""),
        ([NETWORKD], ""),
        ([NETWORKD, DNSMASQ], DNSMASQ),
        ([DNSMASQ, NETWORKD], DNSMASQ),
        (["a program on the host"], "a program on the host"),
    ],
)
def test_networkd_serving_another_link_is_no_other_dhcp_server(monkeypatch, there, named):
    monkeypatch.setattr(listeners, "sharing", lambda listener: there)
    monkeypatch.setattr(listeners, "who", lambda inode: inode)
    assert network_checks._other_dhcp_server() == named
