"""The smallest panel there can be: it seals orders, sends them through real Redis, and reads what a host reports.

For live tests of the host alone; the real panel has its own.
"""

import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from kombu import Connection, Queue
from nacl.public import PublicKey
from nacl.signing import SigningKey, VerifyKey

from machines.contract import envelope, orders, routes
from machines.contract.reports import AnyReport, Outcome
from machines.panel.courier.mailbox import after
from nspawnpanel.sandbox import Sandbox
from nspawnpanel.valkey import Valkey

PYTHON = "/opt/nspawnpanel/bin/python"
SERVICE = "nspawnpanel-host.service"
RESEND_SECONDS = 5  # courier.py
NO_EMBED: dict[str, object] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class ScratchPanel:
    def __init__(self, host: Sandbox, valkey: Valkey) -> None:
        self.sandbox, self.valkey = host, valkey
        self.host, self.key, self.password = uuid4(), SigningKey.generate(), uuid4().hex
        self.number, self.position, self.epoch = 0, "0", 0
        self.may_lack = self.asked = False
        self.newest = self.newest_again = 0.0  # when the newest report was signed, and the newest with an old number
        self.reports: list[AnyReport] = []
        self.told_at: list[float] = []

    # --- joining

    def join(self) -> None:
        """Register the host, write its host.env and start its worker."""
        with self.valkey.admin() as admin:
            admin.execute_command(
                "ACL", "SETUSER", self.user, "reset", "on", f">{self.password}", *routes.host_acl(str(self.host))
            )
            admin.acl_save()
        line = self.sandbox.run([PYTHON, "-m", "machines.host.agent.enrol"]).stdout.strip()
        _, verify, box = line.split(":")
        self.verify, self.box = VerifyKey(b64decode(verify)), PublicKey(b64decode(box))
        url = f"redis://{self.user}:{self.password}@{self.sandbox.gateway}:{self.valkey.port}/0"
        self.sandbox.write("/etc/nspawnpanel/host.env", (
            f"NSPAWNPANEL_HOST_ID={self.host}\nNSPAWNPANEL_GENERATION=1\nNSPAWNPANEL_REDIS_URL={url}\n"
            f"NSPAWNPANEL_PANEL_KEYS={b64encode(bytes(self.key.verify_key)).decode()}\n"
        ), 0o600)  # fmt: skip
        self.sandbox.run(["systemctl", "restart", SERVICE])
        self.until(lambda report: report.kind == "inventory")

    @property
    def user(self) -> str:
        return f"np-h-{self.host}"

    # --- orders out

    def seal(self, order: orders.Order, job: UUID | None = None, **changed: Any) -> tuple[UUID, str]:
        job, key = job or uuid4(), changed.pop("key", self.key)
        values = {
            "host": self.host, "generation": 1, "job": job, "order": orders.to_wire(order), "issued": time.time(),
            "expires": time.time() + 3600, "actor": envelope.Actor(name="ada", role="administrator"), **changed,
        }  # fmt: skip
        return job, envelope.seal(envelope.Envelope.model_validate(values), key)

    def push(
        self, text: Any, *, task: str = routes.TASK, embed: dict[str, object] | None = None, **options: Any
    ) -> None:
        """One Celery message, as the courier's, or as an enemy's who holds Redis."""
        queue = routes.queue(str(self.host))
        options = {"serializer": "json", **options}
        with Connection(
            self.valkey.admin_url, transport_options={"global_keyprefix": routes.prefix(str(self.host))}
        ) as link:
            link.Producer().publish(
                ([text], {}, {**NO_EMBED, **(embed or {})}), exchange="", routing_key=queue,
                declare=[Queue(queue, routing_key=queue)],
                headers={"lang": "py", "task": task, "id": str(uuid4()), "argsrepr": "", "kwargsrepr": ""}, **options,
            )  # fmt: skip

    def order(self, order: orders.Order, job: UUID | None = None) -> UUID:
        job, text = self.seal(order, job)
        self.push(text)
        return job

    def do(self, order: orders.Order, seconds: float = 60) -> Outcome:
        """Sent until it is taken, as the courier does: Redis may hand it to the socket of a worker that was just killed."""
        job, text = self.seal(order)
        for _ in range(3):
            self.push(text)
            if self.first(lambda report: getattr(report, "job", None) == job, RESEND_SECONDS):
                break
        return self.outcome(job, seconds)

    # --- reports in

    def read(self, wait: float = 0.1) -> list[AnyReport]:
        """What came since; the numbers must have no holes."""
        with self.valkey.admin() as admin:
            stream = routes.stream(str(self.host))
            found = admin.xread({stream: self.position}, count=500, block=max(1, int(wait * 1000)))
            if found:  # as the courier does: a worker waits while too much of what it said is not taken
                admin.xtrim(stream, minid=after(found[0][1][-1][0]), approximate=False)
        fresh = []
        for position, fields in found[0][1] if found else []:
            self.position = position
            signed, report = envelope.read_report(fields["r"], self.verify, host=self.host, generation=1)
            if signed.number <= self.number:
                self.newest_again = max(self.newest_again, signed.at) if signed.at > self.newest else self.newest_again
                continue
            if self.may_lack and signed.number > self.number + 1:
                self._ask_again()
                continue
            self.may_lack = self.asked = False
            assert signed.number == self.number + 1, f"{self.number} is followed by {signed.number}"
            self.number, self.epoch, self.newest = signed.number, signed.epoch, max(self.newest, signed.at)
            parts = report.parts if report.kind == "job_output" else [report]
            fresh += parts
            self.told_at += [signed.at] * len(parts)
        self.reports += fresh
        return fresh

    def redis_lost_all(self) -> None:
        """What the worker had put in and nobody had taken is gone, and this once a hole may be where it was."""
        self.position, self.may_lack = "0", True

    def _ask_again(self) -> None:
        """As the courier does: once, for what follows the last that was taken."""
        if not self.asked:
            self.asked = True
            self.order(orders.Resend(after=self.number))

    def said_again(self, seconds: float) -> float:
        """When a report was signed that is newer than all that were taken, and has the number of one of them; 0.0 where none
        comes in that time."""
        deadline = time.monotonic() + seconds
        while not self.newest_again and time.monotonic() < deadline:
            self.read()
        return self.newest_again

    def until(self, wanted: Callable[[AnyReport], bool], seconds: float = 30) -> AnyReport:
        """The first report, old or new, that is wanted."""
        found = self.first(wanted, seconds)
        assert found, f"it never came; the last ones were {self.reports[-5:]}"
        return found

    def first(self, wanted: Callable[[AnyReport], bool], seconds: float) -> AnyReport | None:
        """The same, or None when it does not come in that time."""
        for report in self.reports:
            if wanted(report):
                return report
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for report in self.read():
                if wanted(report):
                    return report
        return None

    def outcome(self, job: UUID, seconds: float = 60) -> Outcome:
        found = self.until(lambda report: report.kind == "outcome" and report.job == job, seconds)
        assert isinstance(found, Outcome)
        return found

    def lines(self, job: UUID) -> list[str]:
        """A job's log lines; their numbers must have no holes and no doubles."""
        told: list[str] = []
        for report in self.reports:
            if report.kind == "lines" and report.job == job:
                assert report.first == len(told) + 1
                told += [line.text for line in report.lines]
        return told
