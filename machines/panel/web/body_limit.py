"""No request may be large. Django under ASGI keeps a whole body on disk before it asks who sends it, so it is bounded here.

The largest that anything on the panel takes is one part of an archive.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from machines.panel.images.archive_files import PART
from machines.panel.web.server_errors import FULL, HINT, SENTENCE, STATUS

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
            await _refuse(send, 413, f"A request can have at most {MOST} bytes.")
            return
        taken = 0

        async def counted() -> Mapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return {"type": "http.disconnect"} if taken > MOST else message

        began = False

        async def noted(message: Mapping[str, Any]) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await application(scope, counted, noted)
        except OSError as error:  # of the file that keeps a body; Django has no answer to it
            if began or error.errno not in FULL:
                raise
            await _refuse(send, STATUS, f"{SENTENCE} {HINT}")

    return bounded


def _announced(scope: Scope) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"0")
    return int(said) if said.isdigit() else MOST + 1


async def _refuse(send: Send, status: int, said: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{said}\n".encode()})
