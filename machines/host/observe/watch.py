"""What changes on this host is reported at once: machined's and systemd's signals, and the folders of images and files.

Signals only name what to look at again; what is reported is always read fresh. Reading and sending happen under one
lock, so that an older look can never be sent after a newer one. A full inventory every minute corrects everything.
"""

import asyncio
import contextlib
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dbus_fast import Message

from machines.contract.names import MachineName, is_usable
from machines.contract.problems import Problem
from machines.contract.reports import Inventory, LinkFact, MachineFact, Observed
from machines.host.context import trouble
from machines.host.context.host_context import HostContext
from machines.host.files import name_files
from machines.host.network import addresses
from machines.host.network.link_changes import LinkChanges
from machines.host.observe import effective_settings, host_facts, inventory, unit_state
from machines.host.reports.ledger import Ledger
from machines.host.reports.reporting import Reporter
from machines.host.system import inotify
from machines.host.system.bus import MACHINED, unit_path
from machines.host.system.rate_limit import Budget

LOG = logging.getLogger(__name__)
Answer = TypeVar("Answer")

INVENTORY_SECONDS = 60.0
COALESCE_SECONDS = 0.02
HOLD_SECONDS = 2.0  # how long an order's outcome may take to say what a signal would have said
LOOKS = 20  # at one machine at once, then one per HOLD_SECONDS: a unit may start and fail several times a second
LOOK_SECONDS = 0.3  # what changes in this time is looked at once; files come in twos and threes
RELOAD_SECONDS = 2.0  # after a daemon-reload, for it concerns every unit
TELL_AGAIN_SECONDS = 3600.0  # what holds is told anew, in case the panel has lost it
ADDRESS_SECONDS = 60.0
ADDRESS_PAUSE = 0.4
TROUBLE = (Problem, TimeoutError, OSError, sqlite3.Error)  # a bus that is away, a disk that is full
NETWORKD = unit_path("systemd-networkd.service")
_UNITS = unit_path("systemd-nspawn@")
_PASSING = {"memory_bytes", "cpu_ns", "tasks"}  # what alone is no change worth a report


