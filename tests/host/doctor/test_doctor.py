"""What the doctor reads: tables of the kernel, rules of nft, images. The chain itself is walked on real hosts in tests/live."""

import json
import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.contract.configuration import findings
from machines.contract.configuration.command_line import STOCK_ARGV, parse
from machines.contract.configuration.findings import WORDS, Finding
from machines.contract.names import MachineName
from machines.contract.problems import Problem
from machines.host.doctor import checks, diagnose, facts, fixes, host_checks, limit_checks, nat_checks
from machines.host.doctor.facts import Facts
from machines.host.doctor.guest import Guest, parse_servers
from machines.host.network import firewall, links
from machines.host.network.netlink import Link
from machines.host.system import cgroup

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
IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
2\thost0     :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0"""
NO_SIX = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo"
WAY_SIX = NO_SIX.replace("lo", "host0")


def test_links_are_named_without_loopback():
    assert links.parse_dev(DEV) == ["host0", "mv-eno1"]


def test_links_that_are_up_have_joined_a_group():
    assert links.parse_igmp(IGMP) == ["lo", "host0"]


@pytest.mark.parametrize(
    ("four", "six", "way"),
    [(ROUTES, "", True), (LOCAL_FIRST, "", False), ("", NO_SIX, False), ("", WAY_SIX, True), ("", "", False)],
)
def test_a_default_route_is_a_way_out(four, six, way):
    assert links.is_default_in(four, six) is way


@pytest.mark.parametrize(
    ("state", "is_up", "carrier"),
    [("up", True, True), ("unknown", True, True), ("down", True, False), ("lowerlayerdown", True, False), ("up", False, False)],
)  # fmt: skip
def test_a_cable_carries_when_both_ends_are_up(state, is_up, carrier):
    assert Link("ve-x", 3, is_up, state).has_carrier is carrier


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
TO_USER = rule("filter", "FORWARD", {"jump": {"target": "DOCKER-USER"}})
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
        ((*DOCKER, TO_USER, rule("filter", "DOCKER-USER", named("ve-*"), {"accept": None})), "forward", []),
        ((*DOCKER, TO_USER, rule("filter", "DOCKER-USER", named("ve-*"), {"drop": None})), "forward", ["docker"]),
        ((*DOCKER, rule("filter", "INPUT", named("ve-*"), {"accept": None})), "forward", ["docker"]),
        ((chain("filter", "FORWARD", "forward", "accept"),), "forward", []),
        (DOCKER, "input", []),
        (OWN, "input", [""]),
        (OWN[:2], "input", []),
    ],
    ids=[
        "docker",
        "ufw",
        "docker told about machines",
        "told to drop them",
        "told in another chain",
        "open",
        "another hook",
        "ends in reject",
        "no end",
    ],
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
    found = rules(
        {"set": {"name": "masq_saddr", "table": "io.systemd.nat", "elem": elements}},
        rule("io.systemd.nat", "postrouting", {"masquerade": None}),
    )
    assert firewall.translates(found, IPv4Address("192.168.25.17")) is done


def from_source(*right: object, op: str = "==") -> dict:
    value = right[0] if len(right) == 1 else {"set": list(right)}
    return {"match": {"op": op, "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": value}}


DOCKER_S = {"prefix": {"addr": "172.17.0.0", "len": 16}}


@pytest.mark.parametrize(
    ("expr", "done"),
    [
        ([{"masquerade": None}], True),
        ([{"xt": {"type": "target", "name": "MASQUERADE"}}], True),
        ([from_source(DOCKER_S), {"masquerade": None}], False),
        ([from_source(DOCKER_S, op="!="), {"masquerade": None}], True),
        ([from_source({"prefix": {"addr": "10.0.0.0", "len": 8}}, DOCKER_S), {"snat": {"addr": "1.2.3.4"}}], True),
        ([from_source("10.0.0.1"), {"accept": None}], False),
    ],
    ids=["all", "by iptables", "of docker's own network", "of all but docker's", "of a set", "no translation"],
)
def test_or_in_a_rule_of_somebody_s_for_that_address(expr, done):
    assert firewall.translates(rules(rule("nat", "POSTROUTING", *expr)), IPv4Address("10.0.0.1")) is done


# --- systemd's own table


def port_map(*elements: tuple) -> dict:
    elem = [[{"concat": [protocol, port]}, {"concat": [address, to]}] for protocol, port, address, to in elements]
    return {"map": {"family": "ip", "name": "map_port_ipport", "table": "io.systemd.nat", "elem": elem}}


FORWARD = firewall.Forward("tcp", 8080, IPv4Address("192.168.33.102"), 80)
NETWORK = IPv4Network("192.168.33.96/28")


@pytest.mark.parametrize("protocol", [6, "tcp"], ids=["252", "257"])
def test_forwarded_ports_are_read_as_both_systemds_write_them(protocol):
    found = firewall.forwards(rules(port_map((protocol, 8080, "192.168.33.102", 80), ("sctp", 1, "::1", 2))))
    assert found == {("tcp", 8080): FORWARD}


def test_nothing_lost_is_nothing_to_restore():
    masked = {
        "set": {
            "family": "ip",
            "name": "masq_saddr",
            "table": "io.systemd.nat",
            "elem": [{"prefix": {"addr": "192.168.33.96", "len": 28}}],
        }
    }
    whole = rules(
        masked, rule("io.systemd.nat", "postrouting", {"masquerade": None}), port_map((6, 8080, "192.168.33.102", 80))
    )
    assert firewall.restoring(whole, [NETWORK], [FORWARD]) == []
    assert firewall.restoring(rules(), [], []) == []


def test_a_forward_that_leads_elsewhere_is_replaced():
    lines = firewall.restoring(rules(port_map((6, 8080, "192.168.33.5", 80))), [], [FORWARD])
    assert lines[-2:] == [
        "delete element ip io.systemd.nat map_port_ipport { tcp . 8080 }",
        "add element ip io.systemd.nat map_port_ipport { tcp . 8080 : 192.168.33.102 . 80 }",
    ]
    assert not any(line.startswith("add map") for line in lines)


def test_a_filled_set_without_its_rule_translates_nothing():
    assert not firewall.translates(
        rules({"set": {"name": "masq_saddr", "table": "io.systemd.nat", "elem": ["10.0.0.1"]}}), IPv4Address("10.0.0.1")
    )


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080:80", ("tcp", 8080, 80)), ("udp:53", ("udp", 53, 53)), ("tcp:8:9", ("tcp", 8, 9)), ("sctp:1:2", None), ("0:1", None),
     ("1:2:3", None), ("", None), ("tcp", None)],
)  # fmt: skip
def test_ports_of_the_settings(text, port):
    found = nat_checks.parse_port(text)
    assert (found and (found.protocol, found.host, found.machine)) == port


def test_which_veth_leads_into_a_machine_is_told_by_its_namespace():
    host = {link.index: link for link in (
        Link("vz-front", 4, kind="bridge"), Link("vb-one", 5, kind="veth", master=4, peer=2, peer_space=7),
        Link("xt-one", 6, kind="veth", peer=3, peer_space=7), Link("vb-two", 8, kind="veth", master=4, peer=2, peer_space=9),
    )}  # fmt: skip
    inside = {2: Link("host0", 2), 3: Link("extra0", 3)}
    found = links.cables(7, host, inside)
    assert [(each.host.name, each.inside.name, each.server.name, each.is_main) for each in found] == [
        ("vb-one", "host0", "vz-front", True),
        ("xt-one", "extra0", "xt-one", False),
    ]
    assert not any(each.is_bridged for each in found)


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


# --- limits of the kernel


@pytest.fixture
def proc(tmp_path) -> Path:
    """Root's process 7 with two inotify instances and one socket, and 8 in another user namespace with one instance."""
    for pid, space in (("self", "user:[1]"), ("7", "user:[1]"), ("8", "user:[2]")):
        for folder in ("ns", "fd", "fdinfo"):
            (tmp_path / pid / folder).mkdir(parents=True)
        (tmp_path / pid / "ns/user").symlink_to(space)
    for pid, fd, target in (("7", "3", "anon_inode:inotify"), ("7", "4", "anon_inode:inotify"), ("7", "5", "socket:[9]"),
                            ("8", "3", "anon_inode:inotify")):  # fmt: skip
        (tmp_path / pid / "fd" / fd).symlink_to(target)
        (tmp_path / pid / "fdinfo" / fd).write_text("pos:\t0\ninotify wd:1 ino:2\ninotify wd:2 ino:3\n")
    return tmp_path


