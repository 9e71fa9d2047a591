"""Which machine is whose on this host, whatever the panel says: written by signed orders, asked before each of them."""

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from machines.contract import orders
from machines.contract.envelope import Actor, key_id
from machines.contract.policy_sections import Section
from machines.contract.recipes import CloneRecipe, DebianRecipe
from machines.host.agent import handlers
from machines.host.agent.executor import Executor
from machines.host.context.host_context import HostContext
from machines.host.context.panel_keys import PanelKeys
from machines.host.policy import owners
from machines.host.policy.policy import Policy
from machines.host.reports import ledger as books
from machines.host.reports.ledger import Ledger
from machines.host.storage.base_images import Base
from tests.host.agent.test_executor import BUILD, Deeds, Units, Watch

GIB = 1 << 30
BUILD_BASE = orders.BuildBase(recipe=DebianRecipe(release="trixie"))


@dataclass
class Bus:
    """Stands where systemd is: what it has for units."""

    has: dict[str, dict[str, int]] = field(default_factory=dict)

    def unit(self, unit, _interface):
        return self.has.get(unit.removeprefix("systemd-nspawn@").removesuffix(".service"), {})

    def do(self, answer):
        return answer


@pytest.fixture
def bus():
    return Bus()


@pytest.fixture
def host(paths, spool, panel_key, bus):
    """A worker whose handlers only note what they were asked; `rules` can be set."""
    gate = threading.Event()
    gate.set()
    deeds = Deeds(gate)

    def made(rules: Policy | None = None) -> Executor:
        one = Executor(
            HostContext(paths, bus, rules or Policy()), identity=(spool.host, 1),
            panel_keys=PanelKeys({key_id(panel_key.verify_key): panel_key.verify_key}, Path("/nonexistent/host.env")), ledger=spool.ledger, reporter=spool.reporter,
            publisher=spool.mailbox, watch=Watch(), units=Units(), table=dict.fromkeys(handlers.TABLE, deeds.act),
        )  # fmt: skip
        one.deeds = deeds
        return one

    return made


@pytest.fixture
def asks(spool, sealed, eventually):
    """Order something as somebody of a team; returns the problem's code, "" when it was done, and what it says."""

    def ask(worker, order, team="web", role="editor", **more):
        before = len(spool.of("outcome"))
        job, message = sealed(order, actor=Actor(name="edith", role=role, team=team), **more)
        worker.receive(message)
        if order.runs is orders.Runs.UNIT:
            eventually(lambda: job in worker._units.placed or len(spool.of("outcome")) > before)
            if job in worker._units.placed:
                return "", job
        outcome = spool.wait_for("outcome", before + 1)[-1]
        return (outcome.problem or {}).get("code", ""), (outcome.problem or {}).get("message", "")

    return ask


def belongs(spool) -> dict[str, str]:
    with spool.ledger.reading() as db:
        return owners.every(db)


def assign(asks, worker, name="web", team="web"):
    assert asks(worker, orders.Assign(name=name, team=team), team="", role="administrator")[0] == ""


def ends(spool, job, state="succeeded", machine=None):
    with spool.ledger.writing() as db:
        assert books.end(db, job, {"state": state, "at": 1.0, "machine": machine})


def test_an_order_for_another_team_s_machine_is_refused_and_nothing_is_done(host, asks, spool):
    worker = host()
    assign(asks, worker, team="db")
    worker.deeds.done.clear()
    code, message = asks(worker, orders.Start(name="web"))
    assert (code, message) == ("not-the-teams", "web belongs to another team on this host, so the request was refused.")
    assert worker.deeds.done == []


def test_a_machine_that_is_nobody_s_is_the_administrators(host, asks):
    worker = host()
    assert asks(worker, orders.Start(name="web")) == (
        "not-the-teams", "web belongs to no team on this host, so the request was refused.",
    )  # fmt: skip
    assert asks(worker, orders.Start(name="web"), team="")[0] == "not-the-teams"
    assert asks(worker, orders.Start(name="web"), team="", role="administrator")[0] == ""
    assert asks(worker, orders.Diagnose())[0] == ""


