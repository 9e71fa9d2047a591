"""Proofs: there and back, bounded."""

import pytest

from machines.contract import limit_test
from machines.contract.limit_test import Measurement
from machines.contract.problems import BadValue

HOLDS = Measurement(
    key="CPUQuota", verdict="enforced", asked=20, measured=19.8, seconds=10, throttled=99, samples=[(0.25, 21.5)]
)


def test_there_and_back():
    assert (
        limit_test.from_wire(
            limit_test.to_wire([HOLDS, Measurement(key="MemoryMax", verdict="no_limit")])
        ).measurements[0]
        == HOLDS
    )


@pytest.mark.parametrize(
    "changed",
    [{"key": "TasksMax"}, {"verdict": "splendid"}, {"why": "because"}, {"asked": -1}, {"measured": float("nan")},
     {"samples": [[0, 1]] * 401}, {"samples": [[0, -1]]}, {"samples": [["<b>", 1]]}, {"samples": [[1, 2, 3]]}, {"word": "x"}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_read_is_refused(changed):
    with pytest.raises(BadValue):
        limit_test.from_wire({"measurements": [HOLDS.model_dump(mode="json") | changed]})


def test_more_than_two_trials_are_refused():
    with pytest.raises(BadValue):
        limit_test.from_wire({"measurements": [HOLDS.model_dump(mode="json")] * 3})
