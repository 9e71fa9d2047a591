"""The README's commands to install a host, as they stand there."""

import re
from dataclasses import dataclass

from nspawnpanel.stack import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()


@dataclass(frozen=True)
class Block:
    """Commands to be given one after another, and where: “on the host” or “on the panel, in the checkout”."""

    place: str
    lines: tuple[str, ...]


def blocks() -> list[Block]:
    """Those of “Install it”, in their order."""
    section = re.search(r"^## Install it$(.*?)^## ", TEXT, re.M | re.S)
    assert section
    return [_block(text) for text in re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S)]


def _block(text: str) -> Block:
    first, *lines = text.replace("\\\n", " ").splitlines()
    return Block(first.removeprefix("# "), tuple(lines))


def host() -> list[Block]:
    """What is done on a host: until it can join, and the command that joins it."""
    return [block for block in blocks() if block.place == "on the host"]


def joining() -> str:
    """The command that joins a host, with … in the place of the token."""
    return host()[-1].lines[0]


def without_systemd() -> tuple[str, ...]:
    """The first commands on a host, which ask nothing of a running systemd."""
    lines = host()[0].lines
    return lines[: next(number for number, line in enumerate(lines) if line.startswith("systemctl"))]
