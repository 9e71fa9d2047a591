"""A team's section of policy.toml narrows what the host allows and never widens it; every refusal names rule and section."""

import os
import tomllib
from pathlib import Path

import pytest

from machines.contract import orders
from machines.contract import policy_sections as sections
from machines.contract.configuration import nspawn
from machines.contract.policy_sections import Takes
from machines.contract.problems import NotAllowed
from machines.contract.recipes import CloneRecipe, DebianRecipe, FirstBoot, PullRecipe
from machines.host.policy import policy
from machines.host.policy.policy import Policy
from machines.host.system.paths import Paths

GIB = 1 << 30
FILE = """
machines = ["web-*", "db-*", "any"]
bind_sources = ["/srv", "/mnt"]
networks = ["veth", "zone", "host"]
lowest_port = 100

[teams.web]
operations = ["apply", "build", "start"]
machines = ["web-*", "mail-*"]
bind_sources = ["/srv/web", "/opt"]
networks = ["veth", "bridge"]
interfaces = ["eth1"]
mirrors = ["https://ours/*"]
pull_urls = ["https://images.example/*"]
lowest_port = 1024
max_machines = 2
max_memory = "8G"
max_cpu = "400%"
max_disk = "10G"

[teams."*"]
operations = ["start"]
"""


def read(text: str = FILE) -> Policy:
    return policy._policy(tomllib.loads(text))


def build(name="web-1", recipe=None):
    return orders.Build(
        name=name, recipe=recipe or DebianRecipe(release="sid"), first_boot=FirstBoot(),
        configuration=orders.Configuration(revision=1, nspawn="", limits=""),
    )  # fmt: skip


PULLED = {"verify": "sha256", "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("team", "order", "rule"),
    [
        ("web", orders.Start(name="web-1"), ""),
        ("web", orders.Poweroff(name="web-1"), "“operations” of [teams.web]"),
        ("web", orders.Start(name="db-1"), "“machines” of [teams.web]"),
        ("web", orders.Start(name="mail-1"), "“machines” in"),  # the section cannot allow it
        ("web", build(), ""),
        ("web", build("db-1"), "“machines” of [teams.web]"),
        ("web", build(recipe=CloneRecipe(source="db-1")), "“machines” of [teams.web]"),
        ("web", build(recipe=DebianRecipe(release="sid", mirror="https://theirs/debian")), "“mirrors” of [teams.web]"),
        ("web", build(recipe=DebianRecipe(release="sid", mirror="https://ours/debian")), ""),
        ("web", build(recipe=PullRecipe(url="https://images.example/a.tar.xz", **PULLED)), ""),
        ("web", build(recipe=PullRecipe(url="https://else.example/a.tar.xz", **PULLED)), "“pull_urls” of [teams.web]"),
        ("db", orders.Start(name="db-1"), ""),
        ("db", orders.Poweroff(name="db-1"), '“operations” of [teams."*"]'),
        ("", orders.Poweroff(name="db-1"), ""),
        ("", orders.Poweroff(name="mail-1"), "“machines” in"),
    ],
)
def test_an_order_must_pass_the_host_and_the_section(team, order, rule):
    if not rule:
        policy.allow(read().of(team), order)
        return
    with pytest.raises(NotAllowed) as caught:
        policy.allow(read().of(team), order)
    assert rule in caught.value.hint
    assert caught.value.code == "policy-refused"
    assert (f"for team {team}" in caught.value.message) == ("[teams." in rule)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[Files]\nBind=/srv/web/data\n", ""),
        ("[Files]\nBind=/srv/db\n", "“bind_sources” of [teams.web]"),
        ("[Files]\nBind=/opt/x\n", "“bind_sources” in"),
        ("[Network]\nPrivate=no\n", "“networks” of [teams.web]"),
        ("[Network]\nBridge=br0\n", "“networks” in"),
        ("[Network]\nVirtualEthernet=yes\nPort=tcp:99\n", "“lowest_port” in"),
        ("[Network]\nVirtualEthernet=yes\nPort=tcp:800\n", "“lowest_port” of [teams.web]"),
        ("[Network]\nVirtualEthernet=yes\nPort=tcp:8000\n", ""),
    ],
)
def test_files_must_pass_the_host_and_the_section(text, rule):
    def judge() -> None:
        policy.allow_files(read().of("web"), Paths(), nspawn.parse(text), nspawn.parse(""))

    if not rule:
        judge()
        return
    with pytest.raises(NotAllowed) as caught:
        judge()
    assert rule in caught.value.hint


