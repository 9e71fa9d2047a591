"""What dies, and what must not: every promise tried against the real thing."""

import json
import signal
import sqlite3
import time
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nacl.signing import SigningKey
from playwright.sync_api import Browser

from machines.contract import envelope, orders, routes
from machines.panel.courier.mailbox import Mailbox
from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.live import leftovers
from tests.person import Person, until
from tests.real import a_browser

BUILDING = 20  # log lines after which a build is surely at work


def mid_build(ada: Person, job: dict) -> None:
    until(lambda: ada.job(job["id"])["line_count"] > BUILDING, 60, lambda: str(ada.job(job["id"])))


def assert_every_line_once(ada: Person, host: Sandbox, job: dict) -> None:
    """The panel's log is what the unit wrote into its own, line by line."""
    written = host.read(f"/var/lib/nspawnpanel/jobs/{uuid.UUID(job['uuid'])}/log")
    output = [entry["t"] for entry in map(json.loads, written.splitlines()) if entry["k"] == "line"]
    assert len(output) > BUILDING
    numbered = ada.rows("SELECT first, count FROM machines_logchunk WHERE job_id = ? ORDER BY first", job["id"])
    expected = 1
    for chunk in numbered:
        assert chunk["first"] == expected
        expected += chunk["count"]
    shown = ada.log(job["id"])
    assert len(shown) == expected - 1
    told = iter(shown)
    missing = [line for line in output if line.strip() and not any(line.strip() in said for said in told)]
    assert not missing, missing[:5]


CALAMITIES: dict[str, Callable[[Stack, Sandbox], None]] = {
    "worker killed": lambda _, host: host.run(["systemctl", "kill", "--signal=KILL", "nspawnpanel-host.service"]),
    "redis killed and emptied": lambda panel, _: (panel.valkey.kill(), time.sleep(3), panel.valkey.start()),
    "courier killed": lambda panel, _: (panel.stop_part("courier", signal.SIGKILL), time.sleep(3), panel.start_part("courier")),
}  # fmt: skip


@pytest.mark.parametrize("calamity", CALAMITIES.values(), ids=CALAMITIES.keys())
def test_a_build_goes_on_and_no_line_is_lost_or_doubled(calamity, ada, panel, alpha_host, request):
    name = "s-" + request.node.callspec.id.replace(" ", "-")[:20]
    job = ada.build(name, start=None, fresh="on")
    mid_build(ada, job)
    calamity(panel, alpha_host)
    ended = ada.succeed(job, 240)
    assert_every_line_once(ada, alpha_host, ended)
    assert leftovers.of(alpha_host) == ""
    assert ada.machine(name)["image_type"]


def test_a_cancelled_build_stops_within_five_seconds_and_leaves_nothing(ada, alpha_host):
    job = ada.build("cancelled", start=None, fresh="on")
    mid_build(ada, job)
    began = time.monotonic()
    ada.post(f"/jobs/{job['id']}/cancel/", page=f"/jobs/{job['id']}/")
    ended = ada.end_of(job, 10)
    assert ended["state"] == "cancelled"
    assert time.monotonic() - began < 6
    assert leftovers.of(alpha_host) == ""
    places = ["/var/lib/machines", "/etc/systemd"]
    assert alpha_host.run(["find", *places, "-maxdepth", "2", "-name", "*cancelled*"]).stdout == ""
    assert not ada.machine("cancelled")


def test_a_full_disk_fails_the_build_with_that_reason_and_leaves_nothing(ada, alpha_host):
    alpha_host.run(["mount", "-t", "tmpfs", "-o", "size=120M", "tmpfs", "/var/lib/machines"])
    try:
        ended = ada.end_of(ada.build("too-big", start=None, fresh="on"), 120)
        left = alpha_host.run(["ls", "-A", "/var/lib/machines"]).stdout
    finally:
        alpha_host.run(["umount", "/var/lib/machines"])
    problem = json.loads(ended["problem"])
    assert (ended["state"], problem["code"]) == ("failed", "no-space")
    assert left.replace(".#machine.too-big.lck", "").strip() == ""


