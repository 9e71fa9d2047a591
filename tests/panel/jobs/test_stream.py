"""The log as it is written: job-log-stream. Every line once, in order, whatever is cut in between."""

import asyncio
import json
import re
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.test import AsyncClient
from django.utils import timezone

from machines.contract.permissions import Role
from machines.models import Job, Membership, StreamPlace, User
from machines.panel.logs import log_stream
from tests import make
from tests.panel.jobs import cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _no_leases():
    log_stream._stopping.clear()
    yield
    log_stream._stopping.clear()


def url(job: Job, query: str = "") -> str:
    return f"/jobs/{job.pk}/log/stream/{query}"


async def opened(user: User, path: str, **headers):
    client = AsyncClient()
    await client.aforce_login(user)
    return await client.get(path, headers=headers)


def heard(user: User, path: str, during=None, *, enough=None, **headers) -> list[tuple[str, str]]:
    """The events of a stream until it ends (or until `enough` of them say so); `during` runs once it has begun."""

    async def listen() -> list[tuple[str, str]]:
        answer = await opened(user, path, **headers)
        assert answer.status_code == 200
        events, begun = [], False
        async with asyncio.timeout(20):
            async for piece in answer.streaming_content:
                events += parsed(piece.decode())
                if during and not begun:
                    begun = True
                    await asyncio.to_thread(during)
                if enough and enough(events):
                    break
        return events

    return asyncio.run(listen())


def parsed(text: str) -> list[tuple[str, str]]:
    """(name, data) of each event as a browser takes it apart."""
    found = []
    for block in text.split("\n\n"):
        fields = [line.partition(": ") for line in block.splitlines() if line and not line.startswith(":")]
        name = next((value for field, _, value in fields if field == "event"), "")
        if name:
            found.append((name, "\n".join(value for field, _, value in fields if field == "data")))
    return found


def numbers(events: list[tuple[str, str]]) -> list[int]:
    return [int(n) for name, data in events if name == "lines" for n in re.findall(r'<p id="L(\d+)"', data)]


def finish(job: Job, state: str = "succeeded") -> None:
    Job.objects.filter(pk=job.pk).update(state=state, finished_at=timezone.now(), started_at=timezone.now())


def test_an_ended_job_is_told_and_the_stream_ends(viewer, alpha):
    job = cast.ended(alpha)
    cast.wrote(job, *"abcdefg")
    events = heard(viewer, url(job))
    assert numbers(events) == [1, 2, 3, 4, 5, 6, 7]
    assert [name for name, _ in events][-1] == "end"
    end = json.loads(events[-1][1])
    assert (end["state"], end["error_line"]) == ("succeeded", None)
    assert end["text"].startswith("succeeded in")


@pytest.mark.parametrize("line", [0, 1, 3, 6, 7, 100])
def test_it_goes_on_exactly_after_a_line(viewer, alpha, line):
    job = cast.ended(alpha)
    cast.wrote(job, *"abcdefg", chunk=2)
    assert numbers(heard(viewer, url(job, f"?after={line}"))) == list(range(line + 1, 8))


def test_last_event_id_wins(viewer, alpha):
    job = cast.ended(alpha)
    cast.wrote(job, *"abcdefg")
    assert numbers(heard(viewer, url(job, "?after=1"), **{"Last-Event-ID": "5"})) == [6, 7]


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?after=²", "?after="])
def test_nonsense_begins_at_the_beginning(viewer, alpha, query):
    job = cast.ended(alpha)
    cast.wrote(job, "a", "b")
    assert numbers(heard(viewer, url(job, query))) == [1, 2]


def test_lines_come_as_they_are_written(viewer, alpha):
    job = cast.job(alpha, state="running")
    cast.wrote(job, "a", "b")

    def during():
        cast.wrote(job, "c", "d", "e", "f", chunk=1)
        finish(job)

    events = heard(viewer, url(job, "?after=2"), during)
    assert numbers(events) == [3, 4, 5, 6]
    assert events[-1][0] == "end"


def test_a_long_log_comes_whole_and_in_pieces(viewer, alpha):
    job = cast.ended(alpha)
    cast.wrote(job, *(f"line {n}" for n in range(5001)), chunk=500)
    events = heard(viewer, url(job))
    assert numbers(events) == list(range(1, 5002))
    assert len([name for name, _ in events if name == "lines"]) == 3


def test_a_long_log_of_a_running_job_comes_whole_too(viewer, alpha):
    job = cast.job(alpha, state="running")
    cast.wrote(job, *(f"line {n}" for n in range(5001)), chunk=500)
    events = heard(viewer, url(job), enough=lambda events: numbers(events)[-1:] == [5001])
    assert numbers(events) == list(range(1, 5002))


def test_a_phase_comes_before_the_lines_it_owns(viewer, alpha):
    job = cast.ended(alpha)
    cast.began(job, "prepare")
    cast.wrote(job, "a", "b")
    cast.began(job, "packages")
    cast.wrote(job, "c", "d")
    cast.began(job, "finish")
    events = heard(viewer, url(job))
    story = [json.loads(data)["name"] if name == "phase" else numbers([(name, data)]) for name, data in events[:-1]]
    assert story == ["prepare", [1, 2], "packages", [3, 4], "finish"]


