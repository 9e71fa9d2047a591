"""What would not hold in a configuration: each trap, and what stands beside it and is fine."""

from dataclasses import replace

import pytest

from machines.contract.configuration import command_line, file_policy, limits, nspawn, protected
from machines.contract.configuration.protected import TABLE, Place
from machines.contract.configuration.validate import Facts, Finding, host_port, judge

ALPHA = Facts(
    name="alpha", systemd=252, memory=4 << 30, networkd=True, bridges=["br0"], interfaces=["br0", "eth0"],
    bind_sources=["/srv"], bind_sources_read_only=["/usr/share"], ports={("tcp", 8080): "db"},
    writable={"/srv/shared": "db"}, bound={"/srv/inner/deep": "db"},
)  # fmt: skip
VETH = "[Network]\nPrivate=yes\nVirtualEthernet=yes\n"


def findings(text: str, dropin: str = "", facts: Facts = ALPHA) -> list[Finding]:
    return judge(nspawn.parse(text), dropin, facts)


REFUSED = [
    ("[Network]\nPrivate=no\nVirtualEthernet=yes\n", "Network.Private", "no has no effect beside VirtualEthernet="),
    ("[Network]\nPrivate=no\nZone=a\n", "Network.Private", "Private=no has no effect beside Zone="),
    ("[Network]\nPrivate=no\nMACVLAN=eth0\n", "Network.Private", "Private=no has no effect beside MACVLAN="),
    ("[Network]\nVirtualEthernet=no\nZone=a\n", "Network.VirtualEthernet", "VirtualEthernet=no has no effect "
    "beside Zone"),
    (f"{VETH}Zone=a\nBridge=br0\n", "Network.Zone", "are mutually exclusive"),
    ("[Network]\nPrivate=no\nVirtualEthernet=no\nPort=80\n", "Network.Port", "uses the host's ports"),
    ("[Network]\nPrivate=yes\nVirtualEthernet=no\nPort=80\n", "Network.Port", "no veth link"),
    (f"{VETH}Port=80\nPort=80:8080\n", "Network.Port", "forwarded twice"),
    (f"{VETH}Port=8080:80\n", "Network.Port", "Port 8080/tcp of alpha is already used by db"),
    (f"{VETH}Bridge=br7\n", "Network.Bridge", "no bridge named br7 on alpha"),
    (f"{VETH}Bridge=averyverylongname\n", "Network.Bridge", "at most 15"),
    (f"{VETH}Zone=averyverylong\n", "Network.Zone", "at most 12"),
    ("[Network]\nPrivate=yes\nVirtualEthernet=no\nMACVLAN=eth7\n", "Network.MACVLAN", "no interface named eth7"),
    ("[Files]\nVolatile=yes\n", "Files.Volatile", "does not start"),
    ("[Exec]\nPrivateUsers=pick\n[Files]\nVolatile=overlay\n", "Files.Volatile", "does not start"),
    ("[Exec]\nPrivateUsers=pick\n[Files]\nVolatile=overlay\nPrivateUsersOwnership=map\n", "Files.Volatile", "does not"),
    ("[Files]\nPrivateUsersOwnership=map\n", "Files.PrivateUsersOwnership", "turns the user namespace off"),
    ("[Files]\nPrivateUsersChown=yes\n", "Files.PrivateUsersChown", "turns the user namespace off"),
    ("[Exec]\nPrivateUsersDelegate=1\n", "Exec.PrivateUsersDelegate", "needs systemd 260; alpha has 252"),
    ("[Files]\nBind=/srv/shared/mine\n", "Files.Bind", "inside /srv/shared, which db can write to"),
    ("[Files]\nBindReadOnly=/srv/shared/mine\n", "Files.BindReadOnly", "inside /srv/shared"),
    ("[Files]\nBind=/srv/inner\n", "Files.Bind", "db binds /srv/inner/deep"),
    ("[Files]\nBind=/srv/a\nBind=/srv/a/b:/mnt\n", "Files.Bind", "this machine itself can write to"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "setting", "words"), REFUSED)
