"""Routes: every host has keys of its own, and no rule reaches beyond them."""

from uuid import uuid4

import pytest

from machines.contract import routes


def test_names_of_two_hosts_do_not_meet():
    one, other = str(uuid4()), str(uuid4())
    assert routes.queue(one) != routes.queue(other)
    assert not routes.stream(one).startswith(routes.prefix(other))


def test_a_host_is_confined_to_its_own_prefix():
    one = str(uuid4())
    keys = [word.strip("()") for rule in routes.host_acl(one) for word in rule.split() if "~" in word]
    assert keys
    assert all(word.split("~")[1].startswith(routes.prefix(one)) for word in keys)


def test_every_user_begins_with_nothing():
    for rules in (routes.host_acl("x"), routes.courier_acl(), routes.guard_acl(), routes.web_acl()):
        assert rules[:4] == ["resetkeys", "resetchannels", "clearselectors", "-@all"]
        assert not any(
            word in rule
            for rule in rules
            for word in ("+@", "~*", "+eval", "+config|set", "allkeys", "+keys", "+select")
        )


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("redis://alpha:secret@panel.example:6379/0", ""),
        ("rediss://panel.example:6379", ""),
        ("rediss://panel.example:6379/", ""),
        ("unix:///run/redis.sock", ""),
        ("redis+socket:///run/redis.sock?virtual_host=0", ""),
        ("redis://panel.example:6379/3", "3"),
        ("redis://panel.example:6379/0?db=4", "4"),
        ("unix:///run/redis.sock?db=1", "1"),
        ("redis+socket:///run/redis.sock?virtual_host=7", "7"),
    ],
)
def test_an_address_says_whether_it_leads_to_another_database(url, number):
    assert routes.other_database(url) == number
