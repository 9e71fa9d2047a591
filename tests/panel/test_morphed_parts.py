"""What a refresh may turn into something else has an id of its own, for a morph keeps handlers: Cancel must not become Open."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).parent.parent.parent / "templates"
LIVE = "{% live "
TAG = re.compile(r"<(form|button|a|details|dialog|input|select|textarea)\b((?:[^<>{]|{{.*?}}|{%.*?%})*)>|</form>")
COMMENT = re.compile(r"{% comment %}.*?{% endcomment %}", re.DOTALL)
ACTS = re.compile(r"\bhx-|{% opens_dialog|\bdata-(copy|dialog-open|bs-toggle)|\brole=")


def text(name: str) -> str:
    return COMMENT.sub("", (TEMPLATES / name).read_text())


def live_parts() -> list[str]:
    names = [str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*.html")]
    return sorted(name for name in names if LIVE in text(name))


def reached(name: str, found: set[str]) -> set[str]:
    if name not in found:
        found.add(name)
        for included in re.findall(r'{% include "([^"]+)"', text(name)):
            reached(included, found)
    return found


def nameless(name: str) -> Iterator[str]:
    """Forms, folds, fields, and links and buttons with a behaviour of their own, that have no id. Fields and buttons of
    a form are told apart by their form."""
    in_form = False
    for tag in TAG.finditer(text(name)):
        if tag[0] == "</form>":
            in_form = False
            continue
        kind, attributes = tag[1], tag[2]
        needs_id = {"form": True, "details": True, "dialog": True, "a": bool(ACTS.search(attributes))}.get(
            kind, not in_form or bool(ACTS.search(attributes))
        )
        in_form = in_form or kind == "form"
        if needs_id and not re.search(r'\bid="', attributes):
            yield tag[0][:120]


def test_there_are_live_parts_to_look_at():
    assert {"jobs/_status.html", "machines/_machine.html", "machines/_list.html", "presets/_group.html"} <= set(
        live_parts()
    )


@pytest.mark.parametrize("part", live_parts())
def test_every_control_of_a_live_part_has_an_id(part):
    found = {name: list(nameless(name)) for name in sorted(reached(part, set()))}
    assert not {name: tags for name, tags in found.items() if tags}