def test_its_own_team_may_and_after_a_move_the_other_one(host, asks):
    worker = host()
    assign(asks, worker)
    assert asks(worker, orders.Start(name="web"))[0] == ""
    assign(asks, worker, team="db")
    assert asks(worker, orders.Start(name="web"))[0] == "not-the-teams"
    assert asks(worker, orders.Start(name="web"), team="db")[0] == ""
    assign(asks, worker, team="")
    assert asks(worker, orders.Start(name="web"), team="db")[0] == "not-the-teams"


def test_only_an_administrator_assigns(host, asks, spool):
    worker = host()
    assert asks(worker, orders.Assign(name="web", team="web"), role="owner")[0] == "not-allowed"
    assert belongs(spool) == {}


def test_a_build_for_a_team_makes_the_machine_its(host, asks, spool):
    worker = host()
    code, job = asks(worker, BUILD)
    assert (code, belongs(spool)) == ("", {"web": "web"})
    ends(spool, job, machine={"name": "web"})
    assert asks(worker, orders.Start(name="web"))[0] == ""


@pytest.mark.parametrize(
    ("state", "machine", "left"),
    [("failed", None, {}), ("cancelled", None, {}), ("failed", {"name": "web"}, {"web": "web"})],
)
def test_a_build_that_made_nothing_leaves_nothing(host, asks, spool, state, machine, left):
    _, job = asks(host(), BUILD)
    ends(spool, job, state, machine)
    assert belongs(spool) == left


def test_a_build_does_not_make_an_image_the_team_s_that_lies_there_already(host, asks, spool, paths):
    (paths.machines / "web").mkdir()
    worker = host()
    _, job = asks(worker, BUILD)
    assert belongs(spool) == {}
    ends(spool, job, "failed", {"name": "web"})
    assert belongs(spool) == {}
    assert asks(worker, orders.Start(name="web"))[0] == "not-the-teams"


def test_a_refused_build_of_its_own_missing_machine_takes_nothing_away(host, asks, spool):
    assign(asks, host())
    _, job = asks(host(), BUILD)
    ends(spool, job, "failed", None)
    assert belongs(spool) == {"web": "web"}


def test_another_team_s_name_and_machines_are_neither_built_over_nor_copied(host, asks, spool):
    worker = host()
    assign(asks, worker, team="db")
    assert asks(worker, BUILD)[0] == "not-the-teams"
    copy = BUILD.model_copy(update={"name": "copy", "recipe": CloneRecipe(source="web")})
    assert asks(worker, copy)[0] == "not-the-teams"
    assert asks(worker, copy, team="db")[0] == ""
    assert belongs(spool) == {"web": "db", "copy": "db"}


def test_a_removal_is_forgotten(host, asks, spool):
    worker = host()
    assign(asks, worker)
    _, job = asks(worker, orders.Remove(name="web"), role="owner")
    ends(spool, job, "failed")
    assert belongs(spool) == {"web": "web"}
    _, job = asks(worker, orders.Remove(name="web"), role="owner")
    ends(spool, job)
    assert belongs(spool) == {}


def test_a_job_of_another_team_is_not_cancelled(host, asks, spool, sealed):
    worker = host()
    assign(asks, worker, name="web", team="web")
    _, job = asks(worker, BUILD.model_copy(update={"name": "db"}))
    for team, is_cancelled in (("db", False), ("web", True)):
        worker.receive(sealed(orders.Cancel(job=job), actor=Actor(name="olga", role="operator", team=team))[1])
        assert spool.ledger.job(job).cancelled is is_cancelled
    assert spool.of("refused")[0].code == "not-the-teams"