def test_inotify_instances_and_watches_of_root_and_of_machines_are_counted(proc):
    assert limit_checks.inotify_of_root(proc) == limit_checks.Inotify(instances=3, watches=6)


KEY_USERS = """    0:    87 86/86 81/1000000 1534/25000000
524288:     2 2/2 190/200 18/20000
    1:     2 2/2 19/200 19999/20000
nonsense"""


def test_users_near_their_limit_of_keys_are_found():
    near = [use for use in limit_checks.keys(KEY_USERS) if use.is_near]
    assert [(use.name, use.what, use.used, use.limit) for use in near] == [
        ("kernel.keys.maxkeys", "keys of user 524288", 190, 200),
        ("kernel.keys.maxbytes", "bytes of keys of user 1", 19999, 20000),
    ]


def test_what_is_read_of_this_very_kernel_is_no_failure(monkeypatch):
    codes = {found.code for found in limit_checks.kernel_limits(None)}
    assert codes <= {"kernel-limits-fine", "kernel-limit-near"}
    found = list(limit_checks.inotify(SimpleNamespace(running=[], is_container=False)))
    assert int(found[0].facts["used"]) >= 0
    monkeypatch.setattr(host_checks, "SYSCTL", Path("/nonexistent"))
    with pytest.raises(ValueError, match="cannot be read"):
        list(limit_checks.inotify(SimpleNamespace(running=[], is_container=False)))


