"""How many requests are worked on at once, of one address and in all, and who is next. For any ASGI server.

Facts (Django 5.2, asgiref 3.13): under ASGI each request has a thread and a database connection of its own, as many as come;
when its client goes away, the application returns only after the thread has ended.
A place is taken when a request's body is whole (half of one holds none) and given back when its answer begins: streams and
downloads hold none, their bounds are of connections (connections.py) and of people (logs/log_stream.py).
"""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from machines.panel.web import attempts, server_errors
from machines.panel.web.body_limit import Application, Receive, Scope, Send

LONGEST = 30.0  # seconds that a request waits for its turn


class Crowded(Exception):
    """Too many wait already, or this one waited for too long."""


@dataclass(eq=False)
class Turn:
    address: str
    come: asyncio.Future[bool] = field(repr=False)  # False: sent away for somebody else's sake


class Gate:
    """Places at work. Who finds none free waits in the queue of its address; addresses take turns."""

    def __init__(self, *, in_all: int, per_address: int, waiting: int = 512, waiting_per_address: int = 64) -> None:
        self.in_all, self.per_address = in_all, per_address
        self.waiting, self.waiting_per_address = waiting, waiting_per_address
        self.working: set[Turn] = set()
        self.of: Counter[str] = Counter()  # places, by address
        self.queues: dict[str, deque[Turn]] = {}  # none is empty; whose turn is next stands first

    def ask(self, address: str) -> Turn:
        """Its `come` is done when it has a place. To be given to `leave` in any case. Raises Crowded."""
        queue = self.queues.get(address, ())
        if len(queue) >= self.waiting_per_address:
            raise Crowded
        if sum(map(len, self.queues.values())) >= self.waiting:
            self._make_room(len(queue))
        turn = Turn(address, asyncio.get_running_loop().create_future())
        self.queues.setdefault(address, deque()).append(turn)
        self._let_in()
        return turn

    def leave(self, turn: Turn) -> None:
        """Gives back what it has: a place, or one in a queue. May be said twice."""
        if turn in self.working:
            self.working.remove(turn)
            self.of[turn.address] -= 1
            self.of += Counter()  # without those that have none
            self._let_in()
        elif turn in self.queues.get(turn.address, ()):
            self._unqueue(turn)

    def _let_in(self) -> None:
        while len(self.working) < self.in_all:
            address = next((each for each in self.queues if self.of[each] < self.per_address), None)
            if address is None:
                return
            turn = self.queues[address][0]
            self._unqueue(turn)
            if address in self.queues:
                self.queues[address] = self.queues.pop(address)  # to the end
            self.working.add(turn)
            self.of[address] += 1
            turn.come.set_result(True)

    def _make_room(self, mine: int) -> None:
        """The last one of the longest queue goes, unless that is no longer than the one of whoever asks."""
        longest = max(self.queues.values(), key=len)
        if len(longest) <= mine + 1:
            raise Crowded
        last = longest[-1]
        self._unqueue(last)
        last.come.set_result(False)

    def _unqueue(self, turn: Turn) -> None:
        queue = self.queues[turn.address]
        queue.remove(turn)
        if not queue:
            del self.queues[turn.address]


@dataclass(frozen=True)
class Gates:
    """Of one process. A password costs half a second of a processor; a file of ours next to nothing."""

    pages: Gate = field(default_factory=lambda: Gate(in_all=24, per_address=8))
    passwords: Gate = field(default_factory=lambda: Gate(in_all=2, per_address=1))
    files: Gate = field(default_factory=lambda: Gate(in_all=16, per_address=8))

    def of(self, scope: Scope) -> Gate:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(settings.STATIC_URL):
            return self.files
        return self.passwords if scope["method"] == "POST" and path.startswith("/accounts/") else self.pages


class Request:
    """One that is on its way through a gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope = gate, scope
        self.began = False  # its answer
        self._receive, self._send = receive, send
        self._turn: Turn | None = None
        self._ahead: asyncio.Task[Mapping[str, Any]] | None = None  # what comes after the body: that the client left

    async def receive(self) -> Mapping[str, Any]:
        """The body's last part only with a place. Raises Crowded."""
        if self._ahead is not None:
            return await self._ahead
        message = await self._receive()
        if self._turn is not None or message["type"] != "http.request" or message.get("more_body"):
            return message
        self._turn = self.gate.ask(counted_as(self.scope))
        if not self._turn.come.done():
            return await self._wait(self._turn.come, message)
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        self.began = True
        if self._turn is not None:
            self.gate.leave(self._turn)
        await self._send(message)

    def end(self) -> None:
        if self._turn is not None:
            self.gate.leave(self._turn)
        if self._ahead is not None:
            self._ahead.cancel()

    async def _wait(self, come: asyncio.Future[bool], message: Mapping[str, Any]) -> Mapping[str, Any]:
        self._ahead = asyncio.ensure_future(self._receive())
        either: set[asyncio.Future[Any]] = {come, self._ahead}
        await asyncio.wait(either, timeout=LONGEST, return_when=asyncio.FIRST_COMPLETED)
        if come.done() and come.result():
            return message
        if not come.done() and self._ahead.done():
            return self._ahead.result()
        raise Crowded


def bounded(application: Application, gates: Gates | None = None) -> Application:
    """The same application, which works on no more requests than its gates let in; others get 503 and a sentence."""
    gates = gates or Gates()

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        request = Request(gates.of(scope), scope, receive, send)
        try:
            await application(scope, request.receive, request.send)
        except Crowded:
            if request.began:
                raise
            await _refuse(scope, send)
        finally:
            request.end()

    return admitted


def counted_as(scope: Scope) -> str:
    """An IPv4 address or IPv6 /64, of whoever the server says it is: uvicorn believes TRUSTED_PROXIES' X-Forwarded-For."""
    client = scope.get("client")
    return attempts.network(client[0] if client else "")[0]


async def _refuse(scope: Scope, send: Send) -> None:
    said = server_errors.crowded(scope)
    headers = [(name.lower().encode(), value.encode("latin1")) for name, value in said.items()]
    headers.append((b"content-length", str(len(said.content)).encode()))
    await send({"type": "http.response.start", "status": said.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": said.content})
