"""A host's clock against the panel's, as its signed reports show it.

A report can be late but not early, so what two heartbeats in a row agree on is how the clocks stand. Orders are dated:
with clocks that differ by more than a minute none is sent, whichever of the two is behind, but for those of the doctor.
"""

from machines.contract.envelope import CLOCK_SKEW
from machines.contract.orders import kind_of
from machines.contract.problems import Problem
from machines.contract.quantities import duration
from machines.models import Host

UNSEEN = 2.0  # seconds by which two clocks may differ without a word
AGREED = 3.0  # seconds by which two measurements may differ


def measure(host: Host, ahead: float) -> None:
    """Take what one heartbeat says: seconds its host is ahead, less the time it was on its way."""
    before, host.clock_heard = host.clock_heard, ahead
    if before is not None and abs(ahead - before) <= AGREED:
        host.clock_skew = max(ahead, before)


def by_ours(host: Host, at: float) -> float:
    """A moment on a host's clock as the panel's shows it, as far as it was measured; in seconds since the epoch."""
    return at - (host.clock_skew or 0.0)


def is_wrong(skew: float | None) -> bool:
    return skew is not None and abs(skew) > CLOCK_SKEW


def holds_back(skew: float | None, op: str) -> bool:
    """Whether an order waits until the clocks agree."""
    return is_wrong(skew) and kind_of(op).needs_clock


def in_words(skew: float) -> str:
    """5 min 2 s behind the panel's."""
    return f"{duration(abs(skew))} {'behind' if skew < 0 else 'ahead of'} the panel's"


def problem(host: str, skew: float | None) -> Problem:
    """Why an order cannot get to a host whose clock is wrong, and what to do."""
    how = f"is {in_words(skew)}" if skew is not None and abs(skew) > UNSEEN else "does not agree with the panel's"
    return Problem(
        f"The clock of {host} {how}.", code="clock-wrong",
        hint="Requests wait until the two differ by less than a minute. Run timedatectl on both to see which one is "
        "wrong; NTP keeps it right (systemd-timesyncd or chrony), and timedatectl set-time sets it manually.",
    )  # fmt: skip
