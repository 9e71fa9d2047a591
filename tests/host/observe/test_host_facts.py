"""What a host tells of itself."""

import json
import os
import threading
from dataclasses import asdict, replace

from machines.host.observe import host_facts
from machines.host.policy.policy import Policy
from machines.host.storage.base_images import Base
from machines.host.system import guarded
from machines.host.system.paths import Paths


def test_its_bases_are_told_and_those_without_a_tree_are_not(paths: Paths) -> None:
    paths.bases.mkdir()
    for number, has_tree in (("a" * 16, True), ("b" * 16, False)):
        base = Base(
            id=number, key="k" * 64, title="Debian bookworm · vim", built=1_700_000_000.0, bytes=5,
            packages=["vim 1", "bash 2"], job="00000000-0000-0000-0000-000000000001",
        )  # fmt: skip
        (paths.bases / f"{number}.json").write_text(json.dumps(asdict(base)))
        if has_tree:
            paths.base(number).mkdir()
    told = host_facts.read(paths, Policy(), networkd=False).bases
    assert [(base.id, base.title, base.packages) for base in told] == [("a" * 16, "Debian bookworm · vim", 2)]
    assert told[0].used > told[0].built


def test_a_link_of_any_name_spoils_no_report(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(host_facts, "NET", tmp_path)
    for name in (b"br\xe9/bridge", b"lo", b"eth0"):
        os.makedirs(os.fsencode(tmp_path) + b"/" + name)
    told = host_facts.links()
    assert (told.bridges, told.interfaces) == (["br�"], ["br�", "eth0"])


def test_a_pool_that_does_not_answer_holds_up_no_report(paths: Paths, dead_mount, monkeypatch) -> None:
    monkeypatch.setattr(guarded, "SECONDS", 0.2)
    paths.bases.mkdir()
    base = Base(id="a" * 16, key="k", title="", built=1.0, bytes=5, packages=[], job="")
    (paths.bases / f"{base.id}.json").write_text(json.dumps(asdict(base)))
    told = []
    hung = replace(paths, machines=dead_mount)
    reading = threading.Thread(target=lambda: told.append(host_facts.read(hung, Policy(), networkd=False)), daemon=True)
    reading.start()
    reading.join(20)
    assert [(fact.disk_total, fact.bases) for fact in told] == [(0, [])]
