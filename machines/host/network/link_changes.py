"""rtnetlink(7): network links that come, go or change; forms of the panel offer bridges and cards by what is told of them."""

import asyncio
import logging
import socket
from collections.abc import Callable

LOG = logging.getLogger(__name__)

RTMGRP_LINK = 1
MOST = 65536  # bytes of one read


class LinkChanges:
    """Calls `changed` in the loop whenever a link has; which one is for the caller to see."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._socket: socket.socket | None = None

    async def watch(self) -> None:
        """From now on. Without netlink nothing happens; the inventory sees changes once a minute."""
        try:
            opened = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
            )
            opened.bind((0, RTMGRP_LINK))
        except OSError as error:
            LOG.warning("Changes of network links are seen once a minute: %s", error)
            return
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read, opened)

    def _read(self, opened: socket.socket) -> None:
        """What it says is read over; too many messages at once (ENOBUFS) are a change as well."""
        try:
            opened.recv(MOST)
        except BlockingIOError:
            return
        except OSError as error:
            LOG.info("Some changes of network links were missed: %s", error)
        self._changed()