def test_it_refuses_naming_the_setting(text, setting, words):
    found = [f for f in findings(text) if f.refused]
    assert [f.settings[0] for f in found] == [setting], found
    assert words in found[0].message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Network]\nZone=a\nZone=b\n", "is set 2 times; systemd uses the last one, b"),
        ("[Network]\nMACVLAN=eth0\n", "no veth link to its host"),
        ("[Exec]\nPrivateUsers=pick\n", "rewrites the owner of every file"),
        ("[Network]\nPrivate=yes\n", "the machine has only its loopback"),
        ("[Files]\nBind=/home/ada\n", "outside the paths that the policy of alpha allows: /srv"),
        ("[Files]\nBind=/usr/share/x\n", "outside the paths that the policy of alpha allows"),
    ],
)
def test_it_warns(text, words):
    (found,) = findings(text)
    assert (found.refused, words in found.message) == (False, True), found


@pytest.mark.parametrize(
    "text",
    [
        "",
        VETH,
        f"{VETH}Zone=shop\nPort=8081:80\nPort=udp:8080\n",
        f"{VETH}Bridge=br0\n",
        "[Network]\nPort=81\n",
        "[Network]\nPrivate=no\nVirtualEthernet=no\n",
        "[Network]\nPrivate=yes\nVirtualEthernet=no\nMACVLAN=eth0\n",
        "[Exec]\nPrivateUsers=pick\n[Files]\nPrivateUsersOwnership=map\n",
        "[Exec]\nPrivateUsers=yes\n[Files]\nVolatile=overlay\nPrivateUsersOwnership=map\n",
        "[Exec]\nPrivateUsers=no\n[Files]\nPrivateUsersChown=no\n",
        "[Exec]\nPrivateUsers=identity\n[Files]\nVolatile=state\n",
        "[Exec]\nPrivateUsers=524288:65536\n[Files]\nVolatile=yes\n",
        "[Files]\nVolatile=no\n",
        "[Files]\nBind=/srv/shared\nBindReadOnly=/usr/share/x\nBind=/srv/sharedness\n",
        "[Files]\nBindReadOnly=/srv/a\nBind=/srv/a/b\n",
    ],
)
def test_it_lets_pass_what_holds(text):
    assert findings(text) == []


def test_of_an_unknown_host_nothing_is_held_against_anybody():
    text = f"{VETH}Bridge=br7\nPort=8080\n[Files]\nBind=/home/ada\n[Exec]\nPrivateUsersDelegate=1\n"
    assert findings(text, "[Service]\nMemoryMax=9T\n", Facts()) == []


def test_limits_beyond_the_host_are_warned_of():
    (found,) = findings("", "[Service]\nMemoryMax=9G\n")
    assert (found.settings, found.refused) == (("MemoryMax",), False)
    assert findings("", "[Service]\nMemoryMax=2G\n") == []


def test_a_link_on_the_way_counts():
    through = Facts(writable={"/srv/shared": "db"}, way=lambda path: ["/srv", "/srv/link", "/srv/shared/there", path])
    (found,) = findings("[Files]\nBind=/srv/link\n", facts=through)
    assert "which db can write to" in found.message


@pytest.mark.parametrize(
    ("value", "port"), [("80", ("tcp", 80)), ("udp:53:5353", ("udp", 53)), ("", None), ("tcp", None), ("x:1", None)]
)
def test_a_port_is_read_as_systemd_reads_it(value, port):
    assert host_port(value) == port


# --- units with a command line of their own


def under(options: str, text: str) -> list[Finding]:
    return findings(text, facts=replace(ALPHA, unit=command_line.parse(["systemd-nspawn", *options.split()])))


