"""The standing cast."""

from typing import Any

import pytest
from django.core.management.commands import flush
from django.test import Client

from machines import audit_triggers
from machines.contract.permissions import Role
from machines.models import Host, Machine, User
from tests import make

pytest_plugins = ["tests.sharing", "tests.real"]
emptied = flush.sql_flush


def emptied_with_its_history(style: Any, connection: Any, **how: Any) -> list[str]:
    """Between two tests the history goes too; what keeps it comes back with post_migrate."""
    return [*audit_triggers.drop(connection), *emptied(style, connection, **how)]


flush.sql_flush = emptied_with_its_history


@pytest.fixture
def admin(db) -> User:
    return make.user("ada", role=Role.ADMINISTRATOR)


@pytest.fixture
def viewer(db) -> User:
    return make.user("vera", role=Role.VIEWER)


@pytest.fixture
def stranger(db) -> User:
    """Signed in, with a role that holds nothing."""
    return make.user("sam", role="")


@pytest.fixture
def alpha(db) -> Host:
    return make.host("alpha")


@pytest.fixture
def web(alpha) -> Machine:
    return make.machine("web", on=alpha)


@pytest.fixture
def as_admin(admin) -> Client:
    return make.client(admin)


@pytest.fixture
def as_viewer(viewer) -> Client:
    return make.client(viewer)
