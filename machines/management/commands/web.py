"""`manage.py web`: the process that serves pages, with the bounds of machines/panel/web/connections.py."""

import resource
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from machines.panel.web import connections

FILES = 8192  # open ones: each connection may have one more for its body


class Command(BaseCommand):
    help = "Serve the panel's pages, until stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--workers", type=int, default=1, help="processes")
        parser.add_argument(
            "--patience", type=int, default=5, help="seconds that requests have to end when it is stopped"
        )

    def handle(self, *_: Any, **asked: Any) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (FILES if most == resource.RLIM_INFINITY else min(most, FILES), most)
        )
        uvicorn.run(
            "nspawnpanel.asgi:application",
            host=asked["host"],
            port=asked["port"],
            workers=asked["workers"],
            http=connections.Connection,
            ws="none",
            lifespan="off",
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=connections.HEAD_BYTES,
            forwarded_allow_ips=settings.TRUSTED_PROXIES,
            timeout_graceful_shutdown=asked["patience"],
        )
