"""States: which are final, which are up, and which moves exist."""

import pytest

from machines.contract.states import (
    FINAL_JOB_STATES,
    MAY_BECOME,
    OUTCOMES,
    UNFINISHED_JOB_STATES,
    JobState,
    MachineState,
)  # fmt: skip


def test_every_job_state_is_either_final_or_not():
    assert set(JobState) == FINAL_JOB_STATES | UNFINISHED_JOB_STATES
    assert not FINAL_JOB_STATES & UNFINISHED_JOB_STATES


def test_nothing_moves_out_of_an_outcome():
    for sources in MAY_BECOME.values():
        assert not sources & OUTCOMES


def test_every_state_but_the_first_can_be_reached():
    assert set(MAY_BECOME) == set(JobState) - {JobState.QUEUED}


def test_the_host_has_the_last_word_over_expiry_and_silence():
    for outcome in OUTCOMES:
        assert {JobState.EXPIRED, JobState.LOST} <= MAY_BECOME[outcome]


def test_a_job_that_runs_is_not_sent_again():
    assert not MAY_BECOME[JobState.SENT] & {JobState.ACCEPTED, JobState.RUNNING}


def test_expiry_is_only_for_what_no_host_took():
    assert MAY_BECOME[JobState.EXPIRED] == {JobState.QUEUED, JobState.SENT}


@pytest.mark.parametrize("state", JobState)
def test_predicates_of_jobs(state):
    assert state.is_final == (state in FINAL_JOB_STATES)


def test_unknown_is_neither_up_nor_stopped():
    assert not MachineState.UNKNOWN.is_up
    assert MachineState.UNKNOWN != MachineState.STOPPED
    assert {s for s in MachineState if s.is_up} == {"running", "starting", "restarting", "degraded", "stopping"}
