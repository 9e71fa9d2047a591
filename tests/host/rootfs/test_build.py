"""What a build is, before anything of it begins."""

import json
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import DebianRecipe, FirstBoot
from machines.host.rootfs import build
from machines.host.storage import base_images
from machines.host.storage.base_images import Base


def test_its_steps_are_those_the_panel_names_before_they_begin():
    assert tuple(step.__name__.rstrip("_") for step in build.STEPS) == orders.Build.phases


@pytest.mark.parametrize(
    ("answers", "is_instant"),
    [
        (FirstBoot(locale="de_DE.UTF-8"), True),
        (FirstBoot(locale="fr_FR.UTF-8"), False),
        (FirstBoot(locale="de_DE.UTF-8", timezone="Europe/Berlin"), False),
        (FirstBoot(), True),
    ],
)
def test_a_copy_of_a_base_in_whose_tree_a_locale_must_be_made_is_no_swift_one(paths, monkeypatch, answers, is_instant):
    recipe = DebianRecipe(release="bookworm")
    key = build.recipe_key(recipe, answers)
    base = Base("0", key, "", time.time(), 1, [], "", locale="de_DE.UTF-8", timezone="UTC")
    paths.bases.mkdir()
    (paths.bases / "0.json").write_text(json.dumps(asdict(base)))
    paths.base("0").mkdir()
    monkeypatch.setattr(base_images, "is_snapshot", lambda *_: True)
    files = orders.Configuration(revision=1, nspawn=nspawn.mark("", 1), limits="")
    order = orders.Build(name="web", recipe=recipe, first_boot=answers, configuration=files)
    assert build.is_instant(SimpleNamespace(paths=paths), order) is is_instant
