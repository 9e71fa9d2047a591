"""A throw-away PostgreSQL cluster on the loopback, of the server that is installed."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nspawnpanel.valkey import free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def cannot_run() -> str | None:
    """Why there can be none here, or None."""
    return None if BINARIES and os.geteuid() == 0 else "no PostgreSQL server is installed, or not root"


@contextmanager
def cluster() -> Iterator[str]:
    """Its address as DATABASE_URL; gone afterwards."""
    binaries, port = BINARIES[-1].parent, free_port()
    data = Path("/tmp") / f"nspawnpanel-pg-{port}"
    _run([binaries / "initdb", "--no-sync", "--auth=trust", "--pgdata", data])
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    _run([binaries / "pg_ctl", "start", "--wait", "--silent", "-D", data, "-l", data / "log", "-o", options])
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        _run([binaries / "pg_ctl", "stop", "--mode=immediate", "-D", data])
        subprocess.run(["rm", "-rf", data], check=True)


def _run(argv: list[Any]) -> None:
    subprocess.run(argv, check=True, preexec_fn=_as_postgres, capture_output=True, cwd="/")


def _as_postgres() -> None:
    """PostgreSQL refuses to run as root."""
    someone = pwd.getpwnam("postgres")
    os.setgid(someone.pw_gid)
    os.setuid(someone.pw_uid)