def test_what_a_team_may_order_does_not_bind_an_administrator_but_what_its_machines_may_be_does():
    rules = read().of("web")
    policy.allow(rules, orders.Poweroff(name="web-1"), as_administrator=True)
    with pytest.raises(NotAllowed, match="machine name"):
        policy.allow(rules, orders.Poweroff(name="db-1"), as_administrator=True)


def test_without_sections_nothing_is_different():
    rules = read('machines = ["web"]\n')
    assert rules.of("web") is rules
    assert "teams" not in rules.facts()


def test_the_panel_is_told_what_each_section_says():
    told = read().facts()["teams"]
    assert told["*"] == {"operations": ["start"]}
    assert (told["web"]["max_memory"], told["web"]["max_cpu"], told["web"]["lowest_port"]) == (8 * GIB, 400.0, 1024)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("teams = 3", "must be sections"),
        ("[teams]\nweb = 3", r"\[teams.web\] must be a section"),
        ("[teams.web]\nmax_memry = 3", r"\[teams.web\]: “max_memry” is not a rule of a team"),
        ('[teams.web]\nmax_memory = "lots"', "must be a size"),
        ("[teams.web]\nmax_memory = 8", "must be a size"),
        ('[teams.web]\nmax_cpu = "4"', "percentage"),
        ("[teams.web]\nmax_machines = -1", "whole number"),
        ("[teams.web]\nmax_machines = true", "whole number"),
        ('[teams.web]\nmachines = "web"', "list of strings"),
        ('[teams.web]\nprivileged_binds = "allowed"', "is not a rule of a team"),
        ('[teams."a b"]\nmax_machines = 1', "names no team"),
        ('[teams.web]\noperations = ["bake"]', "is called “build_base” now"),
    ],
)
def test_nonsense_is_no_section(text, says):
    with pytest.raises(ValueError, match=says):
        read(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="a policy belongs to root")
def test_the_example_s_section_can_be_used(paths):
    example = Path(policy.__file__).with_name("policy.toml").read_text()
    commented = example[example.index("# [teams.web]") :]
    paths.policy.write_text("\n".join(line.removeprefix("# ") for line in commented.splitlines()))
    paths.policy.chmod(0o644)
    assert policy.read(paths.policy).section("web").max_machines == 5


SECTION = read().section("web")
assert SECTION


@pytest.mark.parametrize(
    ("others", "asked", "now", "said"),
    [
        ({}, Takes(GIB, 100), None, ""),
        ({"a": Takes(GIB, 50), "b": Takes(GIB, 50)}, Takes(GIB, 100), None, "has 2 of 2 machines"),
        ({"a": Takes(GIB, 50), "b": Takes(GIB, 50)}, Takes(GIB, 100), Takes(GIB, 100), ""),
        ({"a": Takes(6 * GIB, 50)}, Takes(3 * GIB, 100), None, "have 6\u00a0GiB of 8\u00a0GiB here"),
        ({"a": Takes(6 * GIB, 50)}, Takes(2 * GIB, 100), None, ""),
        ({"a": Takes(9 * GIB, 50)}, Takes(2 * GIB, 100), Takes(3 * GIB, 100), ""),  # a step down
        ({"a": Takes(GIB, 350)}, Takes(GIB, 100), None, "have 350% of 400% here"),
        ({}, Takes(None, 100), None, "a machine without MemoryMax="),
        ({}, Takes(GIB, None), None, "a machine without CPUQuota="),
        ({"a": Takes(None, 10)}, Takes(GIB, 10), None, "more while a of the team has no MemoryMax="),
        ({"a": Takes(GIB, 10, 10 * GIB)}, Takes(GIB, 10), None, "take 10\u00a0GiB of 10\u00a0GiB"),
        ({"a": Takes(GIB, 10, 10 * GIB)}, Takes(GIB, 10), Takes(GIB, 10), ""),
    ],
)
def test_ceilings_are_for_all_machines_of_the_team_together(others, asked, now, said):
    found = sections.beyond(SECTION, others, asked, now)
    assert (said in found[1]) if said else (found is None), found
