from datetime import timedelta

import pytest

from machines.contract import quantities


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0, "<1 s"), (59.9, "59 s"), (192, "3 m 12 s"), (3600, "1 h 0 m"), (90_061, "1 d 1 h"), (-5, "<1 s")],
)
def test_durations(seconds, said):
    assert quantities.duration(seconds).replace("\u00a0", " ") == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1 KiB"),
        (1_503_238_553, "1.4 GiB"),
        (1023 * 2**20, "1.0 GiB"),
        (250 * 2**30, "250 GiB"),
        (2**60, "1024 PiB"),
    ],
)
def test_sizes(count, said):
    assert quantities.size(count).replace("\u00a0", " ") == said


@pytest.mark.parametrize(("seconds", "said"), [(59, "59 s"), (119, "1 min"), (7_200, "2 h"), (200_000, "2 d")])
def test_a_span_said_roughly(seconds, said):
    assert quantities.roughly(timedelta(seconds=seconds)).replace("\u00a0", " ") == said
