"""What this host allows, whoever asks; every refusal names its rule."""

import os
from pathlib import Path

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.problems import NotAllowed
from machines.contract.recipes import ArchRecipe, CloneRecipe, DebianRecipe, FirstBoot
from machines.host.policy import policy
from machines.host.policy.policy import Policy
from machines.host.system.faults import Misconfigured
from machines.host.system.paths import Paths

NOTHING = nspawn.parse("")


def written(paths, text: str, mode: int = 0o644) -> Path:
    paths.policy.write_text(text)
    paths.policy.chmod(mode)
    return paths.policy


def files(text: str, rules: Policy = Policy(), limits: str = "", found: tuple[str, ...] = ()) -> None:  # noqa: B008
    policy.allow_files(rules, Paths(), nspawn.parse(text), nspawn.parse(limits), found=found)


def test_without_a_file_the_defaults_hold(paths):
    assert policy.read(paths.policy) == Policy()


def test_the_example_beside_the_code_is_the_defaults():
    example = Path(policy.__file__).with_name("policy.toml")
    assert policy._policy(__import__("tomllib").loads(example.read_text())) == Policy()


@pytest.mark.skipif(os.geteuid() != 0, reason="a policy belongs to root")
def test_a_file_changes_what_it_names(paths):
    rules = policy.read(written(paths, 'operations = ["start"]\nlowest_port = 1024\nbuilds_in_memory = false\n'))
    assert (rules.operations, rules.lowest_port, rules.machines) == (("start",), 1024, ("*",))
    assert not rules.builds_in_memory


@pytest.mark.skipif(os.geteuid() != 0, reason="a policy belongs to root")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_it_is_not_believed_when_others_can_write_it(paths, mode):
    with pytest.raises(Misconfigured, match="only root"):
        policy.read(written(paths, "", mode))


def test_it_is_not_followed_when_it_is_a_link(paths, tmp_path):
    (tmp_path / "elsewhere").write_text("")
    paths.policy.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misconfigured):
        policy.read(paths.policy)


@pytest.mark.skipif(os.geteuid() != 0, reason="a policy belongs to root")
@pytest.mark.parametrize(
    "text",
    [
        "operations = 3",
        "opps = []",
        "operations = [1]",
        "lowest_port = true",
        "builds_in_memory = 1",
        "operations = [",
        'lowest_port = "1"',
    ],
)
def test_nonsense_is_no_policy(paths, text):
    with pytest.raises(Misconfigured):
        policy.read(written(paths, text))


@pytest.mark.parametrize(
    ("rules", "order", "rule"),
    [
        (Policy(operations=("start",)), orders.Poweroff(name="web"), "operations"),
        (Policy(machines=("web-*",)), orders.Start(name="db"), "machines"),
        (
            Policy(mirrors=("https://ours/*",)),
            orders.Build(
                name="x", recipe=DebianRecipe(release="sid", mirror="http://theirs/debian"), first_boot=FirstBoot(),
                configuration=orders.Configuration(revision=1, nspawn="", limits=""),
            ),
            "mirrors",
        ),
    ],
)  # fmt: skip
def test_it_names_the_rule(rules, order, rule):
    with pytest.raises(NotAllowed) as caught:
        policy.allow(rules, order)
    assert f"“{rule}”" in caught.value.hint
    assert caught.value.code == "policy-refused"


@pytest.mark.parametrize(
    "text",
    [
        "[Files]\nBind=/etc\n",
        "[Files]\nBind=/usr/../etc:/mnt\n",
        "[Files]\nBind=/srvx\n",
        "[Files]\nBindReadOnly=/root\n",
        "[Files]\nBind=/usr/share/x\n",
        "[Files]\nBind=/dev/sda\n",
        "[Files]\nOverlay=/etc:/srv/upper:/mnt\n",
        "[Files]\nBind=/proc/self/root/etc\n",
        "[Files]\nOverlay=/srv/lower:/etc\n",  # of two parts the second is the host's, and written to
        "[Files]\nBind=etc:/mnt\n",
    ],
)
def test_only_listed_folders_may_be_bound(text):
    with pytest.raises(NotAllowed, match=r"Bind|Overlay"):
        files(text)


@pytest.mark.parametrize(
    "text", ["[Files]\nBind=/srv/data:/data\nBindReadOnly=/usr/share/zoneinfo\nBind=+/inside:/there\nBind=:/tmp\n"]
)
def test_listed_folders_may_be_bound(text):
    files(text)


def test_a_link_out_of_a_listed_folder_is_followed_first(tmp_path):
    allowed = tmp_path / "srv"
    allowed.mkdir()
    (allowed / "link").symlink_to("/home")
    rules = Policy(bind_sources=(str(allowed),))
    files(f"[Files]\nBind={allowed}/real\n", rules)
    with pytest.raises(NotAllowed, match="it leads to /home"):
        files(f"[Files]\nBind={allowed}/link\n", rules)


