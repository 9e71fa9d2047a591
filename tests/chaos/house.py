"""A panel with two couriers, and two hosts whose machines write down each of their boots."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from nspawnpanel.sandbox import CACHE, Sandbox
from nspawnpanel.stack import REPOSITORY, WORKER, Stack
from nspawnpanel.valkey import free_port
from tests import postgres
from tests.person import Person, until

MACHINES = 4  # of each host
COURIERS = ("courier", "courier-2")
# Not after the boot but in it: a machine that is killed while it boots has booted, too
COUNTED = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'date +%%s.%%N >>/var/boots'
[Install]
WantedBy=sysinit.target
"""
POLICY = (REPOSITORY / "machines/host/policy/policy.toml").read_text()


class Books:
    """What the panel's database says, read past the panel."""

    def __init__(self, data: Path, address: str = "") -> None:
        """`address` is a PostgreSQL's; "" for the SQLite file of `data`."""
        self._data, self._address = data, address

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        if self._address:
            with psycopg.connect(self._address, row_factory=dict_row) as database:
                return database.execute(sql.replace("?", "%s"), values).fetchall()
        file = f"file:{self._data}/panel.sqlite3?mode=ro"
        with sqlite3.connect(file, uri=True, timeout=20) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql, values)]


@dataclass
class House:
    panel: Stack
    hosts: dict[str, Sandbox]
    books: Books
    person: Person

    @property
    def machines(self) -> list[tuple[str, str]]:
        """(host, name) of those that count their boots."""
        return [(host, f"m{number}") for host in self.hosts for number in range(MACHINES)]

    def hear_all(self) -> None:
        """Every worker starts anew, and with that tells how all its machines are."""
        before = self._inventories()
        for host in self.hosts.values():
            host.run(["systemctl", "restart", WORKER])
        until(lambda: all(now != then for now, then in zip(self._inventories(), before, strict=True)), 60)

    def _inventories(self) -> list[Any]:
        return [row["listed_at"] for row in self.books.rows("SELECT listed_at FROM machines_host ORDER BY name")]


@contextmanager
def built(database: str) -> Iterator[House]:
    """`database` is sqlite or postgresql."""
    with ExitStack() as rooms:
        address = rooms.enter_context(postgres.cluster()) if database == "postgresql" else ""
        data = Path(rooms.enter_context(tempfile.TemporaryDirectory(prefix="nspawnpanel-chaos-")))
        panel = Stack(data, free_port(), environment={"DATABASE_URL": address} if address else None)
        rooms.enter_context(panel)
        for name in COURIERS[1:]:
            panel.start_part(name)
        hosts = {name: rooms.enter_context(Sandbox(f"chaos-{os.getpid()}-{name}", CACHE)) for name in ("alpha", "beta")}
        for name, host in hosts.items():
            _furnish(host)
            panel.join(host, name)
        house = House(panel, hosts, Books(data, address), Person(panel))
        until(lambda: _known(house) == len(house.machines), 60, lambda: f"{_known(house)} machines are known")
        yield house


def _furnish(host: Sandbox) -> None:
    host.write("/etc/nspawnpanel/policy.toml", POLICY)
    for number in range(MACHINES):
        name = f"m{number}"
        host.plant(name)
        unit = f"/var/lib/machines/{name}/etc/systemd/system/count-boots.service"
        host.write(unit, COUNTED)
        host.run(["systemctl", f"--root=/var/lib/machines/{name}", "enable", "count-boots.service"])


def _known(house: House) -> int:
    found = house.books.rows("SELECT count(*) AS known FROM machines_machine WHERE state = 'stopped'")
    return int(found[0]["known"])


def boots(host: Sandbox, name: str) -> list[float]:
    """When a machine booted, in seconds since the epoch."""
    told = host.run(["cat", "--", f"/var/lib/machines/{name}/var/boots"], check=False).stdout
    return [float(line) for line in told.split()]
