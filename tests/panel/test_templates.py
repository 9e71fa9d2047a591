"""Templates are read by people: one element a line, no line too long, and what stands in many of them is a tag."""

import re
from pathlib import Path

import pytest
from django.template import engines
from django.template.loader import get_template

ROOT = Path(__file__).parent.parent.parent / "templates"
FILES = sorted(ROOT.rglob("*.html"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
AT_MOST = 120
ROWS = "td|th|tr|li|dt|dd|div|p|section|form|table|thead|tbody|ul|ol|dl|h1|h2|h3|fieldset|legend|caption|option"
SIBLINGS = re.compile(rf"</(?:{ROWS})>\s*(?:{{%[^%]*%}}\s*)*<(?:{ROWS})\b")
# Attributes and elements that a tag writes, and no template: (text, tag, where it may stand all the same)
TAGS = [
    ("panel:tick", "live", {"_running_jobs.html"}),  # the counter asks less often than the rest of a page
    ("input changed delay", "live_filter", set()),
    ('hx-target="#dialog-slot"', "opens_dialog", set()),
    ("<dt", "fact", set()),
    ('{% icon "three-dots" %}', "row_menu", set()),
]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_line_is_too_long(path):
    assert [line for line in lines(path) if len(line) > AT_MOST] == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_elements_that_follow_each_other_stand_on_lines_of_their_own(path):
    assert [line for line in lines(path) if SIBLINGS.search(line)] == []


@pytest.mark.parametrize(("text", "tag", "but"), TAGS, ids=[tag for _, tag, _ in TAGS])
def test_what_many_pages_have_alike_is_a_tag(text, tag, but):
    found = {name for name, path in zip(NAMES, FILES, strict=True) if text in path.read_text()}
    assert found - but == set(), f"{{% {tag} %}} writes that"


def test_a_cell_is_called_on_a_narrow_screen_as_its_column_is_on_a_wide_one():
    called = []
    for name, path in zip(NAMES, FILES, strict=True):
        for table in re.findall(r"<table.*?</table>", path.read_text(), re.DOTALL):
            columns = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table, re.DOTALL)
            if any("{{" in column for column in columns):
                continue
            words = {text.strip() for column in columns for text in re.split(r"<[^>]+>|{%.*?%}", column)}
            called += [(name, label, label in words) for label in re.findall(r'data-label="([^"{]*)"', table)]
    assert len(called) > 40
    assert [(name, label) for name, label, is_known in called if not is_known] == []


def test_indentation_does_not_travel():
    source = get_template("machines/_row.html").template.source
    assert (ROOT / "machines/_row.html").read_text().count("\n    ") > 5
    assert "\n " not in source
    assert source.count("\n") == (ROOT / "machines/_row.html").read_text().count("\n")


def test_white_space_that_shows_is_no_templates():
    """The text of <pre> and <textarea> comes from variables, for the loader takes away what lines begin with."""
    verbatim = re.compile(r"<(pre|textarea)\b(?:[^<>{]|{{.*?}}|{%.*?%})*>(.*?)</\1>", re.DOTALL)
    found = [
        (name, text) for name, path in zip(NAMES, FILES, strict=True) for _, text in verbatim.findall(path.read_text())
    ]
    assert len(found) > 10
    assert [(name, text) for name, text in found if re.search(r"^[ \t]", text, re.MULTILINE)] == []


def test_a_text_keeps_the_white_space_that_a_variable_has():
    page = engines["django"].from_string("<pre>{{ text }}</pre>").render({"text": "a\n  b"})
    assert page == "<pre>a\n  b</pre>"


def test_a_command_to_copy_is_one_line():
    """White space of a command shows and is copied."""
    codes = re.compile(r'<code id="[^"]+"[^<>]*>(.*?)</code>', re.DOTALL)
    found = [(name, text) for name, path in zip(NAMES, FILES, strict=True) for text in codes.findall(path.read_text())]
    assert len(found) > 3
    assert [(name, text) for name, text in found if "\n" in text] == []


TAGS_IN = r"{%.*?%}|{{.*?}}"
VALUE = re.compile(
    rf"""\s([\w:-]+)=("(?:{TAGS_IN}|[^"{{]|{{(?![%{{]))*"|'(?:{TAGS_IN}|[^'{{]|{{(?![%{{]))*')""", re.DOTALL
)
COMMENT = re.compile(r"{% comment %}.*?{% endcomment %}", re.DOTALL)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_line_ends_within_a_value(path):
    """A break would be part of it: htmx does not read `hx-params="not⏎password"` as leaving out the password."""
    found = {name: value for name, value in VALUE.findall(" " + COMMENT.sub("", path.read_text())) if "\n" in value}
    found.pop("content", None)  # JSON of a <meta>
    assert found == {}
