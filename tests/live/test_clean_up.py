"""What a job leaves goes, whatever a machine's root has put into the tree; what cannot go is told until it is gone."""

from pathlib import Path

import pytest

from machines.contract import orders
from tests.host.scratch_panel import SERVICE
from tests.live import archive_taker

# chattr is not everywhere, so marks are made as it makes them
MARK = "import fcntl, os, struct, sys; [fcntl.ioctl(os.open(path, os.O_RDONLY), 0x40086602, struct.pack('l', int(sys.argv[1]))) for path in sys.argv[2:]]"
NESTED = """
cd /var/lib/machines/marked; mkdir -p srv/fixed srv/log
btrfs -q subvolume create srv/data; echo x > srv/data/file; btrfs -q subvolume create srv/fixed/inner; btrfs -q subvolume create srv/fixed/inner/ro
btrfs property set srv/fixed/inner/ro ro true; python3 -c "$0" 16 srv/data/file srv/data srv/fixed; python3 -c "$0" 32 srv/log srv
"""
UNMARKED = """
cd /var/lib/machines; for tree in marked .nspawnpanel-*.tmp; do cd /var/lib/machines/$tree 2>/dev/null || continue
for path in srv srv/fixed srv/log srv/data srv/data/file; do python3 -c "$0" 0 $path 2>/dev/null; done; done; true
"""
HIDDEN = "ls -A /var/lib/machines | grep -F .nspawnpanel- | grep -v base- || true"
SWAP = """
cd /var/lib/machines; btrfs -q subvolume create $0; cd $0; touch swap; chmod 600 swap; python3 -c "$1" 8388608 swap
dd if=/dev/zero of=swap bs=1M count=4 status=none; mkswap swap >/dev/null; touch other
"""


@pytest.mark.parametrize("systemd", ["scratch", "later"])
def test_an_export_of_a_tree_with_marked_and_nested_subvolumes_leaves_nothing_and_so_does_its_removal(systemd, request):
    panel = request.getfixturevalue(systemd)
    host = panel.sandbox
    host.plant("marked", "bookworm")
    host.run(["bash", "-ec", NESTED, MARK])
    before = host.run(["bash", "-c", HIDDEN]).stdout
    try:
        with archive_taker.listening(host) as url:
            outcome = panel.do(orders.Export(name="marked", url=url, limit=2**30), 120)
        assert outcome.state == "succeeded", outcome.problem
        assert host.run(["bash", "-c", HIDDEN]).stdout == before == ""
        removed = panel.do(orders.Remove(name="marked"))
        assert removed.state == "succeeded", removed.problem
    finally:  # or the host itself could not be thrown away
        host.run(["bash", "-c", UNMARKED, MARK])
    assert host.run(["bash", "-c", "ls -A /var/lib/machines | grep -E 'marked|nspawnpanel-[^b]' || true"]).stdout == ""


def test_what_cannot_be_removed_is_told_with_its_reason_and_goes_once_it_can(scratch):
    """The pool's own file system decides that: nothing removes what is used as swap."""
    host, name = scratch.sandbox, ".nspawnpanel-00000000-0000-0000-0000-000000000001.tmp"
    tree = Path("/var/lib/machines") / name
    host.run(["bash", "-ec", SWAP, name, MARK])
    if host.run(["swapon", f"{tree}/swap"], check=False).returncode:
        host.run(["rm", "-rf", str(tree)])
        pytest.skip("nothing can be used as swap here")
    try:
        host.run(["systemctl", "restart", SERVICE])
        told = scratch.until(lambda report: report.kind == "inventory" and report.host.remnants)
        assert [(each.path, each.why) for each in told.host.remnants] == [(str(tree), "swap is used as swap")]
    finally:
        host.run(["swapoff", f"{tree}/swap"])
    host.run(["systemctl", "restart", SERVICE])
    host.run(["bash", "-c", "for try in $(seq 100); do [ -e $0 ] || exit 0; sleep 0.1; done; exit 1", str(tree)])
