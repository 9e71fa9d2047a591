"""Differences between two configurations."""

from hypothesis import given
from hypothesis import strategies as st

from machines.panel.configs.diffs import Files, settings, unified, words

TEXTS = st.lists(st.sampled_from(["a", "b", "Port=80", "Port=8080:80", ""]), max_size=12).map("\n".join)


def signs(before: str, after: str) -> list[str]:
    return [line.sign + "".join(text for text, _ in line.parts) for line in unified(before, after)]


def test_a_changed_line_is_taken_away_and_added():
    assert signs("a\nPort=80\nb\n", "a\nPort=81\nb\n") == [" a", "-Port=80", "+Port=81", " b"]


def test_only_what_surrounds_a_change_is_shown():
    before = "\n".join(map(str, range(40)))
    shown = signs(before, before.replace("20", "x"))
    assert shown == ["@line 18", " 17", " 18", " 19", "-20", "+x", " 21", " 22", " 23"]


def test_the_words_that_differ_are_marked():
    left, right = words("Port=tcp:8080:80", "Port=tcp:8080:8000")
    assert left == [("Port=tcp:8080:", False), ("80", True)]
    assert right == [("Port=tcp:8080:", False), ("8000", True)]


def test_lines_with_nothing_in_common_are_not_marked():
    assert words("abc", "xyz") == ([("abc", False)], [("xyz", False)])


def test_the_same_twice_is_no_difference():
    assert unified("a\nb", "a\nb") == []


@given(TEXTS, TEXTS)
def test_nothing_is_lost_in_parts(before, after):
    lines = unified(before, after)
    minus = ["".join(text for text, _ in line.parts) for line in lines if line.sign == "-"]
    plus = ["".join(text for text, _ in line.parts) for line in lines if line.sign == "+"]
    assert sorted(before.splitlines() + plus) == sorted(after.splitlines() + minus)


def test_settings_know_when_they_act():
    changes = settings(Files("", "[Service]\nMemoryMax=1G\n"), Files("[Network]\nPort=1\nPort=2\n", ""))
    found = {change.key: (change.section, change.before, change.after, change.effect) for change in changes}
    assert found == {
        "MemoryMax": ("Limits", ["1G"], [], "live"),
        "Port": ("Network", [], ["1", "2"], "restart"),
    }
