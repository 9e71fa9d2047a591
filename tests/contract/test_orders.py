"""Orders: there and back unchanged, and nothing that is not an order."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.contract import orders
from machines.contract.orders import Configuration
from machines.contract.permissions import Permission
from machines.contract.problems import BadValue
from machines.contract.recipes import DebianRecipe, FirstBoot

CONFIGURATION = Configuration(revision=3, nspawn="[Exec]\nBoot=yes\n", limits="", replaces_nspawn="ab" * 32)
ONE_OF_EACH = [
    orders.Start(name="web"), orders.Poweroff(name="web"), orders.Reboot(name="web"), orders.Terminate(name="web"),
    orders.Enable(name="Old.Name"), orders.Disable(name="web"), orders.Apply(name="web", configuration=CONFIGURATION),
    orders.Build(name="web", recipe=DebianRecipe(release="bookworm", packages=("nginx",)), first_boot=FirstBoot(),
                 configuration=CONFIGURATION),
    orders.BuildBase(recipe=DebianRecipe(release="trixie", prime=True)), orders.RemoveBase(base="0123456789abcdef"),
    orders.Export(name="web", url="https://panel.example/archives/1/", limit=10**9), orders.SetReadOnly(name="web", read_only=True),
    orders.Assign(name="web", team="ops"), orders.Pool(size=10 * 1024**3), orders.Remove(name="web", image_id="17"), orders.Cancel(job=uuid4()), orders.Resend(after=7), orders.Refresh(),
    orders.Resynchronise(epoch=2, number=7), orders.TrustKeys(keys=["A" * 43 + "="]), orders.Diagnose(), orders.Diagnose(name="web"), orders.Fix(name="web", what="guest-networkd"), orders.LimitTest(name="web"),
    orders.RemoveDropins(name="web", files=[orders.OldDropin(path="/etc/systemd/system.control/x.conf", sha256="ab" * 32)]),
]  # fmt: skip


def test_there_is_one_of_each():
    assert {type(order) for order in ONE_OF_EACH} == set(orders.KINDS.values())


@pytest.mark.parametrize("order", ONE_OF_EACH, ids=lambda order: order.op)
def test_there_and_back(order):
    assert orders.from_wire(orders.to_wire(order)) == order


@pytest.mark.parametrize("order", ONE_OF_EACH, ids=lambda order: order.op)
def test_a_field_too_many_is_refused(order):
    with pytest.raises(BadValue, match="cannot be read"):
        orders.from_wire(orders.to_wire(order) | {"shell": "rm -rf /"})


@pytest.mark.parametrize(
    "data", [None, [], "start", {}, {"op": "shell"}, {"op": "start"}, {"op": "start", "name": ""}, {"op": "start", "name": 7},
             {"op": "start", "name": "../../etc"}, {"op": "start", "name": "a b"}, {"op": "start", "name": ".host"},
             {"op": "cancel", "job": "7"}, {"op": "resend", "after": -1},
             {"op": "fix", "what": "reboot"}, {"op": "fix", "name": "web"}, {"op": "diagnose", "name": "../x"}]
)  # fmt: skip
def test_what_is_no_order_is_refused(data):
    with pytest.raises(BadValue):
        orders.from_wire(data)


def test_a_new_name_is_held_to_the_stricter_rule():
    build = next(order for order in ONE_OF_EACH if order.op == "build")
    with pytest.raises(BadValue, match="lower-case"):
        orders.from_wire(orders.to_wire(build) | {"name": "Old.Name"})


def test_files_are_bounded():
    for field, size in (("nspawn", 128 * 1024), ("limits", 64 * 1024)):
        data = orders.to_wire(orders.Apply(name="web", configuration=CONFIGURATION))
        data["configuration"][field] = "#" * (size + 1)
        with pytest.raises(BadValue):
            orders.from_wire(data)


def test_the_refusal_says_where():
    with pytest.raises(BadValue) as refusal:
        orders.from_wire({"op": "apply", "name": "web", "configuration": {"revision": 0, "nspawn": "", "limits": ""}})
    assert refusal.value.field == "apply.configuration.revision"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["op", "name", "job", "after"]), x, max_size=4), max_leaves=8))  # fmt: skip
def test_noise_raises_bad_value_and_nothing_else(data):
    try:
        order = orders.from_wire(data)
    except BadValue:
        return
    assert type(order) in orders.KINDS.values()


@pytest.mark.parametrize("op", orders.KINDS)
def test_every_operation_says_who_may_order_it_and_where_it_runs(op):
    said = vars(orders.KINDS[op])
    assert isinstance(said["permission"], Permission)
    assert isinstance(said["runs"], orders.Runs)


@pytest.mark.parametrize("op", [op for op, kind in orders.KINDS.items() if kind.runs is orders.Runs.UNIT])
def test_an_operation_that_runs_in_a_unit_has_a_time_limit_of_its_own(op):
    assert 0 < vars(orders.KINDS[op])["time_limit"] <= orders.EXPIRES_AFTER


@pytest.mark.parametrize("op", orders.KINDS)
def test_what_is_said_of_an_operation_can_be_so(op):
    kind = orders.KINDS[op]
    assert len(set(kind.phases)) == len(kind.phases)
    assert set(kind.later) <= set(kind.model_fields)
    assert kind.at_once > 0
    assert not kind.reads_only or kind.runs is orders.Runs.CONTROL
    assert not kind.goes_on_when_killed or kind.runs is orders.Runs.UNIT
    assert not (kind.stays_fresh or kind.undoes_when_cancelled or kind.overtakes) or kind.runs is orders.Runs.WORKER


def test_of_an_operation_of_another_version_the_most_cautious_is_taken():
    kind = orders.kind_of("shell")
    assert (kind.permission, kind.runs) == (Permission.ADMINISTER, orders.Runs.WORKER)
    with pytest.raises(BadValue):
        orders.from_wire({"op": "shell"})
