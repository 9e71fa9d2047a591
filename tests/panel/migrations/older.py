"""A database as the version before left it, in this panel's place: a SQLite file, or a database of the PostgreSQL at hand.

`before.sql` is a dump of SQLite with its schema. PostgreSQL gets the schema by the migrations up to that version, and the
rows out of a copy of the dump in memory.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import load_backend

DUMP = Path(__file__).with_name("before.sql")
NEWEST_IN_IT = ("machines", "0021_hosts_believed")
NAME = "nspawnpanel_before"


@contextmanager
def database(folder: Path) -> Iterator[BaseDatabaseWrapper]:
    """The connection to it, which is the default one meanwhile."""
    usual = connections["default"]
    make = _sqlite if usual.vendor == "sqlite" else _postgresql
    with make(usual, folder) as older:
        connections["default"] = older
        try:
            if older.vendor != "sqlite":
                migrate(older, NEWEST_IN_IT)
                _fill(older)
            yield older
        finally:
            connections["default"] = usual
            older.close()


def migrate(connection: BaseDatabaseWrapper, *but: tuple[str, str]) -> None:
    """To the newest, or for some apps to a certain migration."""
    executor = MigrationExecutor(connection)
    held = {app for app, _ in but}
    executor.migrate([*(leaf for leaf in executor.loader.graph.leaf_nodes() if leaf[0] not in held), *but])


@contextmanager
def _sqlite(usual: BaseDatabaseWrapper, folder: Path) -> Iterator[BaseDatabaseWrapper]:
    file = folder / f"{NAME}.sqlite3"
    with sqlite3.connect(file) as fresh:
        fresh.executescript(DUMP.read_text())
    fresh.close()
    yield _connected(usual, str(file))


@contextmanager
def _postgresql(usual: BaseDatabaseWrapper, folder: Path) -> Iterator[BaseDatabaseWrapper]:
    _administer(usual, f"DROP DATABASE IF EXISTS {NAME}", f"CREATE DATABASE {NAME}")
    yield _connected(usual, NAME)
    _administer(usual, f"DROP DATABASE {NAME}")


def _connected(usual: BaseDatabaseWrapper, name: str) -> BaseDatabaseWrapper:
    settings = {**usual.settings_dict, "NAME": name}
    return load_backend(settings["ENGINE"]).DatabaseWrapper(settings, "default")


def _administer(usual: BaseDatabaseWrapper, *statements: str) -> None:
    with usual._nodb_cursor() as cursor:  # type: ignore[attr-defined]
        for statement in statements:
            cursor.execute(statement)


def _fill(older: BaseDatabaseWrapper) -> None:
    """All rows of the dump but those of the migrations themselves; what is numbered goes on after them."""
    with sqlite3.connect(":memory:") as dump, older.cursor() as cursor:
        dump.executescript(DUMP.read_text())
        had = {name for (name,) in dump.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        had -= {"django_migrations"}
        tables = [table for table in older.introspection.table_names(cursor) if table in had]
        with _transaction(cursor):
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            for table in tables:
                cursor.execute(f"DELETE FROM {table}")
            for table in tables:
                _copy(dump, cursor, table)
        for table in tables:
            for sequence in older.introspection.get_sequences(cursor, table):
                column = sequence["column"]
                highest = f"(SELECT coalesce(max({column}), 1) FROM {table})"
                cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), {highest})")
    dump.close()


def _copy(dump: sqlite3.Connection, cursor: Any, table: str) -> None:
    """SQLite keeps a truth as a number; all else PostgreSQL reads as SQLite has it."""
    cursor.execute("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s", [table])
    kinds = dict(cursor.fetchall())
    names = ", ".join(f'"{name}"' for name in kinds)
    for row in dump.execute(f"SELECT {names} FROM {table}"):
        values = [bool(each) if kinds[name] == "boolean" else each for name, each in zip(kinds, row, strict=True)]
        cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(values))})", values)


@contextmanager
def _transaction(cursor: Any) -> Iterator[None]:
    cursor.execute("BEGIN")
    yield
    cursor.execute("COMMIT")
