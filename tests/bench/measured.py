"""What a figure is made of."""

from collections.abc import Callable, Sequence

# What it is, the panel's times, the plain command's, their unit
Measured = tuple[str, Sequence[float], Sequence[float], str]
Measuring = Callable[[], Measured | dict[str, Measured]]  # several figures of one run have names of their own


class NotMeasured(Exception):
    """Why a figure cannot be had on this machine."""
