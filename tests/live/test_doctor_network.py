"""The doctor against packets: two machines on real hosts with systemd 252 and 257, each kind of network in turn. What
it says is in order carries traffic, what does not it finds, and what it fixes carries traffic again."""

import shlex
from collections.abc import Callable, Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import compare_effective, findings
from machines.contract.configuration.findings import Finding, FixWord, Level
from machines.contract.reports import ObservedMachine, Outcome
from tests.live.traffic import GATE, OUTSIDE, Traffic
from tests.person import until

NETWORKD = "systemd-networkd.service"
# networkd serves the other machine's link on the same port, and may have been first; dnsmasq asks for the same.
_DHCP_SERVER = """
import socket, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("", 67))
time.sleep(600)
"""


@pytest.fixture(scope="module", params=["scratch", "later"])
def net(request: pytest.FixtureRequest) -> Iterator[Traffic]:
    made = Traffic(request.getfixturevalue(request.param))
    yield made
    made.close()


def told(outcome: Outcome) -> dict[str, Finding]:
    assert outcome.state == "succeeded", outcome.problem
    found = findings.from_wire(outcome.result["findings"])
    assert len(found) == len(outcome.result["findings"])
    return {finding.code: finding for finding in found}


def examine(net: Traffic, name: str = "left") -> dict[str, Finding]:
    return told(net.panel.do(orders.Diagnose(name=name)))


def mend(net: Traffic, what: FixWord, name: str = "left") -> dict[str, Finding]:
    return told(net.panel.do(orders.Fix(name=name, what=what)))


def troubles(found: dict[str, Finding]) -> set[str]:
    """What is wrong or could not be looked at; about the network alone."""
    bad = {Level.PROBLEM, Level.WARNING, Level.UNKNOWN}
    return {c for c, f in found.items() if findings.level(f) in bad and findings.WORDS[c].group == findings.NETWORK}


def sees(net: Traffic, enough: Callable[[dict[str, Finding]], bool], name: str = "left") -> dict[str, Finding]:
    found: dict[str, Finding] = {}

    def look() -> bool:
        nonlocal found
        found = examine(net, name)
        return enough(found)

    until(look, 40, lambda: str(sorted(found)))
    return found


def in_effect(net: Traffic, key: str, wanted: list[str], verdict: bool) -> None:
    """What the page of effective settings makes of what the host tells of the left machine."""

    def is_so(machine: ObservedMachine) -> bool:
        return machine.name == "left" and compare_effective.inside(key, wanted, machine.inside.get(key, "")) is verdict

    net.panel.read()
    net.panel.reports = [each for each in net.panel.reports if each.kind != "observed_files"]
    net.panel.order(orders.Refresh())
    net.panel.until(lambda report: report.kind == "observed_files" and any(map(is_so, report.machines)))


def pasted(net: Traffic, finding: Finding) -> None:
    """Its commands, as somebody copies them into a shell of the host."""
    for command in findings.commands(finding):
        net.host.run(shlex.split(command))


def test_ports_and_nat_that_a_flushed_rule_set_took_are_found_and_come_back_with_a_button(net):
    net.start("VirtualEthernet=yes\nPort=tcp:808{n}:7000\nPort=udp:5{n}:53\nPort=tcp:818{n}:9")
    one, two = net.addressed()
    found = sees(net, lambda found: "port-open" in found)
    assert troubles(found) == {"port-closed"}  # nothing listens on port 9
    assert {"masquerade-on", "host-reaches", "lease-given", "port-untried"} <= found.keys()

    def carries() -> tuple[str, ...]:
        return (
            net.talk_from_outside(GATE, 8081),
            net.talk(GATE, 8082),
            net.talk_from("left", OUTSIDE),
            net.talk_from("left", two),
            net.talk(one),
            net.talk_from("left", GATE),
        )

    before = carries()
    assert [said.split()[0] for said in before] == ["left", "right", "outside", "right", "left", "host"]
    assert before[2] == f"outside {GATE}"

    net.host.run(["nft", "flush", "ruleset"])
    assert "nothing" in net.talk_from_outside(GATE, 8081)
    assert net.talk_from("left", OUTSIDE) != before[2]
    found = sees(net, lambda found: "port-lost" in found)
    assert troubles(found) == {"masquerade-off", "port-lost"}
    assert found["port-lost"].can_fix
    in_effect(net, "Network.Port", ["tcp:8081:7000"], False)
    assert "masquerade-off" in examine(net, "")
    assert not {"masquerade-off", "port-lost"} & mend(net, "nat").keys()
    assert carries()[0] == before[0]
    assert carries()[2:] == before[2:]

    net.host.run(["nft", "flush", "ruleset"])
    mend(net, "nat", "")  # from the host's page: of every machine
    assert carries() == before
    in_effect(net, "Network.Port", ["8081:7000", "udp:51:53"], True)

    lead(net, f"tcp . 8081 : {two} . 7000")
    assert net.talk_from_outside(GATE, 8081).startswith("right ")
    found = examine(net)
    assert found["port-taken"].facts["owner"] == "right"
    assert not found["port-taken"].can_fix
    lead(net, "tcp . 8081 : 192.0.2.9 . 7000")
    assert "nothing" in net.talk_from_outside(GATE, 8081)
    assert "port-astray" in examine(net)
    mend(net, "nat")
    assert carries() == before

    net.host.run(["nft", "flush", "ruleset"])
    pasted(net, examine(net)["masquerade-off"])
    found = sees(net, lambda found: "masquerade-on" in found)
    assert net.talk_from("left", OUTSIDE) == before[2]
    assert "port-lost" in found
    leader = net.inside("left")
    pasted(net, found["port-lost"])
    until(lambda: net.inside("left") not in (leader, net.nowhere), 30)
    net.listen("left", net.inside("left"))
    sees(net, lambda found: "port-open" in found)
    assert net.talk_from_outside(GATE, 8081).startswith("left ")


