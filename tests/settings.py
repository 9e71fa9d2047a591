"""The panel's settings, read from an environment that tests alone have made. pytest-django reads them before any conftest."""

import os
import tempfile

os.environ.update(
    SECRET_KEY="only-for-tests",
    NSPAWNPANEL_ENV="/nonexistent",
    NSPAWNPANEL_DATA=tempfile.mkdtemp(prefix="nspawnpanel-tests-"),
    POKE_URL="",
    REDIS_URL="",
)

from nspawnpanel.settings import *  # noqa: F403  # after the environment is set

# Or each new client walks through all static files: a second a test.
WHITENOISE_AUTOREFRESH = True
STORAGES = {
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
}
