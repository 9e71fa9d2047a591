"""A base that is being discarded is no base any more, in whatever step that ends."""

import json
from dataclasses import asdict

from machines.host.storage import base_images
from machines.host.storage.base_images import Base
from tests.host.killed import dies_before

ID = "0123456789abcdef"
BASE = Base(ID, "key", "Debian", 5.0, 1, ["a 1"], "")


def make(paths) -> None:
    for number in range(5):
        (paths.base(ID) / f"usr/{number}").mkdir(parents=True)
    paths.bases.mkdir(exist_ok=True)
    (paths.bases / f"{ID}.json").write_text(json.dumps(asdict(BASE)))


def test_half_a_tree_is_never_taken_for_a_base_and_can_be_made_anew(paths):
    change, killed = 0, True
    while killed:
        change += 1
        make(paths)
        killed = dies_before(change, lambda: base_images.remove(paths, ID))
        found = base_images.find(paths, "key")
        assert found is None or len(list((paths.base(ID) / "usr").iterdir())) == 5, change
        if found is None:
            aside = paths.machines / ".nspawnpanel-job.base"
            (aside / "whole").mkdir(parents=True)
            base_images.publish(paths, BASE, aside)
            assert [path.name for path in paths.base(ID).iterdir()] == ["whole"], change
        assert base_images.remove(paths, ID) is True
        assert list(paths.machines.iterdir()) == []
    assert change > 3
    assert base_images.remove(paths, ID) is False
