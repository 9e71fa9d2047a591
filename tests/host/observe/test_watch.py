"""What the watch looks at and how often, without a bus."""

import asyncio
from types import SimpleNamespace

import pytest
from dbus_fast import Message, MessageType

from machines.host.observe import watch
from machines.host.system.bus import unit_path
from machines.host.system.rate_limit import Budget


def watching(units: dict[str, str] | None = None) -> watch.Watch:
    made = object.__new__(watch.Watch)
    made._host = SimpleNamespace(slow=SimpleNamespace(units=units or {}))
    made._dirty, made._held, made._looks, made._wanted = set(), {}, {}, asyncio.Event()
    return made


def changed(unit: str, key: str = "ActiveState") -> Message:
    return Message(
        message_type=MessageType.SIGNAL, path=unit_path(unit), interface="org.freedesktop.DBus.Properties",
        member="PropertiesChanged", body=["org.freedesktop.systemd1.Unit", {key: "x"}, []],
    )  # fmt: skip


def test_so_many_at_once_and_then_one_per_period():
    budget = Budget(3, 3600)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_a_machine_that_changes_all_the_time_is_looked_at_now_and_then_and_the_others_at_once():
    async def look() -> tuple[int, set[str]]:
        made, seen = watching(), 0
        for _ in range(100):
            made._dirty.add("loop")
            seen += "loop" in made._not_held()
        made._dirty.add("web")
        return seen, made._not_held()

    seen, others = asyncio.run(look())
    assert seen == watch.LOOKS
    assert others == {"web"}


@pytest.mark.parametrize(
    ("unit", "whose"),
    [("systemd-nspawn@we-b.service", "we-b"), ("by-hand.service", "hand"), ("other.service", "")],
)
def test_a_unit_of_another_name_that_a_machine_was_seen_in_counts_too(unit, whose):
    made = watching({"hand": "by-hand.service"})
    assert made._whose_state(changed(unit)) == whose
    assert made._whose_state(changed(unit, "Description")) == ""
