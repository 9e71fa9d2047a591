"""Operations: each has every fact, and README's list of places to add one is true.

A pretend operation is added in exactly these places, ordered with its button, carried out on a host by a function that
only notes it, shown on its pages, and taken away again.
"""

import ast
import importlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from django.urls import clear_url_caches, converters, reverse
from nacl.signing import SigningKey

from machines.contract import envelope, orders, reports
from machines.contract.orders import KINDS, KnownName, Order, Runs
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue
from machines.contract.states import JobState
from machines.host.agent import handlers, unit_job
from machines.host.agent.executor import Executor
from machines.host.context.host_context import HostContext, Task
from machines.host.context.panel_keys import PanelKeys
from machines.host.policy import policy
from machines.host.reports import reporting
from machines.host.reports.ledger import Ledger, Row
from machines.host.reports.reporting import Reporter
from machines.host.system.paths import Paths
from machines.models import Host, Job
from machines.panel import urls as panel_urls
from machines.panel.courier import intake
from machines.panel.orders import operations
from machines.panel.orders.operations import ACTIONS, OPERATIONS, Action, Operation, Risk
from machines.panel.views import jobs as job_views
from nspawnpanel import icons
from nspawnpanel import urls as site_urls
from tests import make

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = [path for path in (ROOT / "machines").rglob("*.py") if "migrations" not in path.parts]
JOBS = [op for op, kind in KINDS.items() if kind.runs is not Runs.CONTROL]


# --- every operation has every fact


def test_every_order_has_its_words_and_nothing_else_has():
    assert list(OPERATIONS) == list(KINDS)
    assert all(OPERATIONS[op].order is kind for op, kind in KINDS.items())


@pytest.mark.parametrize("op", KINDS)
def test_an_operation_has_words_in_every_tense_an_icon_and_a_risk(op):
    known = OPERATIONS[op]
    words = {each.name: getattr(known, each.name) for each in fields(known) if each.name in WORDS}
    assert all(words[name] for name in WORDS - {"sentence"}), words
    assert known.icon in icons.names()
    assert isinstance(known.risk, Risk)
    assert known.doing.split()[0].endswith("ing")
    assert known.title[0].isupper()
    assert known.cancelling.endswith(".")
    assert known.of("web").count("web") == 1
    assert known.of("") == known.title


WORDS = {"title", "sentence", "doing", "done", "icon", "cancelling"}


@pytest.mark.parametrize("op", KINDS)
def test_what_an_operation_does_to_a_machine_fits_its_order(op):
    known, named = OPERATIONS[op], "name" in KINDS[op].model_fields
    about_machines = ("makes_machine", "removes_machine", "applies_draft", "brings_archive", "starts_machine")
    assert named or not any(getattr(known, fact) for fact in about_machines)
    assert named or not known.actions
    assert known.can_be_stopped <= known.starts_machine
    assert bool(known.instead_of_retry) == (not KINDS[op].can_be_retried)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_button_orders_what_it_says(name):
    action = ACTIONS[name]
    order = action.to_order("web")
    assert (type(order), order.op) == (action.order, action.op)
    assert order == action.order.model_validate({"name": "web", **action.given})
    assert action.icon in icons.names()
    assert action.of("web").count("web") == action.note.format("web").count("web") == 1
    assert action in OPERATIONS[action.op].actions


@pytest.mark.parametrize("op", [op for op in KINDS if OPERATIONS[op].risk is not Risk.NONE])
def test_a_button_of_what_costs_something_asks_before(op):
    assert not OPERATIONS[op].actions or any(action.asks for action in OPERATIONS[op].actions)


def test_every_job_is_carried_out_by_a_function_of_its_own():
    assert set(handlers.TABLE) == {KINDS[op] for op in JOBS}
    assert len(set(handlers.TABLE.values())) == len(JOBS)


@pytest.mark.parametrize("op", [op for op in KINDS if op not in JOBS])
def test_every_control_order_is_known_to_the_executor(op):
    text = (ROOT / "machines/host/agent/executor.py").read_text()
    assert f"isinstance(order, orders.{KINDS[op].__name__})" in text


def test_the_policy_that_is_handed_out_names_every_operation(tmp_path):
    assert policy.read(ROOT / "machines/host/policy/policy.toml").operations == tuple(sorted(KINDS))
    assert policy.read(tmp_path / "none").operations == tuple(sorted(KINDS))