def lead(net: Traffic, element: str) -> None:
    """Let a forwarded port lead somewhere else."""
    table = ["ip", "io.systemd.nat", "map_port_ipport"]
    net.host.run(["nft", "delete", "element", *table, f"{{ {element.split(' : ', maxsplit=1)[0]} }}"])
    net.host.run(["nft", "add", "element", *table, f"{{ {element} }}"])


def test_an_address_the_host_sends_elsewhere_is_found_and_a_new_lease_asked_for(net):
    net.start()
    one, _ = net.addressed()
    sees(net, lambda found: "host-reaches" in found and not troubles(found))
    net.host.write("/etc/systemd/network/70-other.network", "[Match]\nName=ve-left\n[Network]\nAddress=10.77.0.1/28\nDHCPServer=yes\nIPMasquerade=ipv4\n")  # fmt: skip
    try:
        net.host.run(["networkctl", "reload"])
        net.host.run(["networkctl", "reconfigure", "ve-left"])
        until(lambda: "nothing" in net.talk(one), 20)
        found = sees(net, lambda found: "address-astray" in found)
        assert found["address-astray"].facts["address"] == one
        assert found["address-astray"].can_fix
        assert "address-astray" not in mend(net, "guest-renew")
        found = sees(net, lambda found: "host-reaches" in found and not troubles(found))
        address = found["host-reaches"].facts["address"]
        assert address.startswith("10.77.0.")
        assert net.talk(address).startswith("left ")
        assert net.talk_from("left", OUTSIDE) == f"outside {GATE}"
    finally:
        net.host.run(["rm", "/etc/systemd/network/70-other.network"])
        net.host.run(["networkctl", "reload"])


def settled(net: Traffic, name: str) -> None:
    """A zone's bridge may get another network while its first machines start, on both systemds: then it is as the doctor
    says, and the button helps."""
    found = sees(net, lambda found: bool({"host-reaches", "address-astray"} & found.keys()), name)
    if "address-astray" in found:
        assert "nothing" in net.talk(found["address-astray"].facts["address"])
        mend(net, "guest-renew", name)
        sees(net, lambda found: "host-reaches" in found, name)


def test_two_machines_in_a_zone_have_no_false_alarm(net):
    net.start("Zone=front")
    for name in net.names:
        settled(net, name)
    found = examine(net)
    one, two = net.addressed()
    assert {"host-reaches", "lease-given", "masquerade-on"} <= found.keys()
    assert troubles(found) == set()
    assert found["bridge-joined"].facts == {"link": "vb-left", "bridge": "vz-front"}
    assert found["dhcp-serves"].facts["link"] == "vz-front"
    assert found["network-own"].facts["links"] == "host0 (vb-left)"
    in_effect(net, "Network.Zone", ["front"], True)
    assert net.talk_from("left", two).startswith("right ")
    assert net.talk(one).startswith("left ")
    assert net.talk_from("left", OUTSIDE) == f"outside {GATE}"

    net.ip("link", "set", "vb-left", "nomaster")
    found = examine(net)
    assert found["bridge-left"].facts == {"link": "vb-left", "bridge": "vz-front"}
    assert "nothing" in net.talk(one)
    pasted(net, found["bridge-left"])
    sees(net, lambda found: "host-reaches" in found and not troubles(found))
    assert net.talk(one).startswith("left ")

    net.ip("link", "set", "vz-front", "down")
    found = examine(net)
    assert "bridge-down" in troubles(found)
    pasted(net, found["bridge-down"])
    sees(net, lambda found: "bridge-down" not in found)