def test_the_rules_are_not_held_against_lines_that_stand_there_already():
    text = "[Files]\nBind=/home\n"
    files(text, found=(text,))
    with pytest.raises(NotAllowed):
        files(text + "Bind=/var/tmp\n", found=(text,))


@pytest.mark.parametrize("user", ["root", "daemon", "bin"])
def test_the_home_of_a_user_is_looked_at_like_any_folder(user):
    with pytest.raises(NotAllowed, match="whatever the policy says"):
        files(f"[Files]\nBindUser={user}\n", Policy(bind_sources=("/",)))


def test_a_bind_that_gives_root_away_is_refused_wherever_it_comes_from():
    text = "[Files]\nBind=/etc\n"
    with pytest.raises(NotAllowed, match="whatever the policy says") as caught:
        files(text, Policy(bind_sources=("/",)), found=(text,))
    assert caught.value.code == "protected-path"


def test_programs_lie_in_opt_so_it_is_named_by_nobody_but_the_administrator():
    with pytest.raises(NotAllowed, match="allowed are /srv, /mnt, /media"):
        files("[Files]\nBind=/opt/something\n")
    files("[Files]\nBind=/opt/something\n", Policy(bind_sources=("/opt/something",)))


@pytest.mark.parametrize(
    "text",
    [
        "[Exec]\nPrivateUsers=no\n[Files]\nBind=/srv/data\n",
        "[Exec]\nPrivateUsers=identity\n[Files]\nBind=/srv/data\n",
        "[Files]\nPrivateUsersOwnership=off\nBind=/srv/data\n",  # which turns the namespace off
        "[Exec]\nPrivateUsers=pick\n[Files]\nBind=/srv/data:/data:norbind,idmap\n",
        "[Exec]\nPrivateUsers=no\n[Files]\nOverlay=/srv/a:/srv/b:/data\n",
        "[Exec]\nPrivateUsers=no\n[Files]\nOverlay=/srv/a:/srv/b\n",
    ],
)
def test_what_root_inside_writes_as_root_of_the_host_needs_the_policys_word(text):
    with pytest.raises(NotAllowed) as caught:
        files(text)
    assert "“privileged_binds”" in caught.value.hint
    files(text, Policy(privileged_binds="allowed"))


def test_giving_up_the_user_namespace_is_judged_with_the_binds_that_were_there():
    before = "[Files]\nBind=/srv/data\n"
    with pytest.raises(NotAllowed, match="root inside is root on this host"):
        files("[Exec]\nPrivateUsers=no\n" + before, found=(before,))


@pytest.mark.parametrize("text", ["Bind=+/in:/x", "Bind=:/tmp", "BindReadOnly=/srv/data", "Overlay=/srv/a::/data"])
def test_what_writes_nothing_to_the_host_needs_no_word(text):
    files(f"[Exec]\nPrivateUsers=no\n[Files]\n{text}\n")


@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart", "LoadCredential", "Environment", "User", "RootDirectory",
                                 "Wants", "Requires", "BindsTo", "Upholds", "OnFailure", "Slice", "DeviceAllow"])  # fmt: skip
def test_a_drop_in_holds_no_commands(key):
    with pytest.raises(NotAllowed, match=key):
        files("", limits=f"[Service]\n{key}=/bin/sh\n")


@pytest.mark.parametrize(
    ("text", "rules", "rule"),
    [
        ("[Network]\nPrivate=no\nVirtualEthernet=no\n", Policy(networks=("veth",)), "networks"),
        ("[Network]\nPrivate=yes\nVirtualEthernet=no\nMACVLAN=eth0\n", Policy(interfaces=("br*",)), "interfaces"),
        ("[Network]\nPort=80\n", Policy(lowest_port=1024), "lowest_port"),
        ("[Network]\nNamespacePath=/proc/1/ns/net\n", Policy(networks=("veth",)), "networks"),
        ("[Exec]\nPrivateUsers=no\n", Policy(private_users="required"), "private_users"),
        ("[Exec]\nCapability=all\n", Policy(), "capabilities"),
        ("[Exec]\nCapability=CAP_NET_ADMIN CAP_SYS_ADMIN\n", Policy(), "capabilities"),
        # An empty assignment takes nothing back: systemd 252 starts this with CAP_SYS_MODULE
        ("[Exec]\nCapability=CAP_SYS_MODULE\nCapability=\n", Policy(), "capabilities"),
        ("[Network]\nInterface=eth0\nInterface=\n", Policy(interfaces=("br*",)), "interfaces"),
        ("[Exec]\nPrivateUsers=no\nPrivateUsers=pick\n", Policy(private_users="required"), "private_users"),
        ("[Exec]\nPrivateUsers=0:65536\n", Policy(private_users="required"), "private_users"),
        ("[Exec]\nPrivateUsers=1000\n", Policy(private_users="required"), "private_users"),
        ("[Exec]\nPrivateUsers=0\n", Policy(private_users="required"), "private_users"),
        ("[Exec]\nSystemCallFilter=kexec_load\n", Policy(), "system_calls"),
        ("[Exec]\nSystemCallFilter=keyctl open_by_handle_at\n", Policy(system_calls=("keyctl",)), "system_calls"),
        ("[Files]\nBindUser=www-data\n", Policy(), "bind_sources"),
        ("[Files]\nBindUser=nobody-of-this-name\n", Policy(), "bind_sources"),
    ],
)
def test_network_and_privileges_have_rules(text, rules, rule):
    with pytest.raises(NotAllowed) as caught:
        files(text, rules)
    assert f"“{rule}”" in caught.value.hint


