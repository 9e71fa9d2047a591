"""One connection to the system bus, in a thread of its own, for everybody.

Facts: dbus-daemon refuses more than 128 pending replies of a connection, so at most 64 calls are in flight. A reply and
the signal that follows it may be handled in one turn of the loop, so results of jobs nobody waits for yet are kept.
systemd sends JobRemoved and unit changes only to those who called Subscribe.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from machines.contract.problems import Problem
from machines.host.system.faults import TookTooLong

LOG = logging.getLogger(__name__)

BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
SYSTEMD, MACHINED = "org.freedesktop.systemd1", "org.freedesktop.machine1"
SYSTEMD_PATH, MACHINED_PATH = "/org/freedesktop/systemd1", "/org/freedesktop/machine1"
IN_FLIGHT = 64
CALL_SECONDS = 25.0
SIGNALS = (
    f"type='signal',sender='{MACHINED}',interface='{MACHINED}.Manager'",
    f"type='signal',sender='{SYSTEMD}',interface='{SYSTEMD}.Manager',member='JobRemoved'",
    f"type='signal',sender='{SYSTEMD}',interface='{SYSTEMD}.Manager',member='Reloading'",
    f"type='signal',sender='{SYSTEMD}',interface='org.freedesktop.DBus.Properties',arg0='{SYSTEMD}.Unit'",
)
_UNIT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

# The bus starts machined by an alias that nobody knows it by, and names that in its errors.
_MACHINED_ALIAS, _MACHINED_UNIT = "dbus-org.freedesktop.machine1.service", "systemd-machined.service"

T = TypeVar("T")
Handler = Callable[[Message], None]


class BusError(Problem):
    """The bus, systemd or machined answered with an error; `name` is the D-Bus error name."""

    code = "bus-error"

    def __init__(self, name: str, text: str) -> None:
        hint = f"Run on the host: systemctl status {_MACHINED_UNIT}" if _MACHINED_ALIAS in text else ""
        super().__init__(text.replace(_MACHINED_ALIAS, _MACHINED_UNIT) or name, hint=hint)
        self.name = name


def escape(text: str) -> str:
    """A unit's or machine's name as a part of an object path (sd_bus_path_encode)."""
    safe = (c if c in _UNIT_CHARACTERS and not (i == 0 and c.isdigit()) else None for i, c in enumerate(text))
    return "".join(c or "".join(f"_{byte:02x}" for byte in text[i].encode()) for i, c in enumerate(safe)) or "_"


def unit_path(unit: str) -> str:
    """The object path of a unit on systemd's bus."""
    return f"{SYSTEMD_PATH}/unit/{escape(unit)}"


