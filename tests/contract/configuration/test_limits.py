"""Limits: the drop-in, and what systemd says once they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.contract.configuration import limits, nspawn

GOOD = {key: prop.example or prop.words[-1] for key, prop in limits.PROPERTIES.items()}
BY_HAND = "[Unit]\nWants=x.service\n\n[Service]\n# tight\nEnvironment=A=1\nMemoryMax=1G\n"


def test_the_table_is_whole():
    for key, prop in limits.PROPERTIES.items():
        prop.check(GOOD[key])
        assert prop.help.endswith(".")
        if prop.default:
            prop.check(prop.default)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.just(""), max_size=10))
def test_what_is_written_is_read_back(chosen):
    wanted = {key: GOOD[key] for key in chosen}
    text = limits.dropin(wanted)
    assert limits.read(text) == wanted
    assert (text == "") == (not wanted)
    assert limits.check(text) == []


def test_lines_we_do_not_know_are_kept():
    text = limits.dropin({"MemoryMax": "2G"}, BY_HAND)
    assert text == BY_HAND.replace("MemoryMax=1G", "MemoryMax=2G")


def test_our_first_line_does_not_pile_up():
    assert (
        limits.dropin({"MemoryMax": "2G"}, nspawn.mark("[Service]\nMemoryMax=2G\n", 3)) == "[Service]\nMemoryMax=2G\n"
    )


def test_taking_the_last_limit_away_leaves_no_file():
    assert limits.dropin({}, "[Service]\nMemoryMax=1G\n") == ""
    assert limits.dropin({}, BY_HAND) == BY_HAND.replace("MemoryMax=1G\n", "")


def test_the_last_assignment_wins_and_an_empty_one_resets():
    assert limits.read("[Service]\nMemoryMax=1G\nMemoryMax=2G\n") == {"MemoryMax": "2G"}
    assert limits.read("[Service]\nMemoryMax=1G\nMemoryMax=\n") == {}
    assert limits.read("[Unit]\nMemoryMax=1G\n") == {}


def test_check_names_what_systemd_would_ignore():
    found = limits.check("[Service]\nCPUQuota=150\nMemoryMax=512m\nTasksMax=100\nNice=5\n")
    assert [key for key, _ in found] == ["CPUQuota", "MemoryMax"]


@pytest.mark.parametrize(
    ("key", "wanted", "shown"),
    [
        ("MemoryMax", "128M", "134217728"),
        ("MemoryMax", "infinity", "infinity"),
        ("MemoryMax", "50%", "4294967296"),
        ("CPUQuota", "150%", "1500000"),
        ("CPUQuota", "12.5%", "125000"),
        ("CPUWeight", "idle", "0"),
        ("CPUWeight", "200", "200"),
        ("TasksMax", "100", "100"),
    ],
)
def test_what_systemd_shows_once_it_holds(key, wanted, shown):
    assert limits.effective(key, wanted, 8 << 30) == shown