def test_a_base_image_made_for_another_team_is_not_removed_for_this_one(host, asks, paths):
    worker = host()
    _, job = asks(worker, BUILD_BASE)
    base = Base("0" * 16, "key", "Debian 13", 1.0, 1, [], str(job))
    paths.bases.mkdir(parents=True)
    (paths.bases / f"{base.id}.json").write_text(json.dumps(asdict(base)))
    paths.base(base.id).mkdir(parents=True)
    removal = orders.RemoveBase(base=base.id)
    code, message = asks(worker, removal, team="db")
    assert code == "not-the-teams"
    assert message == "The base image was made for another team on this host, so the request was refused."
    assert asks(worker, removal)[0] == ""
    assert asks(worker, removal, team="", role="administrator")[0] == ""
    assert asks(worker, orders.RemoveBase(base="1" * 16), team="db")[0] == ""


def test_it_is_known_after_a_restart_and_not_after_another_enrolment(host, asks, spool, paths):
    assign(asks, host())
    spool.ledger.close()
    again = Ledger(paths.ledger, host=spool.host, generation=2)
    with again.reading() as db:
        assert owners.every(db) == {"web": "web"}
    assert owners.read(paths.ledger, "web") == "web"
    again.close()
    other = Ledger(paths.ledger, host=uuid4(), generation=1)
    with other.reading() as db:
        assert owners.every(db) == {}
    other.close()


def test_a_ledger_of_an_earlier_worker_goes_on(paths, spool):
    spool.ledger.close()
    with books.connect(paths.ledger) as db:
        db.execute("drop table owners")
        db.execute("alter table jobs drop column team")
    again = Ledger(paths.ledger, host=spool.host, generation=1)
    assert again.unfinished() == []
    again.close()


# --- the section of its team


def test_a_team_s_section_holds_for_what_it_asks_and_for_its_machines(host, asks):
    worker = host(Policy(teams={"web": Section(operations=("start",), machines=("web*",))}))
    assign(asks, worker, name="web")
    assert asks(worker, orders.Start(name="web"))[0] == ""
    assert asks(worker, orders.Poweroff(name="web")) == (
        "policy-refused", "This host's policy does not allow it for team web: the operation “poweroff”.",
    )  # fmt: skip
    assert asks(worker, orders.Poweroff(name="web"), team="", role="administrator")[0] == ""
    assert asks(worker, BUILD.model_copy(update={"name": "db"}))[0] == "policy-refused"


def test_the_handler_judges_by_the_section_too(host, asks):
    seen = []
    worker = host(Policy(teams={"web": Section(bind_sources=("/srv/web",))}))
    worker._table = dict.fromkeys(
        handlers.TABLE, lambda host, _: seen.append(host.policy.layers[-1].bind_sources) or {}
    )
    assign(asks, worker)
    asks(worker, orders.Start(name="web"))
    asks(worker, orders.Start(name="web"), team="", role="administrator")
    asks(worker, orders.Start(name="other"), team="", role="administrator")
    assert seen[1:] == [("/srv/web",), ("/srv/web",), Policy().bind_sources]


def with_limits(name, text):
    files = orders.Configuration(revision=1, nspawn="", limits=text)
    return BUILD.model_copy(update={"name": name, "configuration": files})


def test_ceilings_count_what_systemd_has_and_what_is_under_way(host, asks, bus):
    worker = host(Policy(teams={"web": Section(max_memory=8 * GIB, max_machines=3)}))
    assign(asks, worker, name="db")
    bus.has["db"] = {"MemoryMax": 4 * GIB}
    assert asks(worker, with_limits("web", "[Service]\nMemoryMax=3G\n"))[0] == ""  # is being built
    code, message = asks(worker, with_limits("web-2", "[Service]\nMemoryMax=2G\n"))
    assert code == "policy-refused"
    assert "MemoryMax=2\u00a0GiB; the team's other machines have 7\u00a0GiB of 8\u00a0GiB here." in message
    assert asks(worker, with_limits("web-2", "[Service]\nMemoryMax=1G\n"))[0] == ""
    assert "has 3 of 3 machines" in asks(worker, with_limits("web-3", ""))[1]
    files = orders.Configuration(revision=1, nspawn="", limits="[Service]\nMemoryMax=5G\n")
    assert asks(worker, orders.Apply(name="db", configuration=files))[0] == "policy-refused"
    files = files.model_copy(update={"limits": "[Service]\nMemoryMax=3G\n"})
    assert asks(worker, orders.Apply(name="db", configuration=files))[0] == ""


