"""What trimming does to a tree, on trees of folders and empty files."""

import os
from pathlib import Path

from machines.host.rootfs.steps import boot_tuning

UNITS = "usr/lib/systemd/system"
GENERATORS = "usr/lib/systemd/system-generators"
ETC = "etc/systemd/system"


def tree_with(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def test_only_what_the_tree_has_is_masked(tmp_path):
    kept = (f"{UNITS}/nginx.service", f"{GENERATORS}/systemd-fstab-generator")
    root = tree_with(tmp_path, f"{UNITS}/fstrim.timer", f"{GENERATORS}/systemd-gpt-auto-generator", *kept)
    assert boot_tuning.trim(root) == ["fstrim.timer", "systemd-gpt-auto-generator"]
    links = {str(path.relative_to(root)): os.readlink(path) for path in root.rglob("*") if path.is_symlink()}
    masked = (f"{ETC}/fstrim.timer", "etc/systemd/system-generators/systemd-gpt-auto-generator")
    assert links == dict.fromkeys(masked, "/dev/null")


def test_logind_waits_only_where_the_bus_can_start_it(tmp_path):
    without = tree_with(tmp_path / "without", f"{UNITS}/{boot_tuning.LOGIND}")
    boot_tuning.trim(without)
    assert not (without / ETC).exists()
    with_bus = tree_with(tmp_path / "with", f"{UNITS}/{boot_tuning.LOGIND}", boot_tuning.LOGIND_ON_THE_BUS)
    boot_tuning.trim(with_bus)
    wants = with_bus / ETC / "multi-user.target.wants"
    assert os.readlink(wants / "systemd-logind.service") == "/dev/null"
    assert (wants / "systemd-logind.path").read_text().endswith("DirectoryNotEmpty=/var/lib/systemd/linger\n")
