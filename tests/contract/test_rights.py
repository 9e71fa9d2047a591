"""Rights: who may do what, and that nothing is allowed by forgetting it."""

from typing import get_args

import pytest

from machines.contract import orders
from machines.contract.permissions import RIGHT_FOR, RIGHTS, Right, Role, authorize, authorize_operation
from machines.contract.problems import NotAllowed

OPERATIONS = [model.model_fields["op"].default for model in get_args(get_args(orders.AnyOrder)[0])]


def test_every_operation_has_a_right():
    assert set(OPERATIONS) == set(RIGHT_FOR)


def test_every_role_is_described():
    assert set(RIGHTS) == set(Role)


def test_an_administrator_may_do_everything():
    for right in Right:
        authorize(Role.ADMINISTRATOR, right)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_viewer_changes_nothing(operation):
    if RIGHT_FOR[operation] == Right.SEE:
        authorize_operation(Role.VIEWER, operation)
    else:
        with pytest.raises(NotAllowed, match=f"the right to {RIGHT_FOR[operation]}"):
            authorize_operation(Role.VIEWER, operation)


@pytest.mark.parametrize("role", ["", "root", "Administrator", "viewer ", "administrator\0"])
def test_an_unknown_role_holds_nothing(role):
    for right in Right:
        with pytest.raises(NotAllowed):
            authorize(role, right)


@pytest.mark.parametrize("operation", ["", "shell", "START", "start "])
def test_an_operation_nobody_listed_is_refused(operation):
    with pytest.raises(NotAllowed, match="not a known operation"):
        authorize_operation(Role.ADMINISTRATOR, operation)
