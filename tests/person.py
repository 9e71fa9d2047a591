"""Somebody at a browser, without the browser: signs in, presses buttons, reads what the panel's database says then."""

import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from html import unescape
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

from nspawnpanel.stack import Stack
from tests.pages import one_line

CONFIRM = "/accounts/reauthenticate/"
FINAL = {"succeeded", "failed", "cancelled", "timed_out", "expired"}


class Person:
    def __init__(self, panel: Stack, user: str = "admin", password: str = "") -> None:
        self.panel = panel
        self.answer = ""  # the page that answered the last form
        self.cookies = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self.cookies))
        self._password = password or (panel.data / "first-password").read_text().strip()
        self.post("/accounts/login/", {"login": user, "password": self._password})

    # --- pages

    def get(self, path: str) -> str:
        with self._opener.open(self.panel.url + path, timeout=30) as answer:
            body = answer.read().decode()
            return one_line(body) if answer.headers.get_content_type() == "text/html" else body

    def post(self, path: str, fields: Mapping[str, Any] | None = None, *, page: str = "") -> str:
        """Post a form; returns the path one is led to. `page` is the page whose form it is, where they differ."""
        return self.send(path, {**self.form_of(page or path), **(fields or {})})

    def form_of(self, page: str) -> dict[str, str]:
        """What every form of a page carries."""
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.get(page))
        return {"csrfmiddlewaretoken": token[1] if token else ""}

    def seen(self, page: str) -> dict[str, str]:
        """What a form carries that may only be sent of the page as it was seen."""
        return {"seen": re.findall(r'name="seen" value="([^"]*)"', self.get(page))[0]}

    def draft(self, machine: str, fields: Mapping[str, Any]) -> dict[str, str]:
        """Make a draft of a machine's settings and open its review; returns what the Apply button there sends."""
        page = f"{machine}config/"
        self.post(page, {**fields, **self.seen(page)})
        return {**self.form_of(f"{page}review/"), **self.seen(f"{page}review/")}

    def filled(self, page: str) -> dict[str, str]:
        """What a browser would send of a page's last form, as the page comes."""
        fields = _Fields()
        fields.feed(self.get(page))
        return fields.sent

    def send(self, path: str, data: Mapping[str, Any]) -> str:
        """Post these fields, just so; again where it was asked first who this is, a quarter of an hour after signing in."""
        led_to = self._send(path, data)
        if not led_to.startswith(CONFIRM) or path.startswith(CONFIRM):
            return led_to
        self.post(CONFIRM, {"password": self._password})
        return self._send(path, data)

    def _send(self, path: str, data: Mapping[str, Any]) -> str:
        request = Request(self.panel.url + path, urlencode(data, doseq=True).encode())
        request.add_header("Referer", self.panel.url + path)
        try:
            answer = self._opener.open(request, timeout=30)
        except HTTPError as error:  # a form with faults, a conflict, what is gone: answers like others
            if error.code not in {409, 410, 422}:
                raise
            answer = error
        with answer:
            self.answer = one_line(answer.read().decode())
            return str(answer.url).removeprefix(self.panel.url)

    # --- orders

    def press(self, verb: str, name: str, host: str = "alpha") -> dict[str, Any]:
        """Press a machine's button; returns the new job."""
        before = self.newest_job()
        machine = f"/hosts/{host}/machines/{name}/"
        led_to = self.post(f"{machine}{verb}/", page=machine)
        jobs = self.jobs_after(before)
        assert jobs, f"no job was made; led to {led_to}: {self.answer}"
        return jobs[0]

    def build(
        self, name: str, host: str = "alpha", token: Mapping[str, str] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Order a new machine; with a `token` the page of the form is open already. Returns the new job."""
        form = {
            "key": str(uuid.uuid4()), "host": host, "name": name, "release": "bookworm",
            "locale": "C.UTF-8", "timezone": "UTC", "network_mode": "veth", "boot": "on", "notify_ready": "on", "start": "on",
            "binds-TOTAL_FORMS": 0, "binds-INITIAL_FORMS": 0, "ports-TOTAL_FORMS": 0, "ports-INITIAL_FORMS": 0,
        }  # fmt: skip
        given = {k: v for k, v in {**form, **fields}.items() if v is not None}
        led_to = self.send("/machines/new/", {**token, **given}) if token else self.post("/machines/new/", given)
        jobs = self.rows("SELECT * FROM machines_job WHERE key = ?", uuid.UUID(form["key"]).hex)
        assert jobs, f"no job was made; led to {led_to}: {self.complaints()}"
        return jobs[0]

    def complaints(self) -> list[str]:
        """What the last form was refused for."""
        found = re.findall(
            r'class="[^"]*invalid-feedback[^"]*"[^>]*>(.*?)</|<li><a href="#[^"]*">(.*?)</a>', self.answer, re.DOTALL
        )
        return [unescape(re.sub(r"<[^>]+>|\s+", " ", a or b)).strip() for a, b in found]

    # --- what the panel knows

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with sqlite3.connect(f"file:{self.panel.data}/panel.sqlite3?mode=ro", uri=True, timeout=20) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql, values)]

    def newest_job(self) -> int:
        return self.rows("SELECT coalesce(max(id), 0) AS id FROM machines_job")[0]["id"]

    def jobs_after(self, job: int) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM machines_job WHERE id > ? ORDER BY id", job)

    def job(self, job: int) -> dict[str, Any]:
        return self.rows("SELECT * FROM machines_job WHERE id = ?", job)[0]

    def machine(self, name: str, host: str = "alpha") -> dict[str, Any]:
        found = self.rows(
            "SELECT m.* FROM machines_machine m JOIN machines_host h ON h.id = m.host_id"
            " WHERE m.name = ? AND h.name = ? AND m.removed_at IS NULL",
            name, host,
        )  # fmt: skip
        return found[0] if found else {}

    def log(self, job: int) -> list[str]:
        """The job's log as it can be downloaded."""
        return self.get(f"/jobs/{job}/log/raw").splitlines()

    def end_of(self, job: dict[str, Any] | int, seconds: float = 120) -> dict[str, Any]:
        """The job once it has ended."""
        number = job if isinstance(job, int) else job["id"]
        until(lambda: self.job(number)["state"] in FINAL, seconds, lambda: f"job {number} is {self.job(number)}")
        return self.job(number)

    def succeed(self, job: dict[str, Any] | int, seconds: float = 120) -> dict[str, Any]:
        ended = self.end_of(job, seconds)
        assert ended["state"] == "succeeded", f"{ended['problem']}\n" + "\n".join(self.log(ended["id"])[-30:])
        return ended

    def sees(self, name: str, state: str, seconds: float = 10, host: str = "alpha") -> dict[str, Any]:
        """The machine once the panel says it is in this state."""
        until(lambda: self.machine(name, host).get("state") == state, seconds, lambda: str(self.machine(name, host)))
        return self.machine(name, host)

    def sees_idle(self, name: str, seconds: float = 30, host: str = "alpha") -> None:
        """Once no job holds the machine."""

        def under_way() -> list[dict[str, Any]]:
            found = self.rows(
                "SELECT j.* FROM machines_job j JOIN machines_host h ON h.id = j.host_id WHERE j.machine_name = ? AND h.name = ?",
                name, host,
            )  # fmt: skip
            return [job for job in found if job["state"] not in FINAL]

        until(lambda: not under_way(), seconds, lambda: str(under_way()))


class _Fields(HTMLParser):
    """The fields of the last form of a page with what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, str] = {}
        self._select = self._area = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        name, value = about.get("name") or "", about.get("value") or ""
        if tag == "form":
            self.sent = {}
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and ("selected" in about or self._select not in self.sent):
            self.sent[self._select] = value
        elif tag == "textarea":
            self._area = name
            self.sent[name] = ""
        elif tag == "input" and name and "disabled" not in about:
            self._take_input(name, value, about)

    def _take_input(self, name: str, value: str, about: dict[str, str | None]) -> None:
        if about.get("type") not in {"checkbox", "radio"}:
            self.sent[name] = value
        elif "checked" in about:
            self.sent[name] = value or "on"

    def handle_endtag(self, tag: str) -> None:
        self._select = "" if tag == "select" else self._select
        self._area = "" if tag == "textarea" else self._area

    def handle_data(self, data: str) -> None:
        if self._area:
            self.sent[self._area] += data.removeprefix("\n")


def until(true: Callable[[], Any], seconds: float, otherwise: Callable[[], str] = lambda: "it did not happen") -> None:
    """Wait for something that another process does. Polling, since no event of it reaches the test."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds} s: {otherwise()}"
        time.sleep(0.05)
