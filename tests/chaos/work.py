"""People at work: mixed jobs, each a form that is posted as a browser does; nothing is asked of the panel's inside."""

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from random import Random
from urllib.error import HTTPError

from tests.chaos.house import House
from tests.panel.configs.posts import post

AT_ONCE = 10  # jobs under way; more would only wait for this machine's processors
OPEN = "('queued', 'sent', 'accepted', 'running', 'lost')"
PATIENCE = 20.0  # seconds after which a form is not tried any more
# What is done to a machine that stays, and how often
VERBS = {"start": 8, "poweroff": 4, "reboot": 3, "terminate": 2, "enable": 1, "disable": 1, "apply": 3}


class Unanswered(Exception):
    """The panel went away under the request: whether it was heard, nobody can say."""


@contextmanager
def unanswered() -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        if error.code < 500:
            raise
        raise Unanswered(f"{error.code} {error.url}") from error
    except (OSError, HTTPException) as error:
        raise Unanswered(str(error)) from error


class People:
    def __init__(self, house: House, dice: Random) -> None:
        self.house, self._dice = house, dice
        self.placed: Counter[str] = Counter()
        self.refused = self.unanswered = self.cancels = 0
        self.vanished: list[str] = []  # forms that were answered as placed and left no job
        self._made: list[tuple[str, str]] = []

    def work(self, jobs: int) -> None:
        """Place so many jobs, a few at a time."""
        while self.placed.total() < jobs:
            if len(self.open_jobs()) >= AT_ONCE:
                time.sleep(0.1)
                continue
            self._one()

    def open_jobs(self) -> list[dict[str, object]]:
        return self.house.books.rows(f"SELECT * FROM machines_job WHERE state IN {OPEN}")

    # --- one form

    def _one(self) -> None:
        turn = self._dice.random()
        if turn < 0.08:
            self._cancel()
        elif turn < 0.16:
            self._create()
        elif turn < 0.22 and self._made:
            host, name = self._made.pop(self._dice.randrange(len(self._made)))
            self._place("remove", host, name, lambda: self._remove(host, name))
        else:
            host, name = self._dice.choice(self.house.machines)
            verb = self._dice.choices(list(VERBS), list(VERBS.values()))[0]
            self._place(verb, host, name, lambda: self._verb(verb, host, name))

    def _verb(self, verb: str, host: str, name: str) -> None:
        page = _page(host, name)
        if verb == "apply":
            self._apply(page)
        else:
            self.house.person.post(f"{page}{verb}/", page=page)

    def _remove(self, host: str, name: str) -> None:
        self.house.person.post(f"{_page(host, name)}remove/", {"confirm": name})

    def _apply(self, page: str) -> None:
        """A memory limit of its own, through draft and review."""
        fields = self.house.person.draft(page, post(memory_max=f"{self._dice.randrange(300, 900)}M"))
        self.house.person.send(f"{page}config/apply/", fields)

    def _create(self) -> None:
        """A copy of a machine that stays, or a small build of its own."""
        host, original = self._dice.choice(self.house.machines)
        name = f"{self._dice.choice(['copy', 'made'])}-{uuid.UUID(int=self._dice.getrandbits(128)).hex[:6]}"
        source = {"source": "clone", "clone": original} if name.startswith("copy") else {}
        self._made.append((host, name))
        self._place("build", host, name, lambda: self._new(host, name, source))

    def _new(self, host: str, name: str, source: dict[str, str]) -> None:
        form = {
            "key": str(uuid.uuid4()),
            "host": host,
            "name": name,
            "release": "bookworm",
            "locale": "C.UTF-8",
            "timezone": "UTC",
        }
        self.house.person.post("/machines/new/", {**form, **post(), **source})

    def _cancel(self) -> None:
        running = self.open_jobs()
        if not running:
            return
        job = self._dice.choice(running)["id"]
        try:
            with unanswered():
                self.house.person.post(f"/jobs/{job}/cancel/", page=f"/jobs/{job}/")
            self.cancels += 1
        except Unanswered:
            self.unanswered += 1
        except HTTPError:
            self.refused += 1

    def _place(self, op: str, host: str, name: str, send: Callable[[], None]) -> None:
        """Press; where no answer came, look whether it was heard, and press again as a person would."""
        newest = self.house.books.rows("SELECT coalesce(max(id), 0) AS id FROM machines_job")[0]["id"]
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            answered = True
            try:
                with unanswered():
                    send()
            except Unanswered:
                self.unanswered += 1
                answered = False
            except (HTTPError, IndexError):  # the page says no, or shows no such form
                self.refused += 1
                return
            mine = self.house.books.rows("SELECT id FROM machines_job WHERE id > ? AND machine_name = ?", newest, name)
            if mine:
                self.placed[op] += 1
                return
            if answered:
                self._not_placed(op, host, name, newest)
                return
            time.sleep(0.3)

    def _not_placed(self, op: str, host: str, name: str, newest: int) -> None:
        """Refused with a sentence; a page that speaks of a new job has lied."""
        if any(int(told) > newest for told in re.findall(r"View job (\d+)", self.house.person.answer)):
            self.vanished.append(f"{op} {name} on {host}")
        self.refused += 1


def _page(host: str, name: str) -> str:
    return f"/hosts/{host}/machines/{name}/"
