"""Which addresses a pull may reach, in every spelling."""

from ipaddress import ip_address

import pytest

from machines.contract.configuration import egress_rules

DEFAULT = ("public", "private")
SELF, NEAR, NOBODY = (
    "the host itself",
    "a link-local address or a cloud's metadata service",
    "a multicast or reserved address",
)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("93.184.216.34", "public"), ("2606:2800:220:1::1", "public"),
        ("10.0.2.2", "private"), ("172.31.0.1", "private"), ("192.168.1.1", "private"), ("100.64.0.1", "private"),
        ("fd12::1", "private"), ("172.32.0.1", "public"),
        ("127.0.0.1", SELF), ("127.8.8.8", SELF), ("::1", SELF), ("0.0.0.0", SELF), ("::", SELF), ("0.1.2.3", SELF),
        ("::ffff:127.0.0.1", SELF), ("64:ff9b::7f00:1", SELF), ("2002:7f00:1::", SELF), ("::127.0.0.1", SELF),
        ("169.254.169.254", NEAR), ("::ffff:169.254.169.254", NEAR), ("fe80::1", NEAR), ("fd00:ec2::254", NEAR),
        ("100.100.100.200", NEAR), ("168.63.129.16", NEAR), ("64:ff9b::a9fe:a9fe", NEAR),
        ("224.0.0.1", NOBODY), ("255.255.255.255", NOBODY), ("ff02::1", NOBODY),
    ],
)  # fmt: skip
def test_every_address_is_of_a_kind(address: str, kind: str) -> None:
    assert egress_rules.what(ip_address(address)) == kind
    assert egress_rules.may_reach(ip_address(address), DEFAULT) is (kind in DEFAULT)


def test_an_address_of_the_host_is_not_just_a_private_one() -> None:
    address = ip_address("10.1.1.1")
    assert egress_rules.may_reach(address, DEFAULT)
    assert not egress_rules.may_reach(address, DEFAULT, is_own=True)
    assert egress_rules.may_reach(address, (*DEFAULT, "10.1.1.0/24"), is_own=True)


def test_a_network_of_the_rule_opens_itself_and_nothing_more() -> None:
    rules = ("127.0.0.2", "10.0.0.0/8")
    for address, may in (
        ("127.0.0.2", True), ("::ffff:127.0.0.2", True), ("127.0.0.1", False), ("10.9.9.9", True), ("8.8.8.8", False),
    ):  # fmt: skip
        assert egress_rules.may_reach(ip_address(address), rules) is may, address
    assert not egress_rules.may_reach(ip_address("8.8.8.8"), ())


@pytest.mark.parametrize("word", ["", "all", "Public", "10.0.0.1/8", "mirror.example", "127.0.0.1:80"])
def test_the_rule_takes_no_other_words(word: str) -> None:
    with pytest.raises(ValueError, match=r".|^$"):
        egress_rules.check_rule(word)


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("http://127.0.0.1:8099/x", "127.0.0.1"), ("https://[::1]/x", "::1"), ("http://mirror.example/", None),
        ("http://2130706433/", None), ("http://[::1", None), ("", None),
    ],
)  # fmt: skip
def test_a_number_in_a_url_is_known_before_anything_is_asked(url: str, number: str | None) -> None:
    found = egress_rules.literal(url)
    assert (str(found) if found else None) == number


def test_the_refusal_says_what_leads_there_and_what_would_allow_it() -> None:
    problem = egress_rules.refusal("in.example", ip_address("::ffff:10.0.0.1"), is_own=True, via="a.example")
    assert "a.example redirects to in.example, which resolves to 10.0.0.1, the host itself" in problem.message
    assert "add “10.0.0.1” to the rule “pull_addresses”" in problem.hint
    assert "10.0.0.1 is a private address" in egress_rules.refusal("10.0.0.1", ip_address("10.0.0.1")).message
