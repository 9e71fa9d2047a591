"""Reports: there and back, bounded in every direction, for a host may be hostile."""

from typing import get_args
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.contract import reports
from machines.contract.problems import BadValue
from machines.contract.reports import HostFact, Line, MachineFact

JOB = uuid4()
FACT = MachineFact(
    name="web", state="running", since=1_760_000_000.5, leader=42, addresses=[{"family": "inet", "address": "10.0.0.2"}],
    memory_bytes=1 << 40, effective={"MemoryMax": "infinity"},
)  # fmt: skip
ONE_OF_EACH = [
    reports.Accepted(job=JOB), reports.Phase(job=JOB, name="packages", number=2, of=5, at=1.5),
    reports.Progress(job=JOB, fraction=0.5, note="half"), reports.Command(job=JOB, argv=["echo", "a b"]),
    reports.Lines(job=JOB, first=1, lines=[Line(at=1, source="e", text="oops")]),
    reports.JobOutput(job=JOB, parts=[reports.Command(job=JOB, argv=["ls"]), reports.Progress(job=JOB, fraction=1)]),
    reports.Outcome(job=JOB, state="failed", at=2, problem={"code": "x"}, result={"a": [1, 2.5, None]}, machine=FACT),
    reports.Observed(machines=[FACT], gone=["db"]), reports.Inventory(host=HostFact(systemd=252), machines=[FACT], jobs=[JOB]),
    reports.Heartbeat(load=0.5), reports.Refused(code="envelope-forged", message="no"),
    reports.ObservedFiles(machines=[reports.ObservedMachine(name="web", shown={"MemoryMax": "512"}, files=[
        reports.ObservedFile(path="/etc/systemd/nspawn/web.nspawn", kind="nspawn", text="[Exec]\n")])]),
]  # fmt: skip


def test_there_is_one_of_each():
    assert {type(report) for report in ONE_OF_EACH} == set(get_args(get_args(reports.AnyReport)[0]))


@pytest.mark.parametrize("report", ONE_OF_EACH, ids=lambda report: report.kind)
def test_there_and_back(report):
    assert reports.from_wire(reports.to_wire(report)) == report


@pytest.mark.parametrize("report", ONE_OF_EACH, ids=lambda report: report.kind)
def test_a_field_too_many_is_refused(report):
    with pytest.raises(BadValue):
        reports.from_wire(reports.to_wire(report) | {"extra": 1})


def changed(kind: str, **changes):
    report = next(report for report in ONE_OF_EACH if report.kind == kind)
    return reports.to_wire(report) | changes


FACT_WIRE = FACT.model_dump(mode="json")


@pytest.mark.parametrize(
    "data",
    [
        changed("lines", first=0),
        changed("lines", first=2**31),
        changed("lines", lines=[{"at": 1, "text": ""}] * 501),
        changed("lines", lines=[{"at": 1, "text": "a" * 16_385}]),
        changed("lines", lines=[{"at": float("nan"), "text": ""}]),
        changed("lines", lines=[{"at": 1e300, "text": ""}]),
        changed("lines", lines=[{"at": 1, "source": "x", "text": ""}]),
        changed("job_output", parts=[]),
        changed("job_output", parts=[{"kind": "progress", "job": str(JOB), "fraction": 1}] * 101),
        changed("job_output", parts=[{"kind": "progress", "job": str(uuid4()), "fraction": 1}]),
        changed("job_output", parts=[{"kind": "heartbeat"}]),
        changed("phase", at=float("inf")),
        changed("phase", at=-1),
        changed("phase", number=51),
        changed("phase", name="a" * 301),
        changed("progress", fraction=1.1),
        changed("progress", fraction=float("nan")),
        changed("command", argv=["a"] * 1001),
        changed("outcome", state="running"),
        changed("outcome", result={"x": float("inf")}),
        changed("outcome", result={"x": 2**63}),
        changed("outcome", result={"k" * 301: 1}),
        changed("observed", machines=[FACT_WIRE | {"leader": 2**31}]),
        changed("observed", machines=[FACT_WIRE | {"memory_bytes": -1}]),
        changed("observed", machines=[FACT_WIRE | {"disk_bytes": 2**64 - 1}]),
        changed("observed", machines=[FACT_WIRE | {"state": "building"}]),
        changed("observed", machines=[FACT_WIRE] * 2001),
        changed("inventory", host={"cgroup": "v3"}),
        changed("refused", message="a" * 4001),
        {"kind": "nonsense"},
        None,
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(data):
    with pytest.raises(BadValue):
        reports.from_wire(data)


def test_deep_nesting_is_refused():
    deep: list = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(BadValue, match="nested"):
        reports.from_wire(changed("outcome", result={"x": deep}))


def test_nul_does_not_reach_the_database():
    report = reports.from_wire(changed("outcome", result={"a\0b": ["c\0"]}, problem={"message": "\0"}))
    assert report.result == {"a�b": ["c�"]}
    assert report.problem == {"message": "�"}
    lines = reports.from_wire(changed("lines", lines=[{"at": 1, "text": "a\0b"}]))
    assert lines.lines[0].text == "a�b"


@given(st.dictionaries(st.sampled_from(["kind", "job", "lines", "at", "first", "state"]), st.none() | st.integers() | st.floats() | st.text(max_size=9) | st.just("lines") | st.just(str(JOB)), max_size=6))  # fmt: skip
def test_noise_raises_bad_value_and_nothing_else(data):
    try:
        reports.from_wire(data)
    except BadValue:
        return
