"""How several processes share the tests of a run: units go on beside hosts, panels and the virtual machine."""

import os
from collections import Counter
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from nspawnpanel.sandbox import can_boot

# Folders of real parts, in the order in which one process alone would run them, and what they need: who has that goes on
# with what else needs it. There is one virtual machine a run.
ROOMS = {"live": "hosts", "journeys": "panel", "vm": "vm", "browser": "panel"}
UNITS = "units"
# Seconds that a file takes by itself, of the long ones; of others about what stands for their folder, of units for "".
SECONDS = {
    "vm": 340, "live": 20, "journeys": 20, "browser": 12, "": 2,
    "live/test_doctor_network.py": 150, "live/test_units_as_they_are.py": 130, "live/test_bases.py": 120,
    "live/test_host_worker.py": 110, "live/test_doctor.py": 80, "live/test_kills.py": 70, "live/test_distributions.py": 70,
    "live/test_names_and_leftovers.py": 60, "live/test_reading_the_host.py": 55, "live/test_host_pull.py": 55,
    "live/test_images_elsewhere.py": 45, "live/test_host_apply.py": 40,
    "journeys/test_survival.py": 170, "journeys/test_enrolment.py": 45, "journeys/test_archives.py": 60, "journeys/test_found.py": 50,
    "journeys/test_journey.py": 45, "journeys/test_restored_panel.py": 45, "browser/test_recipes.py": 50,
    "browser/test_every_page.py": 50, "browser/test_doctor.py": 30, "browser/test_way_back.py": 25,
    "test_postgresql.py": 330, "test_floods.py": 50, "test_half_requests.py": 35, "host/agent/test_queue.py": 25,
    "panel/test_hostile_facts.py": 18, "panel/test_teams_apart.py": 70, "host/rootfs/test_hostile_trees.py": 55, "test_shared_counts.py": 120, "test_style.py": 15, "panel/test_odd_fields.py": 15, "panel/test_access.py": 15,
    "panel/configs/test_every_setting.py": 12, "panel/test_resync.py": 10, "host/machine/test_remove.py": 10,
    "panel/test_greedy_pages.py": 10, "panel/test_courier.py": 8,
}  # fmt: skip
BEGINNING = 20  # seconds until there are hosts, or a panel with one
MORE = 1  # processes beside one for each processor, for those with real parts mostly wait; with two nothing is faster


def pytest_xdist_auto_num_workers() -> int:
    return len(os.sched_getaffinity(0)) + (MORE if can_boot() is None else 0)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "Shared":
    return Shared(config, log)


def folder_of(nodeid: str) -> str:
    return nodeid.partition("/")[0]


def scope_of(nodeid: str) -> str:
    """What one process does as a whole: a file, for many tests go on where the one before ended; the virtual machine."""
    return "vm" if nodeid.startswith("vm/") else nodeid.partition("::")[0]


def room_of(scope: str) -> str:
    return ROOMS.get(folder_of(scope), UNITS)


def seconds_of(scope: str) -> float:
    return SECONDS.get(scope) or SECONDS.get(folder_of(scope) if room_of(scope) != UNITS else "", SECONDS[""])


def next_scope(waiting: list[str], here: str | None, others: list[str]) -> str | None:
    """What of all that waits a process does next that was in the room `here`, while the `others` are in theirs; None if
    it would only be in their way.

    It stays where it is while something waits there. Then it goes to the virtual machine, which is one long wait and
    should begin at once, or else where most is left for each, unless others end that before it has hosts of its own."""
    rooms: dict[str, list[str]] = {}
    for scope in waiting:
        rooms.setdefault(room_of(scope), []).append(scope)
    there = Counter(others)
    share = {room: sum(map(seconds_of, scopes)) / (there[room] + 1) for room, scopes in rooms.items()}
    worth = [room for room in rooms if room in (UNITS, here) or not there[room] or share[room] > BEGINNING]
    if not worth:
        return None
    chosen = here if here in rooms else max(worth, key=lambda room: (room == "vm", share[room]))
    return max(rooms[chosen], key=seconds_of)


class Shared(LoadScopeScheduling):
    """Hands out what `next_scope` says."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self.rooms: dict[WorkerController, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:  # with fewer it would wait
            self._assign_work_unit(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give it something to do, or let it end."""
        others = [room for other, room in self.rooms.items() if other is not node]
        scope = next_scope(list(self.workqueue), self.rooms.get(node), others)
        if scope is None:
            self.rooms.pop(node, None)
            node.shutdown()
            return
        self.rooms[node] = room_of(scope)
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        self.rooms.pop(node, None)
        return super().remove_node(node)
