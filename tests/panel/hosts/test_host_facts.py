"""What a host has told of itself decides what may be ordered there; what it says oddly, or not at all, forbids nothing."""

import pytest

from machines.contract import recipes
from machines.contract.configuration import egress_rules, nspawn
from machines.models import Host
from machines.panel.hosts import host_facts
from machines.panel.images import builds
from tests import make

ODD = [{}, {"policy": None, "systemd": "new", "bridges": 7, "interfaces": {"a": 1}}, {"policy": [1], "bridges": None}]


@pytest.mark.parametrize("facts", ODD)
def test_odd_facts_are_read_as_unknown(facts):
    host = Host(name="alpha", facts=facts)
    assert host_facts.systemd(host) == 0
    assert not host_facts.has_older_systemd(host, 256)
    assert host_facts.network_targets(host) == []
    assert host_facts.lacks_target(host, nspawn.NETWORK_MODES["bridge"], "br0") == ""
    assert not host_facts.pulls_unverified(host)
    assert not host_facts.follows_links(host)


def test_a_bridge_that_is_not_there_is_named_with_those_that_are():
    host = Host(name="alpha", facts={"bridges": ["br0"], "interfaces": ["br0", "eth0", "lo"]})
    assert host_facts.network_targets(host) == [("br0", "bridge"), ("eth0", "NIC")]
    assert "it has br0" in host_facts.lacks_target(host, nspawn.NETWORK_MODES["bridge"], "br9")
    assert host_facts.lacks_target(host, nspawn.NETWORK_MODES["bridge"], "br0") == ""
    assert host_facts.lacks_target(host, nspawn.NETWORK_MODES["macvlan"], "eth0") == ""
    assert host_facts.lacks_target(host, nspawn.NETWORK_MODES["zone"], "any") == ""


@pytest.mark.parametrize(
    ("policy", "recipe", "about"),
    [
        ({"unverified_pulls": "refused"}, {"verify": "none"}, ["verify"]),
        ({"unverified_pulls": "allowed"}, {"verify": "none"}, []),
        ({egress_rules.RULE: []}, {"url": "http://10.9.8.7/a.tar.xz", "sha256": "a" * 64}, ["url"]),
        ({egress_rules.RULE: ["10.0.0.0/8"]}, {"url": "http://10.9.8.7/a.tar.xz", "sha256": "a" * 64}, []),
    ],
)
def test_what_keeps_a_host_from_building_a_pulled_image(policy, recipe, about):
    host = Host(name="alpha", facts={"policy": policy})
    wanted = recipes.PullRecipe(**{"url": "https://images.example.org/a.tar.xz", "verify": "sha256", **recipe})
    assert [each.about for each in builds.obstacles(host, wanted)] == about


@pytest.mark.django_db
def test_a_name_is_taken_by_a_machine_that_is_there(web):
    assert builds.taken(web.host, "web", web.team_id).startswith("alpha already has a machine web;")
    assert builds.taken(web.host, "web", make.team("lab").pk).startswith(
        "On alpha the name web is taken by another team;"
    )
    type(web).objects.update(state="missing")
    assert builds.taken(web.host, "web", web.team_id) == ""
    assert builds.taken(web.host, "web", make.team("lab").pk).startswith(
        "On alpha the name web is taken by another team;"
    )