class Watch:
    def __init__(self, host: HostContext, ledger: Ledger, reporter: Reporter) -> None:
        self._host, self._ledger, self._reporter = host, ledger, reporter
        self._dirty: set[str] = set()
        self._wanted = asyncio.Event()
        self._full = asyncio.Event()
        self._lock = asyncio.Lock()
        self._told: dict[str, dict[str, object]] = {}
        self._chased: set[str] = set()
        self._held: dict[str, float] = {}
        self._looks: dict[str, Budget] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unseen: set[str] = set()  # machines whose files are to be read again
        self._look = asyncio.Event()
        self._held_true: dict[str, str] = {}  # machine → digest of what was told of its files and limits
        self._told_all = time.monotonic()
        self._reloads = 0
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="observed")
        self._folders = inotify.Folders(host.paths, self._file_changed)
        self._links = LinkChanges(self._link_changed)
        self._links_due = False
        self._links_told: LinkFact | None = None

    # --- from other threads

    def start(self) -> None:
        """Begin to listen, to look once a minute, and to watch folders."""
        self._host.bus.listen(self._signal)
        self._host.bus.after_connecting(self._full.set)
        self._host.bus.later(self._observe())
        self._host.bus.later(self._inventories())
        self._host.bus.later(self._keep_looking())
        self._host.bus.later(self._folders.watch())
        self._host.bus.later(self._links.watch())

    def refresh(self) -> None:
        """Send a full inventory soon."""

        async def ask() -> None:
            self._folders.look()
            self._full.set()

        self._host.bus.later(ask())

    def resend_all(self) -> None:
        """The same, and after it what holds of every machine, as if nothing of it had been told."""

        async def forget() -> None:
            self._held_true = {}

        self._host.bus.later(forget())
        self.refresh()

    def suppress(self, name: str) -> None:
        """An order on this machine begins: its outcome will say how the machine is, so for a moment no signal need."""
        self._held[name] = time.monotonic() + HOLD_SECONDS

    def report_final(self, name: str, report: Callable[[MachineFact | None], None], *, image_too: bool = False) -> None:
        """Read one machine and hand the fact to `report`, before or after every other report about it, never between.

        `report` gets None when there is no such machine or the bus does not answer; it is always called once.
        """
        try:
            self._host.bus.do(self._settle(name, report, image_too), timeout=120)
        except Problem as problem:
            LOG.warning("%s could not be read after the work on it: %s", name, problem)
            report(None)

    async def _settle(self, name: str, report: Callable[[MachineFact | None], None], image_too: bool) -> None:
        async with self._lock:
            self._held.pop(name, None)
            fact = await self._read(name, image_too)
            if fact is not None:
                self._told[fact.name] = _lasting(fact)
            await self._in_sender(report, fact)
        self._look_at([name])

    async def _read(self, name: str, image_too: bool) -> MachineFact | None:
        try:
            if not image_too:
                return await inventory.read_one(self._host, MachineName(name))
            facts, _ = await inventory.read_some(self._host, [name])
        except Exception as error:  # whatever it is, the job has ended and says so
            LOG.warning("%s could not be read after the work on it: %s", name, error, exc_info=_unforeseen(error))
            return None
        return facts[0] if facts else None

    async def _in_sender(self, work: Callable[..., Answer], *args: object) -> Answer:
        """Reports are written to disk, which must not hold up the bus."""
        return await asyncio.get_running_loop().run_in_executor(self._sender, work, *args)

    # --- signals

    def _signal(self, message: Message) -> None:
        if message.interface == f"{MACHINED}.Manager" and message.member in {"MachineNew", "MachineRemoved"}:
            name = str(message.body[0])
            self._mark(name)
            if message.member == "MachineNew":
                self._poll_address(name)
        elif whose := self._whose_state(message):
            self._mark(whose)
        elif message.path == NETWORKD and message.member == "PropertiesChanged" and "ActiveState" in message.body[1]:
            self._full.set()
        elif message.member == "Reloading" and message.body == [False]:
            self._reloads += 1
            asyncio.get_running_loop().call_later(RELOAD_SECONDS, self._after_reload, self._reloads)

    def _whose_state(self, message: Message) -> str:
        """The machine whose unit has changed its ActiveState, the template's or one that it was seen in; "" for any
        other signal."""
        if message.member != "PropertiesChanged" or "ActiveState" not in message.body[1]:
            return ""
        path = str(message.path)
        if path.startswith(_UNITS):
            return _unescape(path.removeprefix(_UNITS)).removesuffix(".service")
        return next((name for name, unit in self._host.slow.units.items() if unit_path(unit) == path), "")

    def _after_reload(self, number: int) -> None:
        """A reload may change what every machine's limits are; of several in a row the last one counts."""
        if number == self._reloads:
            self._look_at(self._told)

    def _link_changed(self) -> None:
        """They come in bursts: a machine's start brings a dozen messages."""
        if not self._links_due:
            self._links_due = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_at_links)

    def _look_at_links(self) -> None:
        self._links_due = False
        task = asyncio.ensure_future(self._tell_links())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_links(self) -> None:
        def tell() -> None:
            now = host_facts.links()
            if now != self._links_told:
                self._reporter.send(Observed(links=now))
                self._links_told = now

        try:
            await self._in_sender(tell)
        except TROUBLE as error:
            LOG.warning("Changes of network links wait for the next inventory: %s", error)

    def _file_changed(self, name: str) -> None:
        if name == inotify.EVERY:
            self._look_at(self._told)
        else:
            self._mark(name)

    def _mark(self, name: str) -> None:
        if is_usable(name):
            self._dirty.add(name)
            self._wanted.set()
            self._look_at([name])

    # --- files, and what holds of them

    def _look_at(self, names: Iterable[str]) -> None:
        self._unseen.update(names)
        self._look.set()

    async def _keep_looking(self) -> None:
        while True:
            await self._look.wait()
            await asyncio.sleep(LOOK_SECONDS)
            self._look.clear()
            names, self._unseen = self._unseen, set()
            try:
                if odd := await self._tell_found(names):
                    self._host.trouble.note(trouble.FILES, _unread(odd))
                else:
                    self._host.trouble.over(trouble.FILES)
            except Exception as error:  # a mistake of ours, perhaps with a machine's help, must not end the watch
                if self._host.trouble.note(trouble.FILES, _sentence(error)) and _unforeseen(error):
                    LOG.warning("What holds for %d machines could not be read", len(names), exc_info=error)

    async def _tell_found(self, names: set[str]) -> list[str]:
        """Send what is not as it was told last, of machines the panel knows; the others' turn comes when it does. Returns
        those that could not be read."""
        if time.monotonic() > self._told_all + TELL_AGAIN_SECONDS:
            self._held_true, self._told_all = {}, time.monotonic()
        read, odd = await effective_settings.read(self._host, sorted(names))
        found = [each for each in read if each.name in self._told]
        before, digests = self._held_true, {each.name: effective_settings.digest(each) for each in found}
        fresh = [each for each in found if before.get(each.name) != digests[each.name]]
        self._held_true = {name: digest for name, digest in before.items() if name not in names} | digests
        try:
            if fresh:
                await self._in_sender(self._reporter.send, *effective_settings.reports(fresh))
        except TROUBLE:
            self._forget_held(digests)
            raise
        return odd

    def _forget_held(self, names: Iterable[str]) -> None:
        """What was told of these counts no more: the panel did not hear it, or has lost the machine since."""
        for name in names:
            self._held_true.pop(name, None)

    async def _observe(self) -> None:
        while True:
            await self._wanted.wait()
            await asyncio.sleep(COALESCE_SECONDS)
            self._wanted.clear()
            names = self._not_held()
            if not names:
                continue
            try:
                async with self._lock:
                    await self._report(names)
            except Exception as error:
                wait = "Changes of %s wait for the next inventory: %s"
                LOG.warning(wait, ", ".join(names), error, exc_info=_unforeseen(error))
                self._full.set()

    def _not_held(self) -> set[str]:
        """What is to be looked at now; what an order's outcome will tell waits until that or a moment longer, and what
        changes all the time has its turn now and then."""
        now = time.monotonic()
        held = {name for name in self._dirty if self._held.get(name, 0) > now or not self._may_look(name)}
        names, self._dirty = self._dirty - held, held
        if held:
            asyncio.get_running_loop().call_later(HOLD_SECONDS, self._wanted.set)
        return names

    def _may_look(self, name: str) -> bool:
        return self._looks.setdefault(name, Budget(LOOKS, HOLD_SECONDS)).take()

    async def _report(self, names: set[str]) -> None:
        facts, gone = await inventory.read_some(self._host, names)
        changed = [fact for fact in facts if self._told.get(fact.name) != _lasting(fact)]
        gone = [name for name in gone if name in self._told]
        for fact in changed:
            self._told[fact.name] = _lasting(fact)
        for name in gone:
            self._told.pop(name)
        self._forget_held(gone)
        self._look_at(fact.name for fact in changed)
        if changed or gone:
            await self._in_sender(self._reporter.send, Observed(machines=changed, gone=gone))

    # --- addresses

    def _poll_address(self, name: str) -> None:
        """A guest gets its address seconds after it is registered, and nobody signals it."""
        if name in self._chased:
            return
        self._chased.add(name)
        task = asyncio.ensure_future(self._wait_for_address(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_for_address(self, name: str) -> None:
        try:
            path = (await self._host.bus.machined("GetMachine", "s", [name]))[0]
            leader = (await self._host.bus.properties(MACHINED, path, unit_state.MACHINE_IFACE))["Leader"]
            before = ("", "")
            for _ in range(int(ADDRESS_SECONDS / ADDRESS_PAUSE)):
                await asyncio.sleep(ADDRESS_PAUSE)
                found = addresses.tables(leader)  # not parsed: ten guests at once are many
                if found != before and addresses.of_process(leader):
                    self._mark(name)
                before = found
        except (Problem, KeyError, TimeoutError, OSError):
            return
        finally:
            self._chased.discard(name)

    # --- everything, now and then

    async def _inventories(self) -> None:
        while True:
            self._full.clear()  # before the look: what is asked for while it lasts is another look
            try:
                async with self._lock:
                    await self._inventory()
            except Exception as error:
                if self._host.trouble.note(trouble.MACHINES, _sentence(error)) and _unforeseen(error):
                    LOG.warning("The inventory could not be read", exc_info=error)
                await asyncio.sleep(1)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), INVENTORY_SECONDS)

    async def _inventory(self) -> None:
        host = self._host
        facts, partial = await inventory.read_all(host)
        networkd, oomd = [
            (await host.bus.unit(unit)).get("ActiveState") == "active"
            for unit in ("systemd-networkd.service", host_facts.OOMD)
        ]

        def send() -> bool:
            rows = self._ledger.unfinished()
            about = host_facts.read(host.paths, host.policy, networkd=networkd, oomd=oomd)
            self._links_told = LinkFact(bridges=about.bridges, interfaces=about.interfaces)
            if not partial:  # or files of machines that could not be read would seem to be nobody's
                taken = {*(fact.name for fact in facts), *(row.name for row in rows)}
                about = about.model_copy(update={"leftovers": name_files.of_nobody(host.paths, taken)})
            unusable = dict([*host.slow.unusable.items()][:100])
            about = about.model_copy(update={"unusable_images": unusable, "remnants": host.remnants.told()})
            jobs = [row.id for row in rows]
            return self._reporter.send_passing(
                Inventory(host=about, machines=facts[:5000], jobs=jobs[:5000], partial=partial)
            )

        sent = await self._in_sender(send)
        host.trouble.note(trouble.MACHINES, partial) if partial else host.trouble.over(trouble.MACHINES)
        if sent:
            told = {fact.name: _lasting(fact) for fact in facts}
            self._told = self._told | told if partial else told
            self._forget_held(self._held_true.keys() - self._told.keys())
            self._looks = {name: budget for name, budget in self._looks.items() if name in self._told}
            self._look_at(self._told)
        for fact in facts:
            if fact.leader and not fact.addresses:
                self._poll_address(fact.name)


def _unescape(label: str) -> str:
    """The inverse of bus.escape()."""
    raw = re.sub(r"_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), label)
    return raw.encode("latin-1").decode(errors="replace")


def _unforeseen(error: Exception) -> bool:
    """Whether its way through our code is worth writing down."""
    return not isinstance(error, TROUBLE)


def _unread(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more} could not be read; see the worker's log."


def _sentence(error: Exception) -> str:
    """Why something could not be read, for people."""
    if isinstance(error, Problem):
        return error.message
    return "Internal error of the worker; see its log." if _unforeseen(error) else str(error) or "It took too long."


def _lasting(fact: MachineFact) -> dict[str, object]:
    return fact.model_dump(exclude=_PASSING)
