"""Names: what systemd takes, what we take for new ones, and that nothing else gets through."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.contract.names import host_name, machine_name, new_machine_name
from machines.contract.problems import BadValue


@pytest.mark.parametrize("name", ["web", "a", "web-1", "Web", "db.example", "1", "a" * 64, "a.b.c-d"])
def test_a_machine_may_be_called(name):
    assert machine_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".host", "host", "HOST", "localhost", "-web", "web-", "web_1", "a..b", ".web", "web.", "a/b", "../etc", "web 1",
     "web\n", "a" * 65, "ẅeb", "web\0", "--help", "$(id)", "٣"],
)  # fmt: skip
def test_a_machine_may_not_be_called(name):
    with pytest.raises(BadValue):
        machine_name(name)


@pytest.mark.parametrize("name", ["web", "1", "web-1", "a" * 63])
def test_a_new_machine_may_be_called(name):
    assert new_machine_name(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "Give the machine a name"),
        ("localhost", "refers to the host itself"),
        ("a" * 64, "at most 63 characters; this one has 64"),
        ("Web", "lower-case letters"),
        ("web.example", "lower-case letters"),
        ("web\n", "lower-case letters"),
        ("-web", "lower-case letters"),
    ],
)
def test_a_new_name_is_refused_with_a_sentence(name, said):
    with pytest.raises(BadValue, match=said) as refusal:
        new_machine_name(name)
    assert refusal.value.field == "name"


@pytest.mark.parametrize("name", ["alpha", "rack2.example", "a", "10"])
def test_a_host_may_be_called(name):
    assert host_name(name) == name


@pytest.mark.parametrize("name", ["", "Alpha", "-a", "a-", "a/b", "a" * 64, "a b", "a\n"])
def test_a_host_may_not_be_called(name):
    with pytest.raises(BadValue):
        host_name(name)


@given(st.text(max_size=80))
def test_what_passes_is_one_harmless_word(text):
    for check in (machine_name, new_machine_name, host_name):
        try:
            check(text)
        except BadValue:
            continue
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", text)


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True))
def test_a_new_name_is_a_machine_name_too(text):
    try:
        new_machine_name(text)
    except BadValue:
        return
    assert machine_name(text) == text
