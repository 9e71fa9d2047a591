"""The same records and pages on a real PostgreSQL: the parts that touch the database run once more there."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nspawnpanel.valkey import free_port

ROOT = Path(__file__).parent.parent
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
SUITES = ["tests/models", "tests/panel"]


def as_postgres() -> None:
    """PostgreSQL refuses to run as root."""
    someone = pwd.getpwnam("postgres")
    os.setgid(someone.pw_gid)
    os.setuid(someone.pw_uid)


def _run(argv: list[Any]) -> None:
    subprocess.run(argv, check=True, preexec_fn=as_postgres, capture_output=True, cwd="/")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A throw-away cluster on the loopback; its address as DATABASE_URL."""
    if not BINARIES or os.geteuid() != 0:
        pytest.skip("no PostgreSQL server is installed, or not root")
    binaries, port = BINARIES[-1].parent, free_port()
    data = Path("/tmp") / f"nspawnpanel-pg-{port}"
    _run([binaries / "initdb", "--no-sync", "--auth=trust", "--pgdata", data])
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    log = data / "log"
    _run([binaries / "pg_ctl", "start", "--wait", "--silent", "-D", data, "-l", log, "-o", options])
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        _run([binaries / "pg_ctl", "stop", "--mode=immediate", "-D", data])
        subprocess.run(["rm", "-rf", data], check=True)


def test_models_and_pages_work_on_postgresql(cluster: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *SUITES, "-q", "-n0", "-p", "no:cacheprovider", "--reuse-db"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": cluster},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