def test_two_machines_in_a_bridge_of_the_host_s_own_with_fixed_addresses_have_no_false_alarm(net):
    net.ip("link", "add", "br7", "type", "bridge")
    net.ip("address", "add", "10.50.0.1/24", "dev", "br7")
    net.ip("link", "set", "br7", "up")
    try:
        net.start("Bridge=br7")
        for name, address in (("left", "10.50.0.2/24"), ("right", "10.50.0.3/24")):
            net.set_address(name, address)
        net.host.run([*net.inside("left"), "ip", "route", "replace", "default", "via", "10.50.0.1"])
        found = sees(net, lambda found: "host-reaches" in found)
        assert troubles(found) == set()
        assert "dhcp-elsewhere" in found
        assert found["bridge-joined"].facts == {"link": "vb-left", "bridge": "br7"}
        in_effect(net, "Network.Bridge", ["br7"], True)
        assert net.talk_from("left", "10.50.0.3").startswith("right ")
        assert net.talk("10.50.0.2").startswith("left ")
        assert net.talk_from("left", "10.50.0.1").startswith("host ")
    finally:
        net.stop()
        net.ip("link", "delete", "br7")


def test_foreign_dhcp_on_a_machine_s_link_is_no_fault(net):
    net.host.write("/etc/systemd/network/70-own.network", "[Match]\nName=ve-left\n[Network]\nAddress=10.88.0.1/28\n")
    net.host.run(["networkctl", "reload"])
    try:
        net.start()
        sees(net, lambda found: "lease-given" in found, "right")  # networkd's own server listens, and is not named
        net.listen("dhcp", ["python3", "-c", _DHCP_SERVER])
        found = sees(net, lambda found: "dhcp-other" in found)
        assert found["dhcp-other"].facts["program"].startswith("python3 ")
        net.set_address("left", "10.88.0.2/28")
        found = sees(net, lambda found: "host-reaches" in found)
        assert not {"dhcp-silent", "lease-none", "masquerade-off"} & found.keys()
        assert {"dhcp-elsewhere", "masquerade-unasked"} <= found.keys()
        assert net.talk("10.88.0.2").startswith("left ")
        assert net.talk_from("left", "10.88.0.1").startswith("host ")
    finally:
        net.host.run(["systemctl", "stop", "listen-dhcp.service"], check=False)
        net.host.run(["rm", "/etc/systemd/network/70-own.network"])
        net.host.run(["networkctl", "reload"])


def test_macvlan_and_an_extra_veth_are_told_as_what_they_carry(net):
    net.ip("link", "add", "card", "type", "veth", "peer", "name", "wall", "netns", "outside")
    net.ip("link", "set", "card", "up")
    for words in (["link", "set", "wall", "up"], ["address", "add", "10.60.0.254/24", "dev", "wall"]):
        net.ip("-n", "outside", *words)
    try:
        net.start("VirtualEthernet=no\nMACVLAN=card\nVirtualEthernetExtra=xt-{n}:extra0")
        found = sees(net, lambda found: "inside-link-down" in found)
        assert found["inside-link-down"].facts["link"] == "mv-card"
        assert {"card-apart", "extra-down"} <= found.keys()
        for number, name in enumerate(net.names, 1):
            net.set_address(name, f"10.60.0.{number}/24", "mv-card")
            net.set_address(name, f"10.61.{number}.2/24", "extra0")
            net.ip("address", "add", f"10.61.{number}.1/24", "dev", f"xt-{number}")
        pasted(net, examine(net)["extra-down"])
        found = sees(net, lambda found: "host-reaches" in found)
        assert troubles(found) == {"route-none"}
        assert found["host-reaches"].facts["link"] == "xt-1"
        in_effect(net, "Network.VirtualEthernetExtra", ["xt-1:extra0"], True)
        assert set(found["network-own"].facts["links"].split(", ")) == {"mv-card", "extra0 (xt-1)"}
        assert net.talk_from("left", "10.60.0.2").startswith("right ")
        assert net.talk_from("left", "10.60.0.254").startswith("outside ")
        assert net.talk_from_outside("10.60.0.1").startswith("left ")
        assert "nothing" in net.talk("10.60.0.1")  # as card-apart says
        assert net.talk("10.61.1.2").startswith("left ")
        net.ip("link", "set", "card", "down")
        found = examine(net)
        assert "card-down" in troubles(found)
        assert "nothing" in net.talk_from_outside("10.60.0.1")
        pasted(net, found["card-down"])
        until(lambda: net.talk_from_outside("10.60.0.1").startswith("left "), 10)
        assert "card-down" not in examine(net)
    finally:
        net.stop()
        net.ip("link", "delete", "card")


