"""Routes: every host has keys of its own, and no rule reaches beyond them."""

from uuid import uuid4

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
    for rules in (routes.host_acl("x"), routes.courier_acl(), routes.web_acl()):
        assert rules[:3] == ["resetkeys", "resetchannels", "-@all"]
        assert not any(word in rule for rule in rules for word in ("+@", "~*", "+eval", "+config", "allkeys", "+keys"))
