"""Kills at random moments: every job ends, and what is under a machine's name is whole or not there at all.

KILLS says how many (KILLS=50 takes about a quarter of an hour), SEED repeats a run.
"""

import os
import random
import time
from collections.abc import Iterator
from uuid import UUID

import pytest

from machines.contract import nspawn, orders
from machines.contract.recipes import DebianRecipe, FirstBoot
from tests.host.scratch_panel import SERVICE, ScratchPanel

KILLS = int(os.environ.get("KILLS", "4"))
SEED = int(os.environ.get("SEED", "7"))
LONGEST = 25.0  # seconds; about as long as a build takes
DECIDED = 60.0  # seconds from a kill of the builder to the outcome


def build(name: str, *, fresh: bool) -> orders.Build:
    configuration = orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits="")
    return orders.Build(
        name=name, recipe=DebianRecipe(release="bookworm"), first_boot=FirstBoot(), configuration=configuration,
        start=False, fresh=fresh,
    )  # fmt: skip


def kill_worker(panel: ScratchPanel, job: UUID) -> None:
    del job
    panel.sandbox.run(["systemctl", "kill", "--signal=KILL", SERVICE])


def kill_builder(panel: ScratchPanel, job: UUID) -> None:
    """The job's own process, and with it everything it has started; a job without a unit has none."""
    panel.sandbox.run(
        ["systemctl", "kill", "--kill-whom=all", "--signal=KILL", f"nspawnpanel-job-{job}.service"], check=False
    )


def kill_tool(panel: ScratchPanel, job: UUID) -> None:
    """Only what the builder has started."""
    panel.sandbox.run(["pkill", "--signal=KILL", "--full", f"nspawnpanel-{job}.tmp"], check=False)


CULPRITS = (kill_worker, kill_builder, kill_tool)


def plan() -> list[tuple[int, str, float, bool]]:
    """(number, who is killed, after how many seconds, whether it is a build and not a copy)."""
    dice = random.Random(SEED)
    rounds = []
    for number in range(KILLS):
        fresh = number % 2 == 0
        rounds.append((number, dice.choice(CULPRITS).__name__, dice.uniform(0, LONGEST if fresh else 0.6), fresh))
    return rounds


@pytest.fixture(scope="module")
def base(scratch: ScratchPanel) -> Iterator[None]:
    outcome = scratch.do(build("kills-first", fresh=False), 300)
    assert outcome.state == "succeeded", outcome.problem
    yield
    scratch.do(orders.Remove(name="kills-first"))


@pytest.mark.parametrize(("number", "who", "after", "fresh"), plan())
def test_whoever_is_killed_the_job_ends_and_nothing_is_half_there(scratch, base, number, who, after, fresh):
    name = f"killed-{number}"
    job = scratch.order(build(name, fresh=fresh))
    time.sleep(after)
    {culprit.__name__: culprit for culprit in CULPRITS}[who](scratch, job)
    killed = time.monotonic()
    outcome = scratch.outcome(job, 300)
    if outcome.state == "failed":
        assert time.monotonic() - killed < DECIDED
        assert outcome.problem["message"]
    names = scratch.sandbox.run(["ls", "-A", "/var/lib/machines", "/etc/systemd/nspawn"]).stdout.split()
    assert not [left for left in names if left.startswith(".nspawnpanel-") and left.endswith((".tmp", ".base", ".zst"))]
    if outcome.state == "succeeded":
        assert scratch.sandbox.read(f"/var/lib/machines/{name}/etc/hostname").strip() == name
        assert scratch.do(orders.Remove(name=name)).state == "succeeded"
    else:
        assert name not in names
        assert f"{name}.nspawn" not in names