@pytest.mark.parametrize(
    ("limit", "running", "code"), [(1024, 3, "inotify-enough"), (50, 3, "inotify-low"), (3, 0, "inotify-low")]
)
def test_few_inotify_instances_are_said_by_use_and_by_machines(monkeypatch, proc, limit, running, code):
    monkeypatch.setattr(limit_checks, "inotify_of_root", lambda: limit_checks.Inotify(3, 6))
    monkeypatch.setattr(limit_checks, "sysctl", lambda name: str(limit) if "instances" in name else "1000")
    [found] = limit_checks.inotify(SimpleNamespace(running=["m"] * running, is_container=False))
    assert found.code == code
    assert found.can_fix is (code == "inotify-low")
    [inside] = limit_checks.inotify(SimpleNamespace(running=["m"] * running, is_container=True))
    assert not inside.can_fix
    assert found.facts.get("target", "1024") == "1024"


GIB = 1 << 30


@pytest.mark.parametrize(
    ("space", "is_pool", "codes"),
    [
        ((500 * GIB, 900 * GIB, 0, 0), True, ["disk-enough"]),
        ((50 * GIB, 900 * GIB, 0, 0), True, ["disk-low"]),
        ((1 * GIB, 900 * GIB, 0, 0), True, ["disk-full"]),
        ((500 * GIB, 900 * GIB, 90, 10**6), True, ["disk-enough", "files-gone"]),
        ((500 * GIB, 900 * GIB, 40_000, 10**6), True, ["disk-enough", "files-few"]),
        ((GIB // 2, GIB, 10**5, 10**5), False, []),
        ((0, GIB, 10**5, 10**5), False, ["place-full"]),
        ((GIB // 40, GIB, 0, 10**5), False, ["place-low", "files-gone"]),
    ],
)
def test_bytes_and_inodes_are_judged(space, is_pool, codes):
    found = list(host_checks.judge_space(host_checks.Space(Path("/x"), *space), is_pool=is_pool))
    assert [each.code for each in found] == codes


# --- the clock


class Clock:
    """A host as timedated and its units say; `services` are loaded ones, with their state."""

    def __init__(
        self, said: dict, services: dict[str, str], *, is_container: bool = False, off_the_bus: str = ""
    ) -> None:
        self.is_container = is_container
        self.is_off_the_bus = lambda unit, _name: unit == off_the_bus
        self.host = SimpleNamespace(bus=SimpleNamespace(do=lambda work: said, properties=lambda *_: None))
        self.services = services

    def unit(self, name: str) -> dict:
        state = self.services.get(name)
        return {"LoadState": "loaded", "ActiveState": state} if state else {"LoadState": "not-found"}


@pytest.mark.parametrize(
    ("observed", "code", "command"),
    [
        (Clock({"NTPSynchronized": True}, {}), "clock-kept", None),
        (Clock({"CanNTP": True, "NTP": False}, {"systemd-timesyncd.service": "inactive"}), "clock-loose", "timedatectl set-ntp true"),
        (Clock({"CanNTP": False}, {"chrony.service": "inactive"}), "clock-service-off", "systemctl enable --now chrony.service"),
        (Clock({"CanNTP": False}, {"ntpsec.service": "active"}), "clock-unsynced", "systemctl status ntpsec.service"),
        (Clock({"CanNTP": False}, {}), "clock-missing", "apt-get install systemd-timesyncd"),
        (Clock({"CanNTP": False}, {}, is_container=True), "clock-outer", None),
        (Clock({}, {}, off_the_bus="systemd-timedated.service"), "clock-mute", "systemctl stop systemd-timedated.service"),
    ],
)  # fmt: skip
def test_the_fix_for_a_clock_is_one_this_host_can_carry_out(monkeypatch, observed, code, command):
    monkeypatch.setattr(host_checks.host_tools, "manager", lambda: "apt")
    [found] = host_checks.clock(observed)
    assert found.code == code
    assert (findings.commands(found) or [None])[0] == command


# --- services that lost the bus


class Service(Facts):
    """A host whose services are all in one state, and have their names on the bus or not."""

    def __init__(self, state: str, *, has_name: bool) -> None:
        super().__init__(SimpleNamespace(bus=SimpleNamespace(do=lambda _: has_name, has=lambda _: None)), None)
        self.state_of_all = state

    def unit(self, _: str) -> dict:
        return {"LoadState": "loaded", "ActiveState": self.state_of_all, "ActiveEnterTimestamp": 1_000_000_000_000_000}


@pytest.mark.parametrize(
    ("state", "has_name", "code", "others"),
    [
        ("active", True, "networkd-runs", []),
        ("active", False, "networkd-mute", ["logind-mute"]),
        ("inactive", False, "networkd-stopped", []),
    ],
)
def test_who_runs_without_a_name_on_the_bus_is_said_to_have_lost_it(monkeypatch, state, has_name, code, others):
    monkeypatch.setattr(facts, "STARTS", 0)
    monkeypatch.setattr(host_checks, "other_manager", lambda _: "")
    monkeypatch.setattr(host_checks, "NETWORK_FILES", ())
    host = Service(state, has_name=has_name)
    assert [each.code for each in host_checks.networkd(host)] == [code]
    assert [each.code for each in host_checks.logind(host)] == others


def test_networkd_is_not_restarted_from_afar_where_its_files_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "STARTS", 0)
    monkeypatch.setattr(host_checks, "NETWORK_FILES", (tmp_path / "none", tmp_path))
    host = Service("active", has_name=False)
    [found] = host_checks.networkd(host)
    assert not found.can_fix  # the folder is younger than what runs
    with pytest.raises(Problem, match="have changed"):
        fixes.networkd_restart(host)
    monkeypatch.setattr(host_checks, "NETWORK_FILES", (tmp_path / "none",))
    assert host_checks.may_restart_networkd(host)


def test_ports_are_restored_though_networkd_cannot_be_asked_for_networks(monkeypatch):
    monkeypatch.setattr(facts, "STARTS", 0)
    assert nat_checks.bare_networks(Service("active", has_name=False), None) == []


# --- the whole


def test_a_check_that_fails_does_not_keep_the_others_from_looking(monkeypatch):
    def broken(_):
        raise OSError("no such thing")

    def fine(_):
        yield Finding(code="tools-there")

    monkeypatch.setattr(checks, "OF_HOST", (broken, fine))
    task = SimpleNamespace(check_stop=lambda: None)
    assert [f.code for f in diagnose.look(None, task, "")] == ["check-failed", "tools-there"]


def test_every_check_says_only_codes_there_are_words_for():
    folder = Path(checks.__file__).parent
    said = re.findall(r'found\(\s*"([a-z0-9-]+)"', "".join(file.read_text() for file in folder.glob("*_checks.py")))
    assert len(said) > 60
    assert set(said) <= set(WORDS)
    assert {words.level for words in WORDS.values()} == set(findings.Level)


def test_what_the_kernel_does_not_count_is_unknown_and_not_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    with pytest.raises(LookupError):
        facts.event("/machine.slice/x", ("memory.events",), "oom_kill")
    (tmp_path / "machine.slice/x").mkdir(parents=True)
    (tmp_path / "machine.slice/x/memory.events").write_text("oom 0\noom_kill 3\n")
    assert facts.event("/machine.slice/x", ("memory.events",), "oom_kill") == 3


def test_a_host_whose_control_groups_or_version_cannot_be_read_has_unknowns(monkeypatch):
    monkeypatch.setattr(host_checks.host_facts, "cgroup_layout", lambda: "")
    monkeypatch.setattr(host_checks, "full_version", lambda: "")
    monkeypatch.setattr(checks, "OF_HOST", (host_checks.control_groups, host_checks.systemd))
    found = diagnose.look(None, SimpleNamespace(check_stop=lambda: None), "")
    assert [findings.level(each) for each in found] == [findings.Level.UNKNOWN] * 2
    assert "systemctl does not report its version." in findings.means(found[1])


# --- what a machine is started with


@pytest.mark.parametrize("place", ["probes", "machines"])
def test_ports_count_wherever_they_are_asked_for_and_on_the_command_line_too(paths, place):
    folder = getattr(paths, place)
    folder.mkdir(exist_ok=True)
    (folder / "web.nspawn").write_text("[Exec]\nTimezone=off\n" if place == "machines" else "[Network]\nPort=8080:80\n")
    host = SimpleNamespace(paths=paths, slow=SimpleNamespace(images={}))
    seen = facts.Facts(host=host, task=None, name=MachineName("web"))
    said = [] if place == "probes" else ["--port=tcp:8080:80"]
    vars(seen)["command_line"] = parse([*STOCK_ARGV, *said])
    assert [(port.host, port.machine) for port in nat_checks.asked_ports(seen)] == [(8080, 80)]
