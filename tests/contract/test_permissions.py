"""Rights: who may do what, and that nothing is allowed by forgetting it."""

import pytest

from machines.contract import orders
from machines.contract.permissions import PERMISSIONS, Permission, Role, authorize
from machines.contract.problems import NotAllowed
from tests.contract.test_orders import CONFIGURATION, ONE_OF_EACH


def test_every_role_is_described():
    assert set(PERMISSIONS) == set(Role)


def test_an_administrator_may_do_everything():
    for permission in Permission:
        authorize(Role.ADMINISTRATOR, permission)


@pytest.mark.parametrize("order", ONE_OF_EACH, ids=lambda order: order.op)
def test_a_viewer_changes_nothing(order):
    if order.permission == Permission.VIEW:
        orders.authorize(Role.VIEWER, order)
    else:
        with pytest.raises(NotAllowed, match=f"the permission to {order.permission}"):
            orders.authorize(Role.VIEWER, order)


def test_who_may_configure_and_not_operate_may_apply_but_not_restart(monkeypatch):
    monkeypatch.setitem(PERMISSIONS, Role.VIEWER, frozenset({Permission.VIEW, Permission.CONFIGURE}))
    apply = orders.Apply(name="web", configuration=CONFIGURATION)
    orders.authorize(Role.VIEWER, apply)
    with pytest.raises(NotAllowed, match="the permission to operate"):
        orders.authorize(Role.VIEWER, apply.model_copy(update={"restart": True}))


@pytest.mark.parametrize("role", ["", "root", "Administrator", "viewer ", "administrator\0"])
def test_an_unknown_role_holds_nothing(role):
    for permission in Permission:
        with pytest.raises(NotAllowed):
            authorize(role, permission)