@pytest.mark.parametrize("users", ["yes", "1", "pick", "managed", "524288:65536", "65536"])
def test_a_namespace_of_its_own_is_what_a_strict_host_wants(users):
    files(f"[Exec]\nPrivateUsers={users}\n", Policy(private_users="required"))


def test_system_calls_may_always_be_taken_away():
    files("[Exec]\nSystemCallFilter=~ptrace @mount\n")


def test_facts_can_cross_the_wire():
    assert policy.Policy().facts()["operations"][0] == "apply"


def _bake(recipe):
    return orders.BuildBase(recipe=recipe)


@pytest.mark.parametrize(
    "recipe", [DebianRecipe(release="trixie", proxy="http://evil:3128"), ArchRecipe(proxy="http://evil:3128")]
)
def test_a_proxy_of_the_recipe_is_no_way_around_the_mirrors(recipe):
    with pytest.raises(NotAllowed, match="the mirror http://evil:3128"):
        policy.allow(Policy(mirrors=("https://good.example/*",)), _bake(recipe))
    policy.allow(Policy(mirrors=("http://evil:3128",)), _bake(recipe))


def test_a_copy_takes_only_machines_the_panel_may_touch():
    order = orders.Build(
        name="web-2", recipe=CloneRecipe(source="vault"), first_boot=FirstBoot(),
        configuration=orders.Configuration(revision=1, nspawn="", limits=""),
    )  # fmt: skip
    with pytest.raises(NotAllowed, match="vault"):
        policy.allow(Policy(machines=("web-*",)), order)
    policy.allow(Policy(machines=("web-*", "vault")), order)


# --- where archives come from and go to


def of_an_archive(url):
    recipe = {"kind": "archive", "url": url, "sha256": "0" * 64, "size": 1, "format": "tar"}
    rest = {"first_boot": {"hostname": "web"}, "configuration": {"revision": 1, "nspawn": "", "limits": ""}}
    return (
        orders.from_wire({"op": "build", "name": "web", "recipe": recipe, **rest}),
        orders.from_wire({"op": "export", "name": "web", "url": url, "limit": 1}),
    )


THE_PANEL = Policy(panel_urls=("https://panel.example/*",))
ELSEWHERE = (
    "http://169.254.169.254/latest", "http://127.0.0.1:6379/", "http://[::1]/x", "http://localhost/x", "http://localhost./x",
    "http://[::ffff:169.254.169.254]/x",
)  # fmt: skip


@pytest.mark.parametrize(
    "url", [*ELSEWHERE, "https://panel.example.org/x", "https://panel.example:1/x", "http://10.0.0.1/x"]
)
def test_archives_come_from_the_panel_and_go_to_it_alone(url):
    for order in of_an_archive("https://panel.example/transfer/x/"):
        policy.allow(THE_PANEL, order)
    for order in of_an_archive(url):
        with pytest.raises(NotAllowed, match="not the URL of its panel") as caught:
            policy.allow(THE_PANEL, order)
        assert "“panel_urls”" in caught.value.hint


def test_a_name_before_an_at_is_not_where_it_leads():
    for order in of_an_archive("http://127.0.0.1/x")[1:]:
        forged = order.model_copy(update={"url": "https://panel.example/*@127.0.0.1/x"})
        with pytest.raises(NotAllowed):
            policy.allow(THE_PANEL, forged)


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_host_that_was_never_told_its_panel_refuses_itself_and_clouds(url):
    for order in of_an_archive("http://10.0.0.1:8000/transfer/x/"):
        policy.allow(Policy(), order)
    for order in of_an_archive(url):
        with pytest.raises(NotAllowed, match="not the URL of its panel"):
            policy.allow(Policy(), order)


@pytest.mark.parametrize(
    ("text", "word"),
    [(f"{old} = []", new) for old, new in policy.FORMER_RULES.items()]
    + [(f'operations = ["start", "{old}"]', new) for old, new in policy.FORMER_OPERATIONS.items()],
)
def test_a_file_in_the_words_of_before_is_refused_with_the_word_of_today(paths, text, word):
    with pytest.raises(Misconfigured, match=f"is called “{word}” now"):
        policy.read(written(paths, text))