# --- the host's own switches


def test_stopped_networkd_and_forwarding_are_fixed_so_that_packets_pass_again(net):
    net.start()
    net.addressed()
    sees(net, lambda found: "host-reaches" in found)
    assert net.talk_from("left", OUTSIDE) == f"outside {GATE}"
    net.host.run(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
    assert "nothing" in net.talk_from("left", OUTSIDE)
    assert "forwarding-off" in troubles(examine(net))
    mend(net, "forwarding")
    assert net.talk_from("left", OUTSIDE) == f"outside {GATE}"
    net.host.run(["rm", "-f", findings.FORWARDING_FILE])
    net.host.run(["systemctl", "stop", "systemd-networkd.socket", NETWORKD])
    assert "networkd-stopped" in troubles(examine(net))
    mend(net, "networkd", "")
    in_order(net)
    assert net.talk_from("left", OUTSIDE) == f"outside {GATE}"


def in_order(net: Traffic) -> None:
    """Press what is offered until nothing is wrong any more, as somebody at the page does."""
    for _ in range(4):
        found = sees(net, lambda found: bool({"host-reaches", "address-astray", "port-lost"} & found.keys()))
        offered = [findings.WORDS[code].fix for code in troubles(found) if found[code].can_fix]
        if not offered:
            break
        mend(net, offered[0])
    sees(net, lambda found: "host-reaches" in found and not troubles(found))


def test_a_link_that_is_down_is_fixed_by_its_command_and_what_it_leads_to(net):
    net.start()
    net.addressed()
    net.ip("link", "set", "ve-left", "down")
    found = examine(net)
    assert "link-down" in troubles(found)
    pasted(net, found["link-down"])
    in_order(net)
    assert net.talk(net.addresses("left")[-1]).startswith("left ")


def test_a_firewall_that_drops_is_opened_by_the_rules_it_is_told(net):
    net.host.run(["nft", "-f", "-"], input="""table inet mine {
        chain in { type filter hook input priority 0; policy drop; ct state established accept; iifname "lo" accept; iifname "tap0" accept; }
        chain onward { type filter hook forward priority 0; policy drop; ct state established accept; }
    }""")  # fmt: skip
    try:
        net.start()
        found = sees(net, lambda found: "lease-none" in found and "inside-networkd" in found)
        assert {"dhcp-drop", "forward-drop"} <= troubles(found)
        assert net.addresses("left") == []
        pasted(net, found["dhcp-drop"])
        found = sees(net, lambda found: "address-has" in found and "lease-given" in found)
        assert "nothing" in net.talk_from("left", OUTSIDE)
        pasted(net, found["forward-drop"])
        assert net.talk_from("left", OUTSIDE) == f"outside {GATE}"
        assert not {"dhcp-drop", "forward-drop"} & examine(net).keys()
    finally:
        net.host.run(["nft", "delete table inet mine"])


def test_a_bridge_that_is_not_there_is_the_reason_and_made_by_the_commands(net):
    net.stop()
    net.host.write("/etc/systemd/nspawn/left.nspawn", "[Network]\nBridge=br8\n")
    try:
        net.host.run(["systemctl", "reset-failed", "systemd-nspawn@left.service"], check=False)
        assert net.panel.do(orders.Start(name="left")).state == "failed"
        found = examine(net)
        assert next(iter(found)) == "state-failed"
        pasted(net, found["bridge-absent"])
        assert net.panel.do(orders.Start(name="left")).state == "succeeded"
        assert "bridge-joined" in examine(net)
    finally:
        net.stop()
        net.ip("link", "delete", "br8")


def test_enabled_machines_start_with_the_host_once_the_target_is_enabled(net):
    """`machinectl enable` of 257 enables the target by itself; somebody took it away again."""
    net.stop()
    net.host.run(["systemctl", "enable", "systemd-nspawn@left.service"])
    net.host.run(["systemctl", "disable", "machines.target"])
    try:
        assert examine(net)["autostart-dead"].can_fix
        assert "autostart-dead" not in mend(net, "autostart", "")
        wanted = net.host.run(["systemctl", "list-dependencies", "--plain", "multi-user.target"]).stdout
        assert "systemd-nspawn@left.service" in wanted
    finally:
        net.host.run(["systemctl", "disable", "systemd-nspawn@left.service"])


def test_where_the_clock_is_somebody_else_s_no_command_is_offered(net):
    found = examine(net, "")
    assert "clock-outer" in found
    assert findings.commands(found["clock-outer"]) == []


def test_what_cannot_be_read_is_unknown_with_the_reason_and_nothing_waits_for_it(net):
    net.start("Port=tcp:808{n}:7000")
    net.addressed()
    sees(net, lambda found: "port-open" in found)
    nft = net.host.run(["sh", "-c", "command -v nft"]).stdout.strip()
    net.host.run(["mv", nft, f"{nft}.away"])
    try:
        found = examine(net)
        assert {"firewall-unread", "nat-unread", "ports-unread"} <= found.keys()
        assert {"nat-unread", "firewall-unread"} <= examine(net, "").keys()
        assert not {"masquerade-on", "masquerade-off", "port-open", "forward-open"} & found.keys()
    finally:
        net.host.run(["mv", f"{nft}.away", nft])
    net.host.run(["rm", "/etc/systemd/nspawn/left.nspawn"])
    net.host.run(["mkfifo", "/etc/systemd/nspawn/left.nspawn"])
    found = examine(net)
    assert "a FIFO" in findings.means(found["check-failed"])
    assert "host-reaches" in found


# --- the machine itself


def test_a_machine_that_failed_is_not_in_order_and_the_reason_is_on_top(net):
    net.stop()
    net.host.write("/etc/systemd/nspawn/left.nspawn", "[Files]\nBind=/nowhere/at/all:/mnt\n")
    failed = net.panel.do(orders.Start(name="left"))
    assert failed.state == "failed"
    found = examine(net)
    assert next(iter(found)) == "state-failed"
    assert "/nowhere/at/all" in found["state-failed"].facts["why"]
    net.host.run(["mkdir", "-p", "/nowhere/at/all"])
    for command in findings.commands(found["state-failed"]):
        net.host.run(shlex.split(command))
    assert next(iter(examine(net))) == "state-running"
    net.stop()
    net.host.run(["rm", "-r", "/nowhere"])


def test_after_too_many_starts_the_limit_is_named_and_the_commands_start_it_again(net):
    net.stop()
    net.host.write("/etc/systemd/nspawn/left.nspawn", "[Files]\nBind=/nowhere/else:/mnt\n")
    unit = "systemd-nspawn@left.service"
    net.host.run(["systemctl", "reset-failed", unit], check=False)  # earlier starts count as well
    try:
        for _ in range(8):
            net.host.run(["machinectl", "start", "left"], check=False)
        found = examine(net)
        assert next(iter(found)) == "state-refused"
        assert "/nowhere/else" in found["state-refused"].facts["why"]
        net.host.run(["mkdir", "-p", "/nowhere/else"])
        pasted(net, found["state-refused"])
        assert next(iter(examine(net))) == "state-running"
    finally:
        net.host.run(["systemctl", "reset-failed", unit], check=False)
        net.stop()
        net.host.run(["rm", "-rf", "/nowhere"])


def test_a_limit_of_open_files_is_named_where_a_machine_ran_into_it(net):
    net.stop()
    folder = "/run/systemd/system/systemd-nspawn@left.service.d"
    net.host.write(f"{folder}/files.conf", "[Service]\nLimitNOFILE=16\n")
    net.host.run(["systemctl", "daemon-reload"])
    net.host.run(["systemctl", "reset-failed", "systemd-nspawn@left.service"], check=False)
    try:
        net.host.run(["machinectl", "start", "left"], check=False)
        until(lambda: "state-files" in examine(net), 20)  # its init runs into the limit after the unit is up
        found = examine(net)
        assert found["state-files"].facts["line"].endswith("Too many open files")
        assert "inotify-enough" in found
        assert "kernel-limits-fine" in found
    finally:
        net.host.run(["rm", "-r", folder])
        net.host.run(["systemctl", "daemon-reload"])
        net.stop()
