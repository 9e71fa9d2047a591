"""Web entry point; `manage.py web` serves it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nspawnpanel.settings")
django_application = get_asgi_application()

from machines.panel.web import admission, body_limit  # noqa: E402  # import records, which need the settings

application = body_limit.small(admission.bounded(django_application))