def test_a_machine_that_may_take_everything_leaves_no_room(host, asks, bus):
    worker = host(Policy(teams={"web": Section(max_cpu=400.0)}))
    assign(asks, worker, name="db")
    bus.has["db"] = {"CPUQuotaPerSecUSec": 2**64 - 1}
    assert (
        "more while db of the team has no CPUQuota=" in asks(worker, with_limits("web", "[Service]\nCPUQuota=50%\n"))[1]
    )
    bus.has["db"] = {"CPUQuotaPerSecUSec": 500_000}
    assert asks(worker, with_limits("web", "[Service]\nCPUQuota=350%\n"))[0] == ""


def test_images_that_take_a_team_s_disk_leave_no_room_for_a_base_image(host, asks):
    worker = host(Policy(teams={"web": Section(max_disk=10 * GIB, max_machines=1)}))
    assign(asks, worker, name="db")
    assert asks(worker, BUILD_BASE)[0] == ""
    worker._host.slow.disk["db"] = (1.0, 10 * GIB)
    code, message = asks(worker, BUILD_BASE)
    assert code == "policy-refused"
    assert message.endswith("for team web: images of the team take 10\u00a0GiB of 10\u00a0GiB here.")
    assert asks(worker, BUILD_BASE, team="", role="administrator")[0] == ""


def test_a_drop_in_that_is_all_that_limits_a_machine_stays(host, asks, bus, paths):
    worker = host(Policy(teams={"web": Section(max_memory=4 * GIB)}))
    assign(asks, worker, name="db")
    bus.has["db"] = {"MemoryMax": GIB}
    goes = orders.RemoveDropins(name="db", files=[orders.OldDropin(path="/etc/x/10-root.conf", sha256="0" * 64)])
    code, message = asks(worker, goes)
    assert code == "policy-refused"
    assert "a machine without MemoryMax=; the team may use 4\u00a0GiB here." in message
    ours = paths.limits_file("db")
    ours.parent.mkdir(parents=True)
    ours.write_text("[Service]\nMemoryMax=5G\n")
    assert "MemoryMax=5\u00a0GiB" in asks(worker, goes)[1]
    ours.write_text("[Service]\nMemoryMax=3G\n")
    assert asks(worker, goes)[0] == ""


def test_what_a_drop_in_will_no_longer_limit_is_counted_while_it_is_being_removed(host, asks, bus, paths, spool):
    worker = host(Policy(teams={"web": Section(max_memory=4 * GIB)}))
    assign(asks, worker, name="db")
    bus.has["db"] = {"MemoryMax": GIB}
    ours = paths.limits_file("db")
    ours.parent.mkdir(parents=True)
    ours.write_text("[Service]\nMemoryMax=3G\n")
    goes = orders.RemoveDropins(name="db", files=[orders.OldDropin(path="/etc/x/10-root.conf", sha256="0" * 64)])
    with spool.ledger.writing() as db:
        spool.ledger.take(db, uuid4(), orders.to_wire(goes), "edith", "accepted", team="web")
    assert asks(worker, with_limits("web", "[Service]\nMemoryMax=2G\n"))[0] == "policy-refused"
    assert asks(worker, with_limits("web", "[Service]\nMemoryMax=1G\n"))[0] == ""


def test_files_that_nobody_counted_are_not_kept_for_a_new_machine(host, asks):
    worker = host(Policy(teams={"web": Section(max_memory=4 * GIB)}))
    kept = {"leftovers": "keep", "seen": [orders.SeenFile(path="/etc/x", sha256="a" * 64)]}
    build = with_limits("web", "[Service]\nMemoryMax=1G\n")
    code, message = asks(worker, build.model_copy(update=kept))
    assert (code, "what they let it take is not counted" in message) == ("policy-refused", True)
    assert asks(worker, build.model_copy(update=kept | {"leftovers": "replace"}))[0] == ""
