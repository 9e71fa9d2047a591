"""The standing cast, and a clean environment."""

import os
import tempfile

os.environ.update(
    SECRET_KEY="only-for-tests",
    NSPAWNPANEL_ENV="/nonexistent",
    NSPAWNPANEL_DATA=tempfile.mkdtemp(prefix="nspawnpanel-tests-"),
)

import pytest  # noqa: E402  # after the environment is set
from django.test import Client  # noqa: E402

from machines.contract.rights import Role  # noqa: E402
from machines.models import Host, Machine, User  # noqa: E402
from tests import make  # noqa: E402


pytest_plugins = ["tests.real"]


@pytest.fixture(autouse=True)
def _plain_static_files(settings):
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


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
