"""Pages by keyset: all rows once, in order, both ways, whatever the sort."""

import random

import pytest
from django.http import QueryDict
from django.utils import timezone

from machines.models import Machine, User
from machines.models.machine import rank_of
from machines.panel.pages import machine_list
from tests import make

NOW = timezone.now()
ALL = User(is_administrator=True)


@pytest.fixture
def many(alpha):
    """230 machines, some names twice (on two hosts), some in trouble."""
    beta = make.host("beta")
    shuffled = random.Random(4)
    rows = []
    for n in range(230):
        state = shuffled.choice(["running", "stopped", "failed"])
        rows.append(Machine(host=(alpha, beta)[n % 2], name=f"m{n // 2:03}", state=state, rank=rank_of(state)))
    Machine.objects.bulk_create(rows)
    return rows


def page(query: str) -> machine_list.MachineListPage:
    return machine_list.page(machine_list.parse_query(QueryDict(query)), {}, NOW, by=ALL)


def walk(first: str, direction: str) -> list[machine_list.MachineListPage]:
    pages = [page(first)]
    while getattr(pages[-1], direction):
        pages.append(page(getattr(pages[-1], direction).removeprefix("?")))
        assert len(pages) < 40
    return pages


def key(sort: str):
    return {
        "state": lambda row: (rank_of(row["state"]), row["name"], int(row["id"])),
        "name": lambda row: (row["name"], int(row["id"])),
    }[sort.removeprefix("-")]


@pytest.mark.parametrize("sort", ["state", "-state", "name", "-name"])
@pytest.mark.parametrize("per", [25, 50, 100])
def test_all_rows_once_and_in_order(sort, per, many):
    pages = walk(f"sort={sort}&per={per}", "older")
    rows = [row for each in pages for row in each.rows]
    assert len(rows) == len({row["id"] for row in rows}) == 230
    assert rows == sorted(rows, key=key(sort), reverse=sort.startswith("-"))
    assert [each.first for each in pages] == [1 + per * n for n in range(len(pages))]
    assert pages[-1].summary.endswith("–230 of 230")


@pytest.mark.parametrize("sort", ["state", "-name"])
def test_the_way_back_shows_the_same_pages(sort, many):
    forth = walk(f"sort={sort}", "older")
    back = [forth[-1]]
    while back[-1].newer:
        back.append(page(back[-1].newer.removeprefix("?")))
    assert [[row["id"] for row in each.rows] for each in back] == [
        [row["id"] for row in each.rows] for each in forth[::-1]
    ]
    assert [each.first for each in back] == [each.first for each in forth[::-1]]


def test_a_page_holds_while_rows_come_and_go(many):
    first = page("")
    last = first.rows[-1]
    Machine.objects.filter(pk__in=[row["id"] for row in first.rows[:10]]).delete()
    second = page(first.older.removeprefix("?"))
    assert key("state")(second.rows[0]) > key("state")(last)


def test_the_filter_and_the_sort_stay_in_the_links(many):
    older = page("q=host:alpha&sort=-name&per=25").older
    assert "q=host%3Aalpha" in older
    assert "sort=-name" in older
    assert "per=25" in older


@pytest.mark.parametrize(
    "nonsense",
    [
        "after=x",
        "after=1.9.1.a",
        "before=",
        "after=99999999999999999999.1.1.a",
        "per=7",
        "sort=password",
        "q=%00",
        "after=1.1.1.%00",
    ],
)
def test_nonsense_in_the_address_is_the_first_page(nonsense, many):
    assert page(nonsense).first == 1
    assert len(page(nonsense).rows) == 50


def test_the_version_follows_what_is_shown_and_not_the_clock(alpha):
    make.machine("web", on=alpha, state="running", since=NOW)
    query = machine_list.parse_query(QueryDict(""))
    first = machine_list.page(query, {}, NOW, by=ALL).version
    assert machine_list.page(query, {}, NOW + timezone.timedelta(seconds=5), by=ALL).version == first
    Machine.objects.update(memory_bytes=5 << 20)
    assert machine_list.page(query, {}, NOW, by=ALL).version != first
