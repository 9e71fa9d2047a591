"""Steps back run in reverse unless success is declared."""

import pytest

from machines.host.system.undo import Undo


def test_it_goes_back_in_reverse():
    done: list[int] = []
    with pytest.raises(RuntimeError), Undo() as undo:  # noqa: PT012
        undo.push(done.append, 1)
        undo.push(done.append, 2)
        raise RuntimeError
    assert done == [2, 1]


def test_what_is_kept_stays():
    done: list[int] = []
    with Undo() as undo:
        undo.push(done.append, 1)
        undo.keep()
        undo.push(done.append, 2)
    assert done == [2]


def test_a_step_that_fails_does_not_stop_the_others():
    done: list[int] = []
    with Undo() as undo:
        undo.push(done.append, 1)
        undo.push(lambda: 1 / 0)
    assert done == [1]
