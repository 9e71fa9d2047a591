"""Whose machine is whose on this host: machine → the slug of the team it belongs to, in the ledger.

It is written down by what orders of the panel did, signed: a build for a team, a removal, and `assign`, which only administrators
may order. So a panel that mixes two teams up cannot make this host act on the wrong machine. A machine that is not named here
belongs to nobody, and only administrators' orders are carried out on it.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

from machines.contract import orders, recipes
from machines.contract.envelope import Actor
from machines.contract.permissions import Role
from machines.contract.problems import NotAllowed

# `job` is the build that has taken the name, until it is known to have made a machine
TABLE = """
create table if not exists owners (name text primary key, team text not null, job text not null default '') without rowid;
"""


def of(db: sqlite3.Connection, name: str) -> str:
    """The team of a machine; "" for nobody's."""
    found = db.execute("select team from owners where name = ?", (name,)).fetchone()
    return str(found[0]) if found else ""


def machines_of(db: sqlite3.Connection, team: str) -> list[str]:
    return [str(row[0]) for row in db.execute("select name from owners where team = ? order by name", (team,))]


def every(db: sqlite3.Connection) -> dict[str, str]:
    """machine → team."""
    return {str(name): str(team) for name, team in db.execute("select name, team from owners")}


def read(file: Path, name: str) -> str:
    """The team of a machine, for whoever is not the worker; "" where the ledger is not there. Raises sqlite3.Error."""
    if not file.exists():
        return ""
    with contextlib.closing(sqlite3.connect(file, timeout=5)) as db:
        db.execute("pragma query_only=on")
        return of(db, name)


def read_all(file: Path) -> dict[str, str] | None:
    """machine → team, for reports; None where it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=5)) as db:
            db.execute("pragma query_only=on")
            return every(db)
    except sqlite3.Error:
        return None


def claim(db: sqlite3.Connection, name: str, team: str, job: UUID) -> None:
    """A build takes a name that no machine has: for a team, or with "" for nobody."""
    if not team:
        db.execute("delete from owners where name = ?", (name,))
        return
    db.execute(
        "insert into owners values (?, ?, ?) on conflict (name) do update set team = excluded.team, job = excluded.job"
        " where team != excluded.team",
        (name, team, str(job)),
    )


def follow(db: sqlite3.Connection, job: UUID, op: str, wanted: dict[str, Any], outcome: dict[str, Any]) -> None:
    """What the end of a job means for whose a machine is; in the transaction that writes it."""
    name, has_succeeded = str(wanted.get("name", "")), outcome["state"] == "succeeded"
    if op == orders.op_of(orders.Build):
        if has_succeeded or outcome.get("machine"):
            db.execute("update owners set job = '' where job = ?", (str(job),))
        else:
            db.execute("delete from owners where job = ?", (str(job),))
    elif op == orders.op_of(orders.Remove) and has_succeeded:
        db.execute("delete from owners where name = ?", (name,))
    elif op == orders.op_of(orders.Assign) and has_succeeded:
        _set(db, name, str(wanted.get("team", "")))


def _set(db: sqlite3.Connection, name: str, team: str) -> None:
    db.execute("delete from owners where name = ?", (name,))
    if team:
        db.execute("insert into owners (name, team) values (?, ?)", (name, team))


# --- judging


def check(db: sqlite3.Connection, actor: Actor, order: orders.Order) -> None:
    """Pass silently when what this order is about belongs to the team it was asked for. Raises NotAllowed. An administrator may
    order anything."""
    if actor.role == Role.ADMINISTRATOR:
        return
    name = str(getattr(order, "name", ""))
    if name and (not isinstance(order, orders.Build) or of(db, name)):
        _check_owner(db, actor, name)
    if isinstance(order, orders.Build) and isinstance(order.recipe, recipes.CloneRecipe):
        _check_owner(db, actor, order.recipe.source)


def check_base(db: sqlite3.Connection, actor: Actor, maker: str) -> None:
    """The same for a base image that was made by the job `maker` and is to go. Raises NotAllowed. One whose job this ledger has
    forgotten, or that was made for no team, is nobody's here: the panel judges."""
    found = db.execute("select team from jobs where id = ?", (maker,)).fetchone()
    if actor.role == Role.ADMINISTRATOR or not found or found[0] in {"", actor.team}:
        return
    raise NotAllowed(
        "The base image was made for another team on this host, so the request was refused.",
        hint="An administrator can remove it.",
        code="not-the-teams",
    )


def check_cancel(db: sqlite3.Connection, actor: Actor, name: str, team: str) -> None:
    """The same for whoever cancels a job that was asked for `team` and is about the machine `name`. Raises NotAllowed."""
    if actor.role == Role.ADMINISTRATOR or (actor.team and actor.team in {team, of(db, name) if name else ""}):
        return
    raise _not_theirs("The job", of_somebody=bool(team))


def _check_owner(db: sqlite3.Connection, actor: Actor, name: str) -> None:
    owner = of(db, name)
    if not actor.team or owner != actor.team:
        raise _not_theirs(name, of_somebody=bool(owner))


def _not_theirs(what: str, *, of_somebody: bool) -> NotAllowed:
    whose = "belongs to another team" if of_somebody else "belongs to no team"
    return NotAllowed(
        f"{what} {whose} on this host, so the request was refused.",
        hint="An administrator can assign the machine to a team in the panel.",
        code="not-the-teams",
    )
