"""What the doctor reads: tables of the kernel, rules of nft, images. The chain itself is walked on real hosts in tests/live."""

import inspect
import json
import re
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace

import pytest

from machines.contract import findings
from machines.contract.findings import WORDS, Finding
from machines.host.doctor import examine, firewall, host_checks, links, machine_checks
from machines.host.doctor.guest import Guest, parse_servers

# --- tables of the kernel, as systemd 252's guest had them

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
 host0:    3127      33    0    0    0     0          0         0     2642      25    0    0    0     0       0          0
mv-eno1:1234       33    0    0    0     0          0         0     2642      25    0    0    0     0       0          0"""
ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
host0\t00000000\t1119A8C0\t0003\t0\t0\t1024\t00000000\t0\t0\t0
host0\t0302000A\t1119A8C0\t0007\t0\t0\t1024\tFFFFFFFF\t0\t0\t0
host0\t1019A8C0\t00000000\t0001\t0\t0\t1024\tF0FFFFFF\t0\t0\t0"""
LOCAL_FIRST = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
ve-one\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
ve-one\t1019A8C0\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0"""
INET6 = """fe80000000000000546d12fffe1c3962 02 40 20 80    host0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 02 40 00 80    host0"""
NO_SIX = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo"
WAY_SIX = NO_SIX.replace("lo", "host0")


def test_links_are_named_without_loopback():
    assert links.parse_dev(DEV) == ["host0", "mv-eno1"]


def test_the_network_of_a_link_is_not_its_link_local_one():
    assert links.parse_network(LOCAL_FIRST, "ve-one") == IPv4Network("192.168.25.16/28")
    assert links.parse_network(LOCAL_FIRST, "ve-two") is None
    assert links.parse_network(ROUTES, "host0") == IPv4Network("192.168.25.16/28")


@pytest.mark.parametrize(
    ("four", "six", "way"),
    [(ROUTES, "", True), (LOCAL_FIRST, "", False), ("", NO_SIX, False), ("", WAY_SIX, True), ("", "", False)],
)
def test_a_default_route_is_a_way_out(four, six, way):
    assert links.is_default_in(four, six) is way


def test_a_link_local_address_gives_the_hardware_address_away():
    assert links.parse_macs(INET6) == ["56:6d:12:1c:39:62"]


@pytest.mark.parametrize(
    ("state", "is_up", "carrier"),
    [("up", True, True), ("unknown", True, True), ("down", True, False), ("lowerlayerdown", True, False), ("up", False, False)],
)  # fmt: skip
def test_a_cable_carries_when_both_ends_are_up(state, is_up, carrier):
    assert links.Link("ve-x", 3, is_up, state, "").has_carrier is carrier


# --- the firewall


def chain(table: str, name: str, hook: str = "", policy: str = "", family: str = "ip") -> dict:
    return {"chain": {"family": family, "table": table, "name": name, "hook": hook, "policy": policy}}


def rule(table: str, chain: str, *expr: dict, family: str = "ip") -> dict:
    return {"rule": {"family": family, "table": table, "chain": chain, "expr": list(expr)}}


def named(link: str) -> dict:
    return {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": link}}


def rules(*entries: dict) -> firewall.Rules:
    return firewall.parse(json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *entries]}))


DOCKER = (chain("filter", "FORWARD", "forward", "drop"), chain("filter", "DOCKER-USER"),
          rule("filter", "FORWARD", named("docker0"), {"accept": None}))  # fmt: skip
UFW = (chain("filter", "FORWARD", "forward", "drop"), chain("filter", "ufw-before-forward"))
OWN = (
    chain("own", "in", "input", "accept", "inet"),
    rule("own", "in", {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}, {"accept": None}, family="inet"),
    rule("own", "in", {"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmpx"}}, family="inet"),
)  # fmt: skip
DHCP = rule("own", "in", {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 67}}, {"accept": None}, family="inet")  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "hook", "keepers"),
    [
        (DOCKER, "forward", ["docker"]),
        (UFW, "forward", ["ufw"]),
        ((*DOCKER, rule("filter", "DOCKER-USER", named("ve-*"), {"accept": None})), "forward", []),
        ((chain("filter", "FORWARD", "forward", "accept"),), "forward", []),
        (DOCKER, "input", []),
        (OWN, "input", [""]),
        (OWN[:2], "input", []),
    ],
    ids=["docker", "ufw", "docker told about machines", "open", "another hook", "ends in reject", "no end"],
)
def test_a_chain_that_refuses_machines_is_found_with_its_keeper(entries, hook, keepers):
    found = rules(*entries)
    assert [firewall.keeper(found, each) for each in firewall.closed(found, hook)] == keepers


def test_an_open_port_67_lets_leases_through():
    assert not list(firewall.closed(rules(*OWN[:2], DHCP, OWN[2]), "input", passes="67"))
    assert list(firewall.closed(rules(*OWN[:2], DHCP, OWN[2]), "input", passes="6"))


@pytest.mark.parametrize(
    ("elements", "done"),
    [
        (["192.168.25.17"], True),
        ([{"prefix": {"addr": "192.168.25.16", "len": 28}}], True),
        ([{"range": ["192.168.25.16", "192.168.25.31"]}], True),
        ([{"prefix": {"addr": "192.168.26.16", "len": 28}}, {"prefix": {"addr": "x", "len": 99}}, 7], False),
        ([], False),
    ],
)
def test_translation_is_seen_in_networkd_s_set(elements, done):
    found = rules({"set": {"name": "masq_saddr", "table": "io.systemd.nat", "elem": elements}})
    assert firewall.translates(found, IPv4Address("192.168.25.17")) is done


def test_or_in_a_rule_of_somebody_s():
    found = rules(rule("nat", "POSTROUTING", {"masquerade": None}))
    assert firewall.translates(found, IPv4Address("10.0.0.1"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": 1}', "no json"])
def test_what_nft_does_not_say_is_no_rule_set(text):
    with pytest.raises(ValueError, match=r"not a rule set|Expecting value"):
        firewall.parse(text)


# --- images


@pytest.fixture
def guest(tmp_path) -> Guest:
    for folder in ("usr/lib/x86_64-linux-gnu/systemd", "usr/lib/systemd", "etc/systemd/system/multi-user.target.wants"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so").touch()
    (tmp_path / "usr/lib/systemd/systemd-networkd").touch()
    return Guest(tmp_path)


def test_the_systemd_inside_is_told_by_its_library(guest):
    assert guest.systemd == 252
    assert guest.has_networkd


def test_of_fedora_too(tmp_path):
    (tmp_path / "usr/lib64/systemd").mkdir(parents=True)
    (tmp_path / "usr/lib64/systemd/libsystemd-shared-257.5-1.fc42.so").touch()
    assert Guest(tmp_path).systemd == 257


def test_masked_and_enabled_are_read_from_links(guest):
    units = guest.image / "etc/systemd/system"
    assert not guest.is_enabled("systemd-networkd.service")
    (units / "multi-user.target.wants/systemd-networkd.service").symlink_to(
        "/lib/systemd/system/systemd-networkd.service"
    )
    assert guest.is_enabled("systemd-networkd.service")
    assert not guest.is_masked("systemd-networkd.service")
    (units / "systemd-networkd.service").symlink_to("/dev/null")
    assert guest.is_masked("systemd-networkd.service")


def test_a_link_out_of_the_image_leads_nowhere(guest, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "resolv.conf").write_text("nameserver 10.9.9.9\n")
    (guest.image / "etc/resolv.conf").symlink_to(outside / "resolv.conf")
    assert guest.name_servers == []


def test_resolved_s_file_is_known_by_where_it_leads(guest):
    (guest.image / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    assert guest.asks_resolved


@pytest.mark.parametrize(
    ("text", "servers"),
    [("nameserver 9.9.9.9\n# nameserver 1.1.1.1\nsearch x\nnameserver fe80::1%host0\n", ["9.9.9.9", "fe80::1%host0"]),
     ("nameserver $(reboot)\nnameserver\n", []), ("", []), ("nameserver 1.1.1.1\n" * 9, ["1.1.1.1"] * 5)],
)  # fmt: skip
def test_name_servers(text, servers):
    assert parse_servers(text) == servers


# --- versions, sysctls


@pytest.mark.parametrize(
    ("version", "may"),
    [("232.25", False), ("252.39", True), ("252", True), ("257.11", True), ("257.12", False), ("257.13", False), ("258.5", True),
     ("258.6", False), ("259.3", True), ("259.4", False), ("260", False), ("", False)],
)  # fmt: skip
def test_the_versions_with_the_fault(version, may):
    assert host_checks.may_escape(version) is may


def test_a_decision_in_sysctl_d_is_not_overridden(tmp_path, monkeypatch):
    monkeypatch.setattr(host_checks, "SYSCTL_FILES", (tmp_path / "sysctl.conf", tmp_path))
    assert not host_checks.is_forbidden("net.ipv4.ip_forward", "1")
    (tmp_path / "10-router.conf").write_text("# net.ipv4.ip_forward=0\nnet.ipv4.ip_forward = 1\n")
    assert not host_checks.is_forbidden("net.ipv4.ip_forward", "1")
    (tmp_path / "99-hardening.conf").write_text("net.ipv4.ip_forward=0\n")
    assert host_checks.is_forbidden("net.ipv4.ip_forward", "1")
    (tmp_path / "99-hardening.conf").rename(tmp_path / "60-nspawnpanel-forwarding.conf")
    assert not host_checks.is_forbidden("net.ipv4.ip_forward", "1")


# --- the whole


def test_a_check_that_fails_does_not_keep_the_others_from_looking(monkeypatch):
    def broken(_):
        raise OSError("no such thing")

    def fine(_):
        yield Finding(code="tools-there")

    monkeypatch.setattr(host_checks, "CHECKS", (broken, fine))
    task = SimpleNamespace(check_stop=lambda: None)
    assert [f.code for f in examine.look(None, task, "")] == ["check-failed", "tools-there"]


def test_every_check_says_only_codes_there_are_words_for():
    said = re.findall(r'found\(\s*"([a-z0-9-]+)"', inspect.getsource(host_checks) + inspect.getsource(machine_checks))
    assert len(said) > 40
    assert set(said) <= set(WORDS)
    assert {words.level for words in WORDS.values()} == set(findings.Level)
