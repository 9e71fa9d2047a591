"""How many requests are worked on at once, and who is next: an application that works until it is told to stop."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from machines.panel.web import admission
from machines.panel.web.admission import Gate, Gates

MALLORY, EVE, ADA = "192.0.2.66", "192.0.2.67", "192.0.2.1"
WHOLE = {"type": "http.request", "body": b"login=ada", "more_body": False}
HALF = WHOLE | {"more_body": True}
GONE = {"type": "http.disconnect"}
START = {"type": "http.response.start", "status": 200, "headers": []}


class Work:
    """What Django does: reads the body, works in a way that nothing interrupts, listens whether the client is there."""

    def __init__(self) -> None:
        self.at_work: list[Client] = []
        self.most = 0

    async def __call__(self, scope, receive, send):
        client = scope["test"]
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        self.at_work.append(client)
        self.most = max(self.most, len(self.at_work))
        listening = asyncio.ensure_future(receive())
        await client.may_end.wait()
        self.at_work.remove(client)
        listening.cancel()
        if client.breaks:
            raise RuntimeError("it broke")
        await send(START)
        await client.may_send.wait()
        await send({"type": "http.response.body", "body": b"page"})


class Client:
    def __init__(self, application, address: str, path="/machines/", method="GET", headers=(), breaks=False) -> None:
        self.may_end, self.may_send, self.breaks = asyncio.Event(), asyncio.Event(), breaks
        self.may_send.set()
        self.came: asyncio.Queue = asyncio.Queue()
        self.sent: list = []
        scope = {"type": "http", "path": path, "method": method, "client": (address, 1), "headers": list(headers),
                 "query_string": b"a=\xff", "test": self}  # fmt: skip
        self.task = asyncio.ensure_future(application(scope, self.came.get, self._send))

    def says(self, *messages) -> "Client":
        for each in messages:
            self.came.put_nowait(each)
        return self

    async def _send(self, message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"] if self.sent else 0

    def header(self, name: bytes) -> bytes:
        return dict(self.sent[0]["headers"]).get(name, b"")


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def play(scene: Callable[..., Awaitable[None]], **bounds: int) -> None:
    """A scene with the work, its gate (3 in all, 2 of an address), and who comes: `come(address)` has sent it all."""

    async def played() -> None:
        gate = Gate(**({"in_all": 3, "per_address": 2} | bounds))
        work = Work()
        application = admission.bounded(work, Gates(pages=gate))
        clients: list[Client] = []

        def come(address: str, *, whole: bool = True, **how) -> Client:
            client = Client(application, address, **how)
            clients.append(client.says(WHOLE) if whole else client)
            return client

        await scene(work, gate, come)
        for client in clients:
            client.may_end.set()
            client.may_send.set()
            client.says(GONE)
        await asyncio.gather(*(client.task for client in clients), return_exceptions=True)
        assert (gate.working, gate.queues, +gate.of) == (set(), {}, {})

    asyncio.run(played())


def test_no_more_are_worked_on_than_there_are_places_and_all_are_in_the_end():
    async def scene(work, gate, come):
        clients = [come(address) for _ in range(20) for address in (MALLORY, EVE, ADA)]
        await settled()
        for client in clients:
            client.may_end.set()
        await asyncio.gather(*(client.task for client in clients))
        assert work.most == 3
        assert {client.status for client in clients} == {200}

    play(scene)


def test_a_flood_from_one_address_leaves_a_place_to_others():
    async def scene(work, gate, come):
        flood = [come(MALLORY) for _ in range(50)]
        await settled()
        assert work.at_work == flood[:2]
        ada = come(ADA)
        await settled()
        assert work.at_work == [*flood[:2], ada]

    play(scene)


def test_addresses_take_turns_when_all_places_are_taken():
    async def scene(work, gate, come):
        flood = [come(address) for _ in range(20) for address in (MALLORY, EVE)]
        await settled()
        ada = come(ADA)
        await settled()
        assert ada not in work.at_work
        ended = 0
        while ada not in work.at_work:
            work.at_work[0].may_end.set()
            ended += 1
            await settled()
        assert ended <= 3
        assert len([each for each in flood if each.status]) == ended

    play(scene)


def test_within_an_address_who_came_first_is_first():
    async def scene(work, gate, come):
        clients = [come(ADA) for _ in range(5)]
        for each in clients:
            await settled()
            assert work.at_work[0] is each
            each.may_end.set()

    play(scene, per_address=1)


def test_all_of_an_ipv6_network_of_one_customer_are_one_address():
    async def scene(work, gate, come):
        clients = [come(f"2001:db8:1:2::{n}") for n in range(1, 9)]
        await settled()
        assert work.at_work == clients[:2]
        assert (other := come("2001:db8:1:3::1")) not in work.at_work
        await settled()
        assert other in work.at_work

    play(scene)


def test_half_a_body_holds_no_place():
    async def scene(work, gate, come):
        for _ in range(10):
            come(ADA, whole=False).says(HALF)
        await settled()
        assert (gate.working, gate.queues) == (set(), {})
        come(ADA)
        await settled()
        assert len(work.at_work) == 1

    play(scene)


def test_an_answer_that_has_begun_holds_no_place():
    async def scene(work, gate, come):
        streams = [come(ADA) for _ in range(10)]
        for each in streams:
            each.may_send.clear()
            each.may_end.set()
        await settled()
        assert {each.status for each in streams} == {200}
        assert not any(each.task.done() for each in streams)
        assert gate.working == set()

    play(scene)


def test_who_leaves_while_waiting_is_not_worked_on_and_those_behind_move_up():
    async def scene(work, gate, come):
        first, second, third = come(ADA), come(ADA), come(ADA)
        await settled()
        second.says(GONE)
        await settled()
        assert second.task.done()
        assert second.sent == []
        first.may_end.set()
        await settled()
        assert work.at_work == [third]

    play(scene, per_address=1)


def test_who_leaves_while_worked_on_keeps_the_place_until_the_work_has_ended():
    async def scene(work, gate, come):
        first, second = come(ADA), come(ADA)
        await settled()
        first.says(GONE)
        await settled()
        assert work.at_work == [first]
        first.may_end.set()
        await settled()
        assert work.at_work == [second]

    play(scene, per_address=1)


def test_one_that_is_cancelled_while_worked_on_gives_its_place_back():
    async def scene(work, gate, come):
        first, second = come(ADA), come(ADA)
        await settled()
        first.task.cancel()
        await settled()
        assert second in work.at_work

    play(scene, per_address=1)


@pytest.mark.parametrize("just_let_in", [False, True])
def test_one_that_is_cancelled_while_waiting_gives_back_what_it_has(just_let_in):
    async def scene(work, gate, come):
        first, second, third = come(ADA), come(ADA), come(ADA)
        await settled()
        firsts = set(gate.working)
        if just_let_in:
            first.may_end.set()
            while gate.working == firsts:
                await asyncio.sleep(0)
        second.task.cancel()
        first.may_end.set()
        await settled()
        assert second.task.cancelled()
        assert work.at_work == [third]

    play(scene, per_address=1)


def test_one_that_breaks_gives_its_place_back():
    async def scene(work, gate, come):
        first, second = come(ADA, breaks=True), come(ADA)
        await settled()
        first.may_end.set()
        await settled()
        assert isinstance(first.task.exception(), RuntimeError)
        assert work.at_work == [second]

    play(scene, per_address=1)


def test_beyond_a_full_queue_one_gets_a_sentence_and_when_to_come_again():
    async def scene(work, gate, come):
        for _ in range(6):
            come(MALLORY)
        await settled()
        late = come(MALLORY, path="/machines/<x>/")
        await settled()
        assert late.status == 503
        assert late.header(b"retry-after") == b"2"
        body = late.sent[1]["body"]
        assert b"too many requests at once" in body
        assert b'href="/machines/%3Cx%3E/?a=%EF%BF%BD"' in body
        assert int(late.header(b"content-length")) == len(body)
        assert len(work.at_work) == 2

    play(scene, waiting_per_address=4)


def test_htmx_gets_the_sentence_as_a_toast():
    async def scene(work, gate, come):
        come(ADA)
        await settled()
        late = come(ADA, method="POST", path="/machines/web/start/", headers=[(b"hx-request", b"true")])
        await settled()
        assert late.status == 503
        toast = json.loads(late.header(b"hx-trigger"))["toast"]
        assert toast["kind"] == "danger"
        assert "so nothing was done" in toast["text"]
        assert late.header(b"content-type").startswith(b"text/plain")

    play(scene, per_address=1, waiting_per_address=0)


@pytest.mark.parametrize("headers", [
    [(b"host", b"evil.example"), (b"referer", b"https://evil.example/x")], [(b"referer", b"http://[")], [],
])  # fmt: skip
def test_a_strange_form_gets_it_too_and_no_way_elsewhere(headers):
    async def scene(work, gate, come):
        come(ADA)
        await settled()
        late = come(ADA, method="POST", headers=headers)
        await settled()
        assert late.status == 503
        assert b'class="btn btn-primary w-100" href="/"' in late.sent[1]["body"]

    play(scene, per_address=1, waiting_per_address=0)


def test_when_all_queues_together_are_full_the_longest_gives_way():
    async def scene(work, gate, come):
        flood = [come(MALLORY) for _ in range(2 + 8)]
        await settled()
        ada = [come(ADA) for _ in range(2)]
        await settled()
        assert ada[0] in work.at_work
        assert [each.status for each in flood] == [0] * 9 + [503]
        assert ada[1].status == 0

    play(scene, waiting=8)


def test_one_whose_turn_does_not_come_is_told(monkeypatch):
    monkeypatch.setattr(admission, "LONGEST", 0.01)

    async def scene(work, gate, come):
        come(ADA)
        await settled()
        late = come(ADA)
        await asyncio.wait_for(late.task, 10)
        assert late.status == 503

    play(scene, per_address=1)


def test_passwords_and_files_have_places_of_their_own():
    gates = Gates()
    for method, path, gate in (
        ("POST", "/accounts/login/", gates.passwords), ("GET", "/accounts/login/", gates.pages),
        ("GET", "/static/css/panel.css", gates.files), ("POST", "/machines/web/start/", gates.pages),
    ):  # fmt: skip
        assert gates.of({"method": method, "path": path}) is gate
    assert gates.of({"method": "POST", "path": "/x/accounts/login/", "root_path": "/x"}) is gates.passwords
    assert gates.passwords.in_all < gates.pages.per_address


def test_what_is_no_request_passes():
    came = []

    async def application(scope, receive, send):
        came.append(scope)

    asyncio.run(admission.bounded(application)({"type": "lifespan"}, None, None))
    assert came == [{"type": "lifespan"}]
