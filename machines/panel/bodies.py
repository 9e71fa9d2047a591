"""No request may be large. Django under ASGI keeps a whole body on disk before it asks who sends it, so it is bounded here.

The largest that anything on the panel takes is one part of an archive.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from machines.panel.archive_files import PART

MOST = PART + 64 * 1024  # bytes

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def small(application: Application) -> Application:
    """The same application for requests of at most MOST bytes; others are refused, or cut off when they never said how long
    they are."""

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        if _announced(scope) > MOST:
            await _refuse(send)
            return
        taken = 0

        async def counted() -> Mapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return {"type": "http.disconnect"} if taken > MOST else message

        await application(scope, counted, send)

    return bounded


def _announced(scope: Scope) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"0")
    return int(said) if said.isdigit() else MOST + 1


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": f"A request has at most {MOST} bytes.\n".encode()})