@pytest.mark.parametrize(
    ("options", "text", "words"),
    [
        ("--boot --settings=no", "[Exec]\nHostname=x\n", "with --settings=no: this file has no effect"),
        ("--boot --bind=/srv/x", "[Files]\nBind=/srv/y\n", "Bind= has no effect: the machine's unit has --bind=/srv/x"),
        ("--boot --network-zone=a", "[Network]\nBridge=br0\n", "Bridge= has no effect"),
    ],
)
def test_what_the_unit_keeps_from_acting_is_said_beforehand(options, text, words):
    (found,) = under(options, text)
    assert not found.refused
    assert words in found.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--boot --settings=override", "uses the host's ports"),  # nothing says that it has a network of its own
        ("--boot --settings=override --private-network", "no veth link"),
        ("--boot --settings=override --network-macvlan=eth0", "no veth link"),
    ],
)
def test_a_port_is_judged_by_the_network_that_the_unit_gives(options, words):
    (found,) = under(options, "[Network]\nPort=81\n")
    assert words in found.message


def test_a_port_is_fine_where_the_unit_brings_a_cable():
    assert under("--boot --settings=override --network-zone=a", "[Network]\nPort=81\n") == []


def test_a_unit_without_ids_of_its_own_needs_no_owners_mapped():
    assert under("--boot --settings=override -n", "[Files]\nVolatile=overlay\n") == []
    assert under("--boot --settings=override -n", "[Files]\nPrivateUsersOwnership=off\n") == []


GUARDED = replace(
    ALPHA, protected=(*TABLE, Place("/data/agent", "a program that agent.service runs as root")),
    rules=file_policy.as_told({"privileged_binds": "never"}),
)  # fmt: skip


@pytest.mark.parametrize(
    "line",
    ["Bind=/etc/cron.d", "Bind=/", "Bind=/data", "Bind=/data/agent", "BindReadOnly=/root", "Overlay=/srv/a:/usr/local", "Bind=/var/run/docker.sock",
     "Overlay=/root:/srv/b:/x"],
)  # fmt: skip
def test_what_no_machine_may_have_is_said_before_it_is_sent(line):
    refused = [each for each in findings(f"[Files]\n{line}\n", facts=GUARDED) if each.refused]
    assert {each.settings for each in refused} == {(f"Files.{line.partition('=')[0]}",)}, refused
    assert "whatever the policy says" in refused[0].message


def test_a_read_only_bind_is_none_without_a_user_namespace():
    text = "[Files]\nBindReadOnly=/usr/share/x\n"
    assert not [each for each in findings(text, facts=GUARDED) if each.refused]
    assert [each for each in findings("[Exec]\nPrivateUsers=no\n" + text, facts=GUARDED) if each.refused]


def test_a_writable_bind_as_root_of_the_host_needs_the_policys_word():
    text = "[Exec]\nPrivateUsers=no\n[Files]\nBind=/srv/x\n"
    (refused,) = [each for each in findings(text, facts=GUARDED) if each.refused]
    assert "privileged_binds" in refused.hint
    assert not [each for each in findings(text) if each.refused]  # of an older host it is not known


@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart", "LoadCredential", "Environment", "EnvironmentFile", "User", "RootDirectory", "RootImage",
                                 "BindPaths", "StandardOutput", "OnFailure", "Wants", "ImportCredential"])  # fmt: skip
def test_a_drop_in_that_is_root_is_refused_whatever_the_policy_says(key):
    facts = replace(ALPHA, rules=file_policy.as_told({"unit_settings": [key]}))
    (refused,) = [each for each in findings("", f"[Service]\n{key}=x\n", facts) if each.refused]
    assert "whatever the policy says" in refused.message


def test_every_limit_and_credential_may_still_be_set():
    assert not [key for key in (*limits.PROPERTIES, "SetCredential") if protected.runs_as_root(key)]


def test_the_starting_presets_are_no_privileged_binds():
    ci = "[Exec]\nPrivateUsers=identity\n[Files]\nVolatile=overlay\nBind=/srv/ci-cache:/var/cache/ci:rootidmap\n"
    assert not [each for each in findings(ci, facts=GUARDED) if each.refused]
