"""One packet sent to see whether it arrives: the only thing an examination does beyond reading."""

import contextlib
import errno
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

SECONDS = 1.0
DISCARD = 9  # a port nobody listens on; the refusal is the answer that is wanted
ARP = Path("/proc/net/arp")
_COMPLETE = 0x2  # ATF_COM

Answer = Literal["open", "refused", "silent", "no-way"]


def knock(address: IPv4Address, port: int = DISCARD) -> Answer:
    """What comes back to a TCP connection: somebody, a refusal, nothing, or word that there is no way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(SECONDS)
        try:
            knocking.connect((str(address), port))
        except TimeoutError:
            return "silent"
        except OSError as error:
            return "refused" if error.errno in {errno.ECONNREFUSED, errno.ECONNRESET} else "no-way"
    return "open"


def is_neighbour(address: IPv4Address) -> bool:
    """Whether it has answered ARP: it is there, whatever it does with other packets."""
    with contextlib.suppress(OSError, ValueError):
        for row in (line.split() for line in ARP.read_text().splitlines()[1:]):
            if row[0] == str(address) and int(row[2], 16) & _COMPLETE:
                return True
    return False
