"""What tests of pages need besides the cast."""

import pytest
from django.conf import settings as ours

# pytest-django reads the settings before tests/conftest.py has set the environment.
ours.SECRET_KEY = "only-for-tests"


@pytest.fixture(autouse=True)
def _no_walk_through_static_files(settings):
    """Or each new client walks through all of them: 2,000 files, a second a test."""
    settings.WHITENOISE_AUTOREFRESH = True