def test_what_is_more_than_placing_an_order_again_is_for_orders_that_can_be():
    assert all(kind.can_be_retried for kind in job_views.AGAIN)
    assert set(job_views.AGAIN) <= {KINDS[op] for op in JOBS}


def test_no_code_compares_an_operation_with_its_word():
    """What differs between operations is a fact of them, else it stands where nobody looks who adds one."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare) and _is_op(node.left) and any(map(_has_words, node.comparators))
    ]
    assert found == []


def _is_op(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and node.slice.value == "op"
    return "op" in {getattr(node, "attr", ""), getattr(node, "id", "")}


def _has_words(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Constant) and part.value in KINDS for part in ast.walk(node))


def test_no_template_compares_an_operation_with_its_word():
    compared = re.compile(r"\bop\s*(==|!=|in\b|not in\b)")
    assert [p.name for p in (ROOT / "templates").rglob("*.html") if compared.search(p.read_text())] == []


# --- a pretend operation


@dataclass
class FakeHandler:
    """Notes what it was to do, and says a word."""

    done: list[Order] = field(default_factory=list)

    def __call__(self, _: HostContext, task: Task) -> dict[str, object]:
        self.done.append(task.order)
        task.output.phase("freeze", 1, 1)
        task.output.line(f"{task.order.name} stands still.")  # type: ignore[attr-defined]
        return {"frozen_processes": 42}


class Freezing(Order):
    """What both kinds of the pretend order have."""

    permission = Permission.OPERATE
    phases = ("freeze",)
    time_limit = 30

    name: KnownName
    deeply: bool = False


class FreezeHere(Freezing):
    """Stop all processes of a machine where they are."""

    runs = Runs.WORKER
    op: Literal["freeze"] = "freeze"


class FreezeInAUnit(Freezing):
    runs = Runs.UNIT
    op: Literal["freeze"] = "freeze"


def words_of(order: type[Order]) -> Operation:
    return Operation(
        order=order, title="Freeze", doing="freezing", done="frozen", icon="pencil", risk=Risk.STOPS,
        cancelling="What is frozen stays frozen.",
        actions=(Action(order=order, name="freeze", title="Freeze", note="Freezing {}.", icon="pencil", asks="It stops."),),
    )  # fmt: skip


# Where README says that an operation is added → what that is in a running program.
Places = dict[str, Callable[[pytest.MonkeyPatch, type[Order], FakeHandler], None]]
PLACES: Places = {
    "machines/contract/orders.py": lambda put, order, _: put.setitem(KINDS, orders.op_of(order), order),
    "machines/host/agent/handlers.py": lambda put, order, do: put.setitem(handlers.TABLE, order, do),  # type: ignore[arg-type]
    "machines/panel/orders/operations.py": lambda put, order, _: _say(put, words_of(order)),
    "machines/host/policy/policy.toml": lambda *_: None,  # a file; the host of this test has none
    "templates/machines/_actions.html": lambda *_: None,  # where the button stands; it is pressed without being drawn
}


def _say(put: pytest.MonkeyPatch, words: Operation) -> None:
    """The table, and what is made of it when the panel starts: its buttons and their addresses."""
    put.setitem(OPERATIONS, words.op, words)
    for action in words.actions:
        put.setitem(ACTIONS, action.name, action)
    _read_addresses_anew()


def _read_addresses_anew() -> None:
    converters.REGISTERED_CONVERTERS.clear()  # all are the panel's, which registers them again
    for module in (panel_urls, site_urls):
        importlib.reload(module)
    clear_url_caches()


@pytest.fixture
def do() -> FakeHandler:
    return FakeHandler()


@pytest.fixture(params=[FreezeHere, FreezeInAUnit], ids=["in the worker", "in a unit"])
def added(request, monkeypatch, do) -> Iterator[type[Order]]:
    try:
        with monkeypatch.context() as put:
            for add in PLACES.values():
                add(put, request.param, do)
            yield request.param
    finally:
        _read_addresses_anew()


def test_readme_names_the_places():
    section = README.split("### To add an action")[1].split("\n## ")[0].split("\n### ")[0]
    named = set(re.findall(r"`((?:machines|templates)/[\w/]+\.\w+)`", section))
    assert named == set(PLACES)
    assert all((ROOT / place).exists() for place in named)


class Nothing:
    """Stands for whatever is not there: nobody looks at machines, and no report leaves."""

    def __getattr__(self, _: str) -> Callable[..., Any]:
        return lambda *_, **__: 0.0

    def report_final(self, _: str, report: Callable[[None], None]) -> None:
        report(None)


@dataclass
class Units(Nothing):
    """What would be a process of its own is done at once, by the same code."""

    host: HostContext
    reporter: Reporter

    def place(self, row: Row) -> None:
        order = orders.from_wire(row.wanted)
        task = Task(row.id, order, self.reporter.output(row.id), time.time(), time.time() + order.work_seconds())
        state, problem, result = unit_job.work(self.host, task, "journalctl")
        told = {"job": row.id, "state": state, "at": time.time(), "problem": problem, "result": result}
        self.reporter.finish(reports.Outcome.model_validate(told))


@dataclass
class FarHost:
    """A host's worker with a real ledger, real keys and the real table of functions."""

    row: Host
    key: SigningKey
    panel: SigningKey
    ledger: Ledger
    executor: Executor

    def take(self, job: Job) -> None:
        """As the courier sends it."""
        sealed = envelope.Envelope(
            host=self.row.id, generation=1, job=job.uuid, issued=time.time(), expires=time.time() + 60,
            actor=envelope.Actor(name=job.actor_name, role=job.actor_role), order=orders.to_send(job.order),
        )  # fmt: skip
        self.executor.receive(envelope.seal(sealed, self.panel))

    def tell(self) -> None:
        """All that is spooled, to the panel."""
        with self.ledger.writing() as db:
            rows = db.execute("select number, body from spool order by number").fetchall()
            db.execute("delete from spool")
        intake.take(self.row.id, [(f"{number}-0", body) for number, body in rows])

    def has_ended(self, job: UUID) -> bool:
        row = self.ledger.job(job)
        return row is not None and row.ended is not None


