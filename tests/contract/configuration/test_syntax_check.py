"""What is said of a file as somebody typed it, and how typed text keeps its line ends."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from machines.contract.configuration import syntax_check
from tests.documents import documents, dropins

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=12), max_size=8)


def said(text: str, before: str = "") -> list[tuple[int, bool, str]]:
    return [(remark.line, remark.fatal, remark.text) for remark in syntax_check.settings_file(text, before)]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[Exec]\n\n# note\nPrivateUsers=piick\n", 4, "Give pick"),
        ("[Exec]\nThis is garbage\n", 2, "neither a setting"),
        ("[Files\nReadOnly=yes\n", 1, "neither a setting"),
        ("[Bogus]\nBoot=yes\n", 1, "is not a known section"),
        ("Boot=yes\n", 1, "outside any section"),
        ("[Exec]\nEnvironment=A=b\\\nBoot=no\n", 2, "joins this line with the next"),
        ("[Exec]\nBoot=yes\n[Files]\n[Exec]\nBoot=no\n", 5, "has another value in line 2"),
        ("[Exec]\r\nBoot=perhaps\r\n", 2, "not yes or no"),
    ],
)
def test_what_would_be_dropped_is_refused_with_its_line(text, line, words):
    found = [(at, sentence) for at, fatal, sentence in said(text) if fatal]
    assert found[0][0] == line
    assert words in found[0][1]


def test_a_line_that_was_there_may_stay():
    before = "[Exec]\nBoot=perhaps\n"
    assert [fatal for _, fatal, _ in said(before + "Ephemeral=maybe\n", before)] == [False, True]


def test_what_is_not_known_is_told_and_kept():
    assert said("[Exec]\nX-Later=1\n") == [(2, False, "X-Later= of [Exec] is not known here; systemd may ignore it.")]


def test_the_same_said_twice_is_only_told():
    assert said("[Exec]\nBoot=yes\nBoot=true\n") == [(3, False, "Boot= repeats line 2.")]


def test_a_drop_in_knows_its_own_sections():
    found = syntax_check.dropin("[Service]\nMemoryMax=512MB\n[Unit]\nAfter=x\n[Exec]\n")
    assert [(remark.line, remark.name) for remark in found if remark.fatal] == [
        (2, "Service.MemoryMax"), (4, "Unit.After"), (5, ""),
    ]  # fmt: skip


@given(documents(), dropins())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_we_write_is_good(text, unit):
    assert syntax_check.settings_file(text) == []
    assert syntax_check.dropin(unit) == []


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_text_that_comes_back_from_a_browser_unchanged_is_unchanged(lines, end, closed):
    before = end.join(lines) + (end if closed and lines else "")
    typed = before.replace("\r\n", "\n").replace("\n", "\r\n")
    assert syntax_check.with_ends_of(before, typed) == before


def test_lines_that_are_left_alone_keep_their_ends():
    assert syntax_check.with_ends_of("a\r\nb\r\nc\n", "a\r\nnew\r\nb\r\nc\r\n") == "a\r\nnew\nb\r\nc\n"
    assert syntax_check.with_ends_of("", "a\r\nb") == "a\nb"