class Bus:
    """The connection. Methods ending in `_now` block and may be called from any other thread; coroutines run in the
    bus's own loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection: MessageBus | None = None
        self._window = asyncio.Semaphore(IN_FLIGHT)
        self._connected = asyncio.Event()
        self._handlers: list[Handler] = [self._note_job]
        self._after_connecting: list[Callable[[], None]] = []
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._results: OrderedDict[str, str] = OrderedDict()
        self._turned = time.monotonic()
        self.thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
        self.thread.start()
        self.later(self._turn())
        self._keeper = asyncio.run_coroutine_threadsafe(self._stay_connected(), self._loop)

    # --- from other threads

    def do(self, work: Coroutine[Any, Any, T], timeout: float = CALL_SECONDS) -> T:
        """Run a coroutine in the bus's loop and wait for it. Raises BusError or TookTooLong."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except FutureTimeout:
            future.cancel()
            raise TookTooLong(f"The system bus did not respond within {timeout:.0f} s.") from None

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the bus's loop; its result is for whoever waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine in the bus's loop and do not wait."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def after_connecting(self, work: Callable[[], None]) -> None:
        """Call `work` in the bus's loop whenever the connection has come back: signals were missed meanwhile."""
        self._after_connecting.append(work)

    def listen(self, handler: Handler) -> None:
        """Let `handler` see every signal, in the bus's loop. It must return quickly."""
        self._handlers.append(handler)

    def stuck_for(self) -> float:
        """Seconds since the loop last turned; it does so every second."""
        return time.monotonic() - self._turned

    # --- in the loop

    async def _turn(self) -> None:
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(1)

    async def call(
        self, destination: str, path: str, method: str, signature: str = "", body: Sequence[Any] = ()
    ) -> list[Any]:
        """One method call; Variants in the answer are left as they are. Raises BusError."""
        interface, _, member = method.rpartition(".")
        async with self._window:
            await asyncio.wait_for(self._connected.wait(), CALL_SECONDS)
            connection = self._connection
            assert connection is not None
            message = Message(
                destination=destination, path=path, interface=interface, member=member,
                signature=signature, body=list(body),
            )  # fmt: skip
            try:
                reply = await asyncio.wait_for(connection.call(message), CALL_SECONDS)
            except (OSError, EOFError, TimeoutError, DBusFastError) as error:
                raise BusError(type(error).__name__, f"The system bus did not respond: {error}") from error
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise BusError(str(reply.error_name), " ".join(str(part) for part in reply.body))
        return list(reply.body)

    async def systemd(self, member: str, signature: str = "", body: Sequence[Any] = ()) -> list[Any]:
        """A call of systemd's manager. Raises BusError."""
        return await self.call(SYSTEMD, SYSTEMD_PATH, f"{SYSTEMD}.Manager.{member}", signature, body)

    async def machined(self, member: str, signature: str = "", body: Sequence[Any] = ()) -> list[Any]:
        """A call of machined's manager. Raises BusError."""
        return await self.call(MACHINED, MACHINED_PATH, f"{MACHINED}.Manager.{member}", signature, body)

    async def has(self, name: str) -> bool:
        """Whether somebody on the bus has a name now; nobody is started for it."""
        return bool((await self.call(BUS, BUS_PATH, f"{BUS}.NameHasOwner", "s", [name]))[0])

    async def properties(self, destination: str, path: str, interface: str) -> dict[str, Any]:
        """All properties of one interface, out of their Variants."""
        found = await self.call(destination, path, f"{BUS}.Properties.GetAll", "s", [interface])
        return {key: value.value if isinstance(value, Variant) else value for key, value in found[0].items()}

    async def unit(self, unit: str, interface: str = "Unit") -> dict[str, Any]:
        """Properties of a unit: those of Unit, or of another of its interfaces (Service, Scope)."""
        return await self.properties(SYSTEMD, unit_path(unit), f"{SYSTEMD}.{interface}")

    async def unit_job(self, member: str, unit: str, mode: str = "replace") -> str:
        """StartUnit, StopUnit … and the result of its job: done, failed, timeout, canceled, dependency, skipped."""
        path = (await self.systemd(member, "ss", [unit, mode]))[0]
        if path in self._results:
            return self._results.pop(path)
        future: asyncio.Future[str] = self._loop.create_future()
        self._waiting[path] = future
        try:
            return await future
        finally:
            self._waiting.pop(path, None)

    def _note_job(self, message: Message) -> None:
        if message.member != "JobRemoved" or len(message.body) != 4:
            return
        _, path, _, result = message.body
        future = self._waiting.get(path)
        if future is not None and not future.done():
            future.set_result(result)
            return
        self._results[path] = result
        while len(self._results) > 1000:
            self._results.popitem(last=False)

    # --- the connection

    async def _stay_connected(self) -> None:
        """Connect, subscribe, and again whenever the daemon went away."""
        while True:
            try:
                connection = await MessageBus(bus_type=BusType.SYSTEM).connect()
                connection.add_message_handler(self._dispatch)
                self._connection = connection
                await self._subscribe(connection)
                self._connected.set()
                for work in self._after_connecting:
                    work()
                await connection.wait_for_disconnect()  # type: ignore[no-untyped-call]
            except (OSError, EOFError, DBusFastError, TimeoutError) as error:
                LOG.warning("The system bus cannot be reached: %s", error)
            self._connected.clear()
            self._fail_waiting()
            await asyncio.sleep(1)

    def _fail_waiting(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(BusError("Disconnected", "The connection to the system bus was lost."))

    async def _subscribe(self, connection: MessageBus) -> None:
        for rule in SIGNALS:
            await connection.call(Message(
                destination=BUS, path=BUS_PATH, interface=BUS, member="AddMatch", signature="s", body=[rule],
            ))  # fmt: skip
        await connection.call(Message(
            destination=SYSTEMD, path=SYSTEMD_PATH, interface=f"{SYSTEMD}.Manager", member="Subscribe",
        ))  # fmt: skip

    def _dispatch(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        for handler in self._handlers:
            with contextlib.suppress(Exception):  # a handler's fault must not cost the connection
                handler(message)
