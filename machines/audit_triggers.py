"""The database itself refuses to change the history. Set after every migration, for SQLite loses them with a table it
makes anew. Whoever owns the database can drop them; then the chain tells (panel/audit/verify.py).

Facts: SQLite's RAISE(ABORT) takes back the statement alone; PostgreSQL's TRUNCATE fires no trigger FOR EACH ROW.
"""

from django.db.backends.base.base import BaseDatabaseWrapper

NAMES = ("history_unchanged", "history_kept")
SAYS = "The history only grows."
_OLD = "OLD.id < coalesce((SELECT first FROM machines_eventhead), 0)"

_SQLITE = (
    f"CREATE TRIGGER IF NOT EXISTS history_unchanged BEFORE UPDATE ON machines_event "
    f"BEGIN SELECT RAISE(ABORT, '{SAYS}'); END",
    f"CREATE TRIGGER IF NOT EXISTS history_kept BEFORE DELETE ON machines_event "
    f"WHEN NOT ({_OLD}) BEGIN SELECT RAISE(ABORT, '{SAYS}'); END",
)
_POSTGRESQL = (
    f"CREATE OR REPLACE FUNCTION history_refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    f"IF TG_OP = 'DELETE' THEN IF {_OLD} THEN RETURN OLD; END IF; END IF; "
    f"RAISE EXCEPTION '{SAYS}' USING ERRCODE = 'check_violation'; END $$",
    "CREATE OR REPLACE TRIGGER history_unchanged BEFORE UPDATE OR DELETE ON machines_event "
    "FOR EACH ROW EXECUTE FUNCTION history_refuses()",
    "CREATE OR REPLACE TRIGGER history_kept BEFORE TRUNCATE ON machines_event "
    "FOR EACH STATEMENT EXECUTE FUNCTION history_refuses()",
)


def create(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for statement in _SQLITE if connection.vendor == "sqlite" else _POSTGRESQL:
            cursor.execute(statement)


def drop(connection: BaseDatabaseWrapper) -> list[str]:
    """The statements that take them away: for migrations that write the history anew."""
    on = "" if connection.vendor == "sqlite" else " ON machines_event"
    return [f"DROP TRIGGER IF EXISTS {name}{on}" for name in NAMES]


def missing(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of those that are not there."""
    source = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if connection.vendor == "sqlite"
        else "SELECT tgname FROM pg_trigger WHERE tgrelid = 'machines_event'::regclass AND tgenabled <> 'D'"
    )
    with connection.cursor() as cursor:
        cursor.execute(source)
        there = {name for (name,) in cursor.fetchall()}
    return [name for name in NAMES if name not in there]
