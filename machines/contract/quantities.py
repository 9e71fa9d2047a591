"""Sizes and spans of time as people read them."""

from datetime import timedelta

NBSP = "\u00a0"
NOTHING = "\u2013"


def size(value: float | None) -> str:
    """1.4 GiB: binary units, three figures at most."""
    if value is None:
        return NOTHING
    number = float(value)
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while abs(number) >= 1000 and len(units) > 1:
        number /= 1024
        del units[0]
    unit = units[0]
    digits = 0 if unit == "B" or abs(number) >= 100 or number.is_integer() else 1
    return f"{number:.{digits}f}{NBSP}{unit}"


def duration(value: float | timedelta | None) -> str:
    """3 m 12 s: the two largest units, held together; <1 s for less than one, also where clocks make it negative."""
    if value is None:
        return NOTHING
    seconds = int(value.total_seconds() if isinstance(value, timedelta) else value)
    if seconds < 1:
        return f"<1{NBSP}s"
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{NBSP}{unit}")
    return NBSP.join(parts[:2])


def roughly(span: timedelta) -> str:
    """12 min: the largest unit alone."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if span.total_seconds() >= length:
            return f"{int(span.total_seconds() // length)}{NBSP}{unit}"
    return f"{int(span.total_seconds())}{NBSP}s"
