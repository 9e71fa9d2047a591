"""How processes share a run, without one: every test is done once, real parts go on beside units."""

from itertools import chain, groupby
from pathlib import Path

import pytest

from tests import sharing

HERE = Path(__file__).parent
FILES = sorted(str(path.relative_to(HERE)) for path in HERE.rglob("test_*.py"))
ALL = list(dict.fromkeys(map(sharing.scope_of, FILES)))
LIVE = [scope for scope in ALL if scope.startswith("live/")]
UNITS = [scope for scope in ALL if sharing.room_of(scope) == sharing.UNITS]


def run(processes: int, scopes: list[str]) -> tuple[list[list[str]], float]:
    """What each of them did, and the seconds until the last has ended, if each took what the table says."""
    waiting, done = list(scopes), [[] for _ in range(processes)]
    rooms: dict[int, str] = {}
    free = dict.fromkeys(range(processes), 0.0)
    ended = 0.0
    while free:
        me = min(free, key=lambda one: free[one])
        others = [room for one, room in rooms.items() if one != me]
        scope = sharing.next_scope(waiting, rooms.get(me), others)
        if scope is None:
            ended = max(ended, free.pop(me))
            rooms.pop(me, None)
            continue
        waiting.remove(scope)
        rooms[me] = sharing.room_of(scope)
        done[me].append(scope)
        free[me] += sharing.seconds_of(scope)
    assert waiting == []
    return done, ended


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7, 18])
@pytest.mark.parametrize("scopes", [ALL, UNITS, LIVE, LIVE[:1], ["vm"]], ids=["all", "units", "live", "one", "vm"])
def test_each_is_done_once_by_however_many(processes, scopes):
    done, _ = run(processes, scopes)
    assert sorted(chain.from_iterable(done)) == sorted(scopes)


def test_the_virtual_machine_hosts_a_panel_and_units_begin_at_once():
    done, _ = run(4, ALL)
    assert {sharing.room_of(each[0]) for each in done} == {"vm", "hosts", "panel", "units"}


def test_who_has_hosts_goes_on_with_them_while_there_is_something_for_hosts():
    for each in run(4, ALL)[0]:
        rooms = [sharing.room_of(scope) for scope in each]
        assert [room for room, _ in groupby(rooms)] == list(dict.fromkeys(rooms))


def test_nobody_boots_hosts_for_the_little_that_others_end_sooner():
    assert sharing.next_scope(["live/test_1.py"], "units", ["hosts", "hosts"]) is None
    assert sharing.next_scope(["live/test_1.py"], "units", []) == "live/test_1.py"


def test_whatever_the_table_of_seconds_names_is_there():
    assert [name for name in sharing.SECONDS if name.endswith(".py") and name not in FILES] == []


def test_a_folder_of_real_parts_is_known_as_such():
    real = {path.parent.name for path in HERE.glob("*/conftest.py")} - {"host"}
    assert real | {"journeys"} == set(sharing.ROOMS)


def test_four_take_little_longer_than_a_fourth():
    _, ended = run(4, ALL)
    assert ended < 1.15 * sum(map(sharing.seconds_of, ALL)) / 4
