"""A small run of `make chaos`: every promise holds under kills, freezes and a Redis that comes back from earlier."""

import subprocess
import sys

from nspawnpanel.stack import REPOSITORY

JOBS = 40


def test_no_job_is_lost_doubled_or_undecided(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--jobs", str(JOBS)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    with capsys.disabled():
        sys.stdout.write(f"\n{done.stdout}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    assert "lost 0, doubled 0, undecided after 60 s 0, untrue 0" in done.stdout