def test_a_phase_that_is_on_the_page_is_not_sent_again(viewer, alpha):
    job = cast.ended(alpha)
    cast.began(job, "prepare")
    cast.wrote(job, "a", "b", "c")
    assert [name for name, _ in heard(viewer, url(job, "?after=2"))] == ["lines", "end"]


def test_lines_carry_their_number_for_the_reconnect(viewer, alpha):
    job = cast.ended(alpha)
    cast.wrote(job, "a", "b", "c")

    async def raw():
        answer = await opened(viewer, url(job))
        return "".join([piece.decode() async for piece in answer.streaming_content])

    assert "id: 3\nevent: lines\n" in asyncio.run(raw())


def test_what_a_program_writes_cannot_forge_an_event(viewer, alpha):
    job = cast.ended(alpha)
    cast.wrote(job, "a\n\nevent: end\ndata: {}\n\n", "b\r\revent: phase", "<script>")
    events = heard(viewer, url(job))
    assert [name for name, _ in events] == ["lines", "end"]
    assert "<script>" not in events[0][1]


def test_a_hostile_name_of_a_phase_cannot_forge_an_event(viewer, alpha):
    job = cast.ended(alpha)
    cast.began(job, "x\n\nevent: end\ndata: {}\n\n")
    events = heard(viewer, url(job))
    assert [name for name, _ in events] == ["phase", "end"]


def test_it_is_not_kept_by_anybody_on_the_way(viewer, alpha):
    answer = asyncio.run(opened(viewer, url(cast.ended(alpha))))
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_sixth_stream_of_a_person_is_refused_with_a_sentence(viewer, admin, alpha):
    job = cast.job(alpha, state="running")

    async def six():
        return [await opened(viewer, url(job)) for _ in range(6)], await opened(admin, url(job))

    answers, other = asyncio.run(six())
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert other.status_code == 200
    assert "5 logs open" in answers[5].content.decode()
    assert answers[5].headers["Retry-After"]


def test_a_stream_that_ends_gives_its_place_back(viewer, alpha):
    job = cast.ended(alpha)
    for _ in range(8):
        heard(viewer, url(job))


def test_it_ends_when_the_server_stops(viewer, alpha):
    job = cast.job(alpha, state="running")
    cast.wrote(job, "a")
    assert [name for name, _ in heard(viewer, url(job), log_stream._stopping.set)] in ([], ["lines"])


def test_it_ends_when_the_right_is_gone(viewer, alpha, monkeypatch):
    monkeypatch.setattr(log_stream, "RECHECK", 0)
    job = cast.job(alpha, state="running")
    heard(viewer, url(job), lambda: Membership.objects.filter(user=viewer).delete())


@pytest.mark.parametrize("end", ["sign out", "deactivate", "new password"])
def test_it_ends_when_the_session_is_gone(alpha, monkeypatch, end):
    monkeypatch.setattr(log_stream, "RECHECK", 0)
    someone = make.user("someone", role=Role.VIEWER)
    job = cast.job(alpha, state="running")

    def during():
        if end == "sign out":
            Session.objects.all().delete()
        elif end == "deactivate":
            User.objects.update(is_active=False)
        else:
            someone.set_password("another-password")
            someone.save()

    heard(someone, url(job), during)


def test_it_says_that_it_is_alive(viewer, alpha, monkeypatch):
    monkeypatch.setattr(log_stream, "HEARTBEAT", 0)
    job = cast.job(alpha, state="running")

    async def raw():
        answer = await opened(viewer, url(job))
        text = ""
        async with asyncio.timeout(10):
            async for piece in answer.streaming_content:
                text += piece.decode()
                if ": still here" in text:
                    break
        return text

    assert ": still here\n\n" in asyncio.run(raw())


def test_a_job_that_vanishes_ends_the_stream(viewer, alpha):
    job = cast.job(alpha, state="running")
    heard(viewer, url(job), lambda: Job.objects.all().delete())


def test_an_idle_look_is_one_query(alpha, django_assert_num_queries):
    job = cast.job(alpha, state="running")
    cast.wrote(job, "a")
    follower = log_stream.Follower(job.pk, 0)
    follower.look()
    with django_assert_num_queries(1):
        assert follower.look() == []
    cast.wrote(job, "b")
    with django_assert_num_queries(2):
        assert len(follower.look()) == 1


def test_it_needs_login_and_a_role(client, alpha, stranger):
    job = cast.job(alpha)
    assert client.get(url(job)).status_code == 302
    assert make.client(stranger).get(url(job)).status_code == 403


def test_it_rejects_post(as_admin, alpha):
    assert as_admin.post(url(cast.job(alpha))).status_code == 405


def test_the_places_of_a_process_that_died_are_free_again_and_no_longer_its_own(viewer):
    dead = [log_stream.Lease.take(viewer.pk) for _ in range(log_stream.PER_USER)]
    assert log_stream.Lease.take(viewer.pk) is None
    StreamPlace.objects.update(until=timezone.now() - timedelta(seconds=1))
    new = log_stream.Lease.take(viewer.pk)
    assert new
    assert not dead[0].renew()
    dead[0].release()
    assert new.renew()