@pytest.fixture
def chrome() -> Iterator[Browser]:
    with a_browser() as running:
        yield running


def test_the_log_goes_on_when_the_web_server_restarts_under_it(ada, panel, chrome):
    job = ada.build("weblog", start=None, fresh="on")
    page = chrome.new_page()
    sign_in(page, panel)
    page.goto(f"{panel.url}/jobs/{job['id']}/")
    mid_build(ada, job)
    page.wait_for_selector("#L5", state="attached")
    panel.restart_part("web")
    ended = ada.succeed(job, 240)
    page.wait_for_selector(f"#L{ended['line_count']}", state="attached", timeout=30_000)
    ids = page.eval_on_selector_all("[id^=L]", "els => els.map(e => e.id).filter(id => /^L[0-9]+$/.test(id))")
    assert ids == [f"L{n}" for n in range(int(ids[0][1:]), ended["line_count"] + 1)]
    page.close()


def sign_in(page, panel: Stack) -> None:
    page.goto(f"{panel.url}/accounts/login/")
    page.fill("[name=login]", "admin")
    page.fill("[name=password]", (panel.data / "first-password").read_text().strip())
    page.click("main button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)


class TestEnvelopes:
    """What a thief of the Redis password can and cannot do."""

    @pytest.fixture
    def mailbox(self, panel: Stack) -> Mailbox:
        return Mailbox((panel.data / "redis-url").read_text().strip())

    @pytest.fixture
    def key(self, panel: Stack) -> SigningKey:
        return SigningKey(b64decode(Path(panel.data / "courier/signing-key").read_text()))

    @pytest.fixture
    def target(self, ada: Person, alpha_host: Sandbox) -> str:
        if not ada.machine("target"):
            alpha_host.plant("target")
            ada.sees("target", "stopped", 15)
        return "target"

    def order(self, ada: Person, name: str, **changes) -> envelope.Envelope:
        host = ada.rows("SELECT id, generation FROM machines_host WHERE name = 'alpha'")[0]
        now = time.time()
        fields = {
            "host": uuid.UUID(host["id"]), "generation": host["generation"], "job": uuid.uuid4(),
            "order": orders.to_wire(orders.Start(name=name)), "issued": now, "expires": now + 600,
            "actor": envelope.Actor(name="thief", role="administrator"), "sequence": self.next_in_line(ada),
            "epoch": ada.rows("SELECT number FROM machines_epoch")[0]["number"],
        }  # fmt: skip
        return envelope.Envelope(**(fields | changes))

    def next_in_line(self, ada: Person) -> int:
        """The place of an order after all others, counted as the panel counts."""
        with sqlite3.connect(ada.panel.data / "panel.sqlite3", timeout=20) as database:
            count = "UPDATE machines_host SET sequence = sequence + 1 WHERE name = 'alpha' RETURNING sequence"
            return database.execute(count).fetchone()[0]

    def refusals(self, ada: Person) -> list[str]:
        """The codes of what the host refused, oldest first."""
        said = [
            row["text"] for row in ada.rows("SELECT text FROM machines_event WHERE kind = 'order-refused' ORDER BY id")
        ]
        return [text.rpartition("(")[2].rstrip(")") for text in said]

    def send(self, mailbox: Mailbox, ada: Person, text: str) -> None:
        mailbox.send(uuid.UUID(ada.rows("SELECT id FROM machines_host WHERE name = 'alpha'")[0]["id"]), text)

    @pytest.mark.parametrize("how", ["forged", "altered", "expired", "foreign", "early", "oversized"])
    def test_it_is_refused_and_said_and_nothing_is_done(self, how, ada, alpha_host, mailbox, key, target):
        now = time.time()
        good = self.order(ada, target)
        text = {
            "forged": lambda: envelope.seal(good, SigningKey.generate()),
            "altered": lambda: alter(envelope.seal(good, key)),
            "expired": lambda: envelope.seal(self.order(ada, target, issued=now - 900, expires=now - 300), key),
            "foreign": lambda: envelope.seal(self.order(ada, target, host=uuid.uuid4()), key),
            "early": lambda: envelope.seal(self.order(ada, target, issued=now + 900, expires=now + 1000), key),
            "oversized": lambda: "x" * 600_000,
        }[how]()
        expected = {"altered": "envelope-forged"}.get(how, f"envelope-{how}")
        before = self.refusals(ada).count(expected)
        self.send(mailbox, ada, text)
        until(lambda: self.refusals(ada).count(expected) > before, 5, lambda: str(self.refusals(ada)))
        assert target not in alpha_host.run(["machinectl", "list", "--no-legend"]).stdout

    def test_the_same_envelope_three_times_has_one_effect(self, ada, alpha_host, mailbox, key, target):
        ada.sees(target, "stopped")
        text = envelope.seal(self.order(ada, target), key)
        for _ in range(3):
            self.send(mailbox, ada, text)
        ada.sees(target, "running", 20)
        alpha_host.run(["machinectl", "terminate", target])
        ada.sees(target, "stopped", 10)
        self.send(mailbox, ada, text)
        time.sleep(2)  # nothing shall happen; there is nothing to wait for
        unit = f"systemd-nspawn@{target}.service"
        starts = alpha_host.run(
            ["journalctl", f"--unit={unit}", "--grep=Started ", "--output=cat", "--no-pager"]
        ).stdout
        assert starts.count(f"Started {unit}") == 1, starts

    def test_a_viewers_signature_is_not_enough(self, ada, alpha_host, mailbox, key, target):
        """The host calls the same authorize() again, and its own ledger says so."""
        order = self.order(ada, target, actor=envelope.Actor(name="vera", role="viewer"))
        self.send(mailbox, ada, envelope.seal(order, key))
        until(lambda: "not-allowed" in in_ledger(alpha_host, order.job), 5, lambda: in_ledger(alpha_host, order.job))
        assert target not in alpha_host.run(["machinectl", "list", "--no-legend"]).stdout

    def test_another_task_name_is_not_obeyed(self, ada, alpha_host, panel, target):
        host = ada.rows("SELECT id FROM machines_host WHERE name = 'alpha'")[0]["id"]
        queue = routes.prefix(str(uuid.UUID(host))) + routes.queue(str(uuid.UUID(host)))
        panel.valkey.admin().lpush(queue, json.dumps({"body": "W10=", "headers": {"task": "celery.backend_cleanup", "id": "x"},
            "content-type": "application/json", "content-encoding": "utf-8", "properties": {"body_encoding": "base64", "delivery_tag": "x", "delivery_info": {}}}))  # fmt: skip
        ada.succeed(ada.press("start", target))
        ada.succeed(ada.press("terminate", target))


def in_ledger(host: Sandbox, job: uuid.UUID) -> str:
    """What the host's own book says of a job's end."""
    ask = "import sqlite3, sys; d = sqlite3.connect('/var/lib/nspawnpanel/ledger.db'); print(d.execute('select outcome from jobs where id = ?', sys.argv[1:]).fetchone())"
    return host.run(["/opt/nspawnpanel/bin/python", "-c", ask, str(job)]).stdout


def alter(sealed: str) -> str:
    """One character of the payload changed."""
    signature, kid, payload = sealed.split(".")
    return ".".join([signature, kid, payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]])


def test_an_offline_hosts_order_waits_says_why_and_can_be_cancelled(ada, alpha_host, panel):
    alpha_host.plant("patient") if not ada.machine("patient") else None
    ada.sees("patient", "stopped", 15)
    alpha_host.run(["systemctl", "stop", "nspawnpanel-host.service"])
    try:
        until(lambda: ada.machine("patient")["state"] == "unknown", 75)
        job = ada.press("start", "patient")
        page = ada.get(f"/jobs/{job['id']}/")
        assert "offline" in page
        ada.post(f"/jobs/{job['id']}/cancel/", page=f"/jobs/{job['id']}/")
        assert ada.job(job["id"])["state"] == "cancelled"
    finally:
        alpha_host.run(["systemctl", "start", "nspawnpanel-host.service"])
    ada.sees("patient", "stopped", 20)
