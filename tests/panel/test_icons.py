"""The sprite holds the icons that pages name, drawn as Bootstrap Icons draws them, and no other."""

import re
from pathlib import Path

import pytest

from nspawnpanel import icons

ROOT = Path(__file__).parent.parent.parent
TEMPLATES = "\n".join(path.read_text() for path in (ROOT / "templates").rglob("*.html"))
CODE = "\n".join(
    path.read_text() for room in ("panel", "templatetags") for path in (ROOT / "machines" / room).rglob("*.py")
)
NAMED = re.compile(r'{% (?:icon|nav_link "[^"]+") "([^"]+)"|\bdrawing="([^"]+)"')


def test_every_icon_that_a_template_names_is_in_the_sprite():
    named = {first or second for first, second in NAMED.findall(TEMPLATES)}
    assert len(named) > 50
    assert named - icons.names() == set()


def test_every_icon_of_the_sprite_is_named_somewhere():
    assert {name for name in icons.names() if f'"{name}"' not in TEMPLATES + CODE} == set()


def test_the_sprite_is_what_its_drawings_make_of_it():
    if not icons.DRAWINGS.is_dir():
        pytest.skip("npm ci has not run")
    assert icons.SPRITE.read_text() == icons.sprite(icons.names())


def test_icons_are_drawn_once_in_the_order_of_names(tmp_path, monkeypatch):
    if not icons.DRAWINGS.is_dir():
        pytest.skip("npm ci has not run")
    monkeypatch.setattr(icons, "NAMES", tmp_path / "icons.txt")
    monkeypatch.setattr(icons, "SPRITE", tmp_path / "icons.svg")
    icons.NAMES.write_text("trash\nhammer\nhammer\nbox\n")
    assert icons.main() == 0
    assert re.findall(r'<symbol id="([a-z0-9-]+)"', icons.SPRITE.read_text()) == ["box", "hammer", "trash"]


def test_an_icon_nobody_drew_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(icons, "NAMES", tmp_path / "icons.txt")
    monkeypatch.setattr(icons, "SPRITE", tmp_path / "icons.svg")
    icons.NAMES.write_text("no-such-icon\n")
    assert icons.main() == 1
    assert "no-such-icon" in capsys.readouterr().err
    assert not icons.SPRITE.exists()
