"""A tree's way to an address: whichever of networkd and NetworkManager its packages brought."""

from machines.host.rootfs.steps.building import NETWORK_SERVICES, Building
from machines.host.system import tree

MANAGER = "NetworkManager.service"
# The end of the machine's own cable; NetworkManager leaves such devices alone unless told otherwise.
HOST0 = """\
[connection]
id=host0
type=ethernet
interface-name=host0
[ipv4]
method=auto
[ipv6]
method=auto
"""
MANAGE_HOST0 = "[device-host0]\nmatch-device=interface-name:host0\nmanaged=1\n"


def enable(building: Building) -> None:
    """Turn on what is there, and let names be resolved by it. Raises CommandFailed or OSError."""
    root = building.tree
    services = [service for service in NETWORK_SERVICES if _has(building, service)]
    if NETWORK_SERVICES[0] not in services and _has(building, MANAGER):
        services.append(MANAGER)
        connection = "etc/NetworkManager/system-connections/host0.nmconnection"
        tree.write_text(root, connection, HOST0, 0o600)
        tree.write_text(root, "etc/NetworkManager/conf.d/50-host0.conf", MANAGE_HOST0)
    if services:
        building.task.run(["systemctl", f"--root={root}", "enable", "--", *services])
    if NETWORK_SERVICES[1] in services:
        tree.symlink(root, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    if not {NETWORK_SERVICES[0], MANAGER} & set(services):
        building.task.output.line(
            "Neither systemd-networkd nor NetworkManager is in the image, so the machine will not get an address."
        )


def _has(building: Building, service: str) -> bool:
    return any(tree.exists(building.tree, f"{folder}/systemd/system/{service}") for folder in ("usr/lib", "lib"))
