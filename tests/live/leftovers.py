"""What half-made builds would leave among the images; bases are meant to stay."""

from nspawnpanel.sandbox import Sandbox


def of(host: Sandbox) -> str:
    """Paths, one a line; "" when there is nothing."""
    argv = ["find", "/var/lib/machines", "-maxdepth", "1", "-name", ".nspawnpanel-*"]
    return host.run([*argv, "-not", "-name", ".nspawnpanel-base-*"]).stdout
