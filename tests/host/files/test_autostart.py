"""Which machines start with the host: those that systemd would start, whoever made the link and wherever it is."""

import pytest

from machines.host.files import autostart

WEB = "systemd-nspawn@web.service"


@pytest.fixture
def boot(paths):
    """A host that boots into multi-user.target, as its distribution made it."""
    [vendor] = paths.vendor_units
    vendor.mkdir()
    (vendor / "multi-user.target").write_text("[Unit]\nRequires=basic.target\nAfter=machines.target\n")
    (vendor / "basic.target").write_text("[Unit]\nWants=sockets.target\n")
    (vendor / "default.target").symlink_to("multi-user.target")
    (vendor / "multi-user.target.wants").mkdir()
    (vendor / "multi-user.target.wants/getty.target").symlink_to("../getty.target")
    return paths


def link(paths, puller: str, unit: str = WEB, ending: str = "wants") -> None:
    folder = paths.units / f"{puller}.{ending}"
    folder.mkdir(exist_ok=True)
    (folder / unit).symlink_to("/usr/lib/systemd/system/systemd-nspawn@.service")


def test_a_link_below_machines_target_counts_when_that_is_enabled(boot):
    link(boot, "machines.target")
    assert (autostart.enabled(boot), autostart.linked(boot)) == (frozenset(), {"web"})
    assert not autostart.has_target(boot)
    link(boot, "multi-user.target", "machines.target")
    assert autostart.enabled(boot) == {"web"}
    assert autostart.has_target(boot)


@pytest.mark.parametrize(
    "puller", ["multi-user.target", "basic.target", "sockets.target", "getty.target", "default.target"]
)
def test_a_link_below_whatever_the_boot_reaches_counts_without_it(boot, puller):
    link(boot, puller)
    assert autostart.enabled(boot) == {"web"}
    assert not autostart.has_target(boot)


@pytest.mark.parametrize(("puller", "ending"), [("db.service", "requires"), ("srv.mount", "upholds")])
def test_a_link_below_a_service_counts_when_that_is_started(boot, puller, ending):
    link(boot, puller, ending=ending)
    assert autostart.enabled(boot) == frozenset()
    link(boot, "multi-user.target", puller)
    assert autostart.enabled(boot) == {"web"}


def test_links_below_what_no_boot_reaches_do_not_count(boot):
    link(boot, "rescue.target")
    link(boot, "graphical.target")
    assert (autostart.enabled(boot), autostart.linked(boot)) == (frozenset(), {"web"})
    (boot.vendor_units[0] / "graphical.target").write_text("[Unit]\nRequires=multi-user.target\n")
    (boot.units / "default.target").symlink_to(boot.vendor_units[0] / "graphical.target")
    assert autostart.enabled(boot) == {"web"}


def test_what_is_masked_is_not_started(boot):
    link(boot, "machines.target")
    link(boot, "multi-user.target", "machines.target")
    (boot.units / "machines.target").symlink_to("/dev/null")
    assert autostart.enabled(boot) == frozenset()
    (boot.units / "machines.target").unlink()
    (boot.units / WEB).symlink_to("/dev/null")
    assert autostart.enabled(boot) == frozenset()


def test_targets_that_pull_each_other_in_come_to_an_end(boot):
    link(boot, "multi-user.target", "a.target")
    link(boot, "a.target", "b.target")
    link(boot, "b.target", "a.target")
    link(boot, "b.target")
    assert autostart.enabled(boot) == {"web"}
