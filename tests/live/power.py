"""A host whose images, ledger and settings files lie on one disk that can lose its power.

The disk is a file. What it holds at one moment, with every process stopped, is what a power cut leaves: what was written
into it, and not what only lay in memory. Afterwards that moment is all there is.
"""

from nspawnpanel.sandbox import Sandbox
from tests.host.scratch_panel import SERVICE

FOLDERS = {"machines": "/var/lib/machines", "state": "/var/lib/nspawnpanel", "nspawn": "/etc/systemd/nspawn"}
MOUNT = """
set -e; mkdir -p /disk; mount -o loop,noatime /disk.img /disk
for pair in {pairs}; do mkdir -p /disk/${{pair%%:*}} ${{pair#*:}}; mount --bind /disk/${{pair%%:*}} ${{pair#*:}}; done
chmod 700 /disk/machines /disk/state
"""
CUT = """
set -e
jobs() {{ systemctl list-units --all --plain --no-legend 'nspawnpanel-job-*' | cut -d' ' -f1; }}
guests() {{ systemctl list-units --all --plain --no-legend 'systemd-nspawn@*' | cut -d' ' -f1; }}
for unit in {service} $(jobs); do systemctl kill --kill-whom=all --signal=STOP $unit || true; done
cp --reflink=always /disk.img /disk.cut
for unit in $(jobs) $(guests) {service}; do systemctl kill --kill-whom=all --signal=KILL $unit || true; done
systemctl stop {service} $(jobs) $(guests)
systemctl reset-failed
rm -rf /run/nspawnpanel /run/systemd/nspawn/np-probe-*
systemctl stop systemd-machined
for folder in {folders} /disk; do for try in $(seq 100); do umount $folder && break; sleep 0.1; done; done
mv /disk.cut /disk.img
"""


def _words(script: str) -> str:
    pairs = " ".join(f"{name}:{folder}" for name, folder in FOLDERS.items())
    return script.format(pairs=pairs, folders=" ".join(FOLDERS.values()), service=SERVICE)


MAKE = {"btrfs": "mkfs.btrfs --quiet", "ext4": "mkfs.ext4 -q"}


def plug_in(host: Sandbox, kind: str = "btrfs") -> None:
    """Make the disk, empty, of that file system, and mount it everywhere."""
    host.run(["sh", "-ec", f"truncate --size=12G /disk.img; {MAKE[kind]} /disk.img"], timeout=120)
    host.run(["sh", "-c", _words(MOUNT)])


def cut(host: Sandbox) -> None:
    """The power goes, and comes back: everything that ran is gone, and whatever had not reached the disk."""
    host.run(["sh", "-c", _words(CUT)], timeout=120)
    host.run(["sh", "-c", _words(MOUNT)])
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "start", SERVICE])
