"""What a test of a machine's limits measured: each cap that was tried, with the samples its chart is drawn from."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from machines.contract.problems import BadValue

Key = Literal["CPUQuota", "MemoryMax"]
# enforced: the load ran into the cap and got no further · exceeded: it got further · not_reached: it never came so far ·
# no_limit: there is no such cap · skipped: it was not tried, see Why
Verdict = Literal["enforced", "exceeded", "not_reached", "no_limit", "skipped"]
Why = Literal["", "too-near", "host-small", "more-than-host", "group-kill", "no-meter"]

Amount = Annotated[float, Field(ge=0, le=2**63)]
Sample = tuple[Annotated[float, Field(ge=0, le=1000)], Amount]


class Measurement(BaseModel):
    """One cap. CPU in percent of one CPU, memory in bytes; samples are (seconds since the load began, use of the whole
    machine). `measured` is the average for CPU and the peak for memory; `own` is what the machine used before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    verdict: Verdict
    why: Why = ""
    asked: Amount = 0
    measured: Amount = 0
    own: Amount = 0
    needed: Amount = 0  # with host-small: what the test would have taken
    seconds: Annotated[float, Field(ge=0, le=1000)] = 0
    throttled: Annotated[int, Field(ge=0, le=2**31)] = 0  # times the kernel held the CPU back
    killed: bool = False  # the kernel ended the load
    others: Annotated[int, Field(ge=0, le=10_000)] = 0  # processes of the machine's own it ended besides
    samples: Annotated[list[Sample], Field(max_length=400)] = []


class LimitTestResult(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    measurements: Annotated[list[Measurement], Field(max_length=2)]


def from_wire(data: object) -> LimitTestResult:
    """Raises BadValue."""
    try:
        return LimitTestResult.model_validate(data)
    except ValidationError as error:
        raise BadValue("The result of the limit test cannot be read.", field="measurements") from error


def to_wire(measurements: list[Measurement]) -> dict[str, Any]:
    return LimitTestResult(measurements=measurements).model_dump(mode="json")
