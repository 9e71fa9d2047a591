"""Programs' colours as classes; everything else as harmless text."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.panel.logs.ansi import plain, render

CASES = {
    "plain text": ("hello", "hello"),
    "markup is text": ('<b onclick="x">&', "&lt;b onclick=&quot;x&quot;&gt;&amp;"),
    "a colour": ("\x1b[31mred\x1b[0m plain", '<span class="sgr-fg-1">red</span> plain'),
    "an empty code resets": ("\x1b[31mred\x1b[m plain", '<span class="sgr-fg-1">red</span> plain'),
    "a bright colour": ("\x1b[92mok", '<span class="sgr-fg-10">ok</span>'),
    "bold, dim, underline": ("\x1b[1;2;4mx", '<span class="sgr-bold sgr-dim sgr-underline">x</span>'),
    "bold and dim off together": ("\x1b[1;2ma\x1b[22mb", '<span class="sgr-bold sgr-dim">a</span>b'),
    "ink and ground": ("\x1b[97;41m FAIL ", '<span class="sgr-fg-15 sgr-bg-1"> FAIL </span>'),
    "default ink keeps the rest": ("\x1b[1;31ma\x1b[39mb", '<span class="sgr-bold sgr-fg-1">a</span><span class="sgr-bold">b</span>'),
    "256, one of the sixteen": ("\x1b[38;5;9mx", '<span class="sgr-fg-9">x</span>'),
    "256, the cube": ("\x1b[38;5;196mx", '<span class="sgr-fg-9">x</span>'),
    "256, a grey": ("\x1b[38;5;240mx", '<span class="sgr-fg-8">x</span>'),
    "true colour": ("\x1b[38;2;0;200;0mx", '<span class="sgr-fg-2">x</span>'),
    "true colour with colons": ("\x1b[38:2::0:200:0mx", '<span class="sgr-fg-2">x</span>'),
    "the code after a true colour counts": ("\x1b[38;2;0;200;0;1mx", '<span class="sgr-bold sgr-fg-2">x</span>'),
    "a colour out of range is ignored": ("\x1b[38;5;999mx", "x"),
    "unknown codes are ignored": ("\x1b[3;7;53;1mx", '<span class="sgr-bold">x</span>'),
    "a colour without effect cuts nothing": ("a\x1b[0mb", "ab"),
    "carriage return keeps the last state": ("10%\r50%\r100%", "100%"),
    "a carriage return at the end overwrites nothing": ("done\r", "done"),
    "colour survives a carriage return": ("\x1b[32m10%\r100%", '<span class="sgr-fg-2">100%</span>'),
    "cursor, erase, modes are dropped": ("\x1b[2J\x1b[1;1H\x1b[?25lx\x1b[K", "x"),
    "titles are dropped": ("\x1b]0;title\x07x", "x"),
    "hyperlinks keep their text alone": ("\x1b]8;;javascript:alert(1)\x1b\\click\x1b]8;;\x1b\\", "click"),
    "strings are dropped": ("\x1bPq#0;2;0\x1b\\x", "x"),
    "character sets are dropped": ("\x1b(Bx\x1b=", "x"),
    "an escape cut short": ("x\x1b[3", "x"),
    "a title cut short": ("x\x1b]0;title", "x"),
    "the eight-bit introducer": ("\x9b31mx", '<span class="sgr-fg-1">x</span>'),
    "control characters": ("a\x00\x07\x08b\x7f", "ab"),
    "a tab stays": ("a\tb", "a\tb"),
    "reading direction cannot be turned": ("a\u202eb\u2066c", "abc"),
    "a link": ("see https://x.org/a?b=1&c=2.", 'see <a href="https://x.org/a?b=1&amp;c=2" rel="noopener noreferrer">https://x.org/a?b=1&amp;c=2</a>.'),
    "a link in brackets": ("(http://x.org)", '(<a href="http://x.org" rel="noopener noreferrer">http://x.org</a>)'),
    "no link without an address": ("https:// and javascript:alert(1)", "https:// and javascript:alert(1)"),
    "a link cannot leave its attribute": ('https://x.org/"onx=1', '<a href="https://x.org/" rel="noopener noreferrer">https://x.org/</a>&quot;onx=1'),
}  # fmt: skip

ALLOWED = re.compile(
    r'<span class="(?:sgr-(?:bold|dim|underline|fg-1?\d|bg-1?\d) ?)+">|</span>'
    r'|<a href="https?://[^"<>]*" rel="noopener noreferrer">|</a>'
)


@pytest.mark.parametrize(("line", "html"), CASES.values(), ids=CASES)
def test_a_line(line, html):
    assert render(line) == html


PIECES = st.sampled_from(["\x1b[", "\x1b]8;;", "\x1b", "\x9b", "38;5;", "38:2:", "31", ";", "m", "\r", "<script>", '"', "'", "&", "https://", "a.b"])  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=30).map("".join))
def test_nothing_but_our_own_tags_comes_out(line):
    rest = ALLOWED.sub("", render(line))
    assert "<" not in rest
    assert ">" not in rest
    assert '"' not in rest
    assert "\x1b" not in rest


@given(st.text(st.characters(blacklist_categories=["Cc", "Cf", "Cs"])))
def test_plain_text_stays_itself(text):
    assert plain(text) == text


@pytest.mark.parametrize("piece", ["\x1b[", "\x1b]", "\x1b[0;", "https://", "\x1b[38;5;", "\x1bP", "(", "\r"])
def test_a_hostile_line_costs_little(piece):
    line = piece * (16_384 // len(piece))
    began = time.perf_counter()
    render(line)
    assert time.perf_counter() - began < 0.5