@pytest.fixture
def far(db, tmp_path) -> Iterator[FarHost]:
    key, panel = SigningKey.generate(), SigningKey.generate()
    row = make.host("alpha", signing=key)
    paths = Paths(state=tmp_path / "state")
    paths.state.mkdir()
    ledger = Ledger(paths.ledger, host=row.id, generation=1)
    reporter = Reporter(ledger, reporting.Signer(row.id, 1, key), Nothing())  # type: ignore[arg-type]
    context = HostContext(paths, None, policy.Policy(operations=(*KINDS, "freeze")))  # type: ignore[arg-type]
    executor = Executor(
        context, identity=(row.id, 1), panel_keys=PanelKeys({envelope.key_id(panel.verify_key): panel.verify_key}, Path("/nonexistent")), ledger=ledger,
        reporter=reporter, publisher=Nothing(), watch=Nothing(), units=Units(context, reporter),  # type: ignore[arg-type]
    )  # fmt: skip
    yield FarHost(row, key, panel, ledger, executor)
    ledger.close()


def wait(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_operation_that_is_added_there_is_ordered_carried_out_and_shown(added, far, do, as_admin, as_viewer):
    make.machine("web", on=far.row, state="running")
    page, press = "/hosts/alpha/machines/web/", reverse("machine-freeze", args=["alpha", "web"])
    asked = as_admin.get(f"{page}confirm/freeze/").content.decode()
    assert "Freeze web" in asked
    assert "It stops." in asked
    assert as_viewer.post(press).status_code == 403

    as_admin.post(press)
    job = Job.objects.get()
    assert (job.op, job.order["deeply"]) == ("freeze", False)
    assert "freezing" in as_admin.get(page).content.decode()

    far.take(job)
    wait(lambda: far.has_ended(job.uuid))
    far.tell()
    job.refresh_from_db()
    assert do.done == [added(name="web")]
    assert (job.state, job.result) == (JobState.SUCCEEDED, {"frozen_processes": 42})
    shown = as_admin.get(f"/jobs/{job.pk}/").content.decode()
    assert "<title>Freeze web" in shown
    assert "web stands still." in shown
    assert "Freeze web" in as_admin.get("/jobs/?q=op:freeze").content.decode()


def test_of_one_that_was_taken_away_again_old_jobs_can_still_be_read(db, web, as_admin):
    job = make.job(FreezeHere(name="web"), on=web.host, state=JobState.FAILED, problem={"message": "Too warm."})
    with pytest.raises(BadValue):
        orders.from_wire(job.order)
    assert operations.of("freeze").title == "Freeze"
    for page in (f"/jobs/{job.pk}/", f"/jobs/{job.pk}/?tab=order", "/jobs/", "/hosts/alpha/machines/web/"):
        assert "Freeze" in as_admin.get(page).content.decode(), page
    assert as_admin.post("/hosts/alpha/machines/web/freeze/").status_code == 404
