"""The same records and pages on a real PostgreSQL: the parts that touch the database run once more there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres

ROOT = Path(__file__).parent.parent
SUITES = ["tests/models", "tests/panel"]


@pytest.fixture
def cluster() -> Iterator[str]:
    if reason := postgres.cannot_run():
        pytest.skip(reason)
    with postgres.cluster() as address:
        yield address


@pytest.mark.postgresql
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
