"""Django's test client signs people in by writing the session's cookie itself; here as the panel would (sealed_sessions.py)."""

from importlib import import_module
from typing import Any

from django.conf import settings
from django.test.client import ClientMixin

from machines.panel.web.sealed_sessions import seal, unseal

written = ClientMixin._set_login_cookies


def sealed(client: Any, request: Any) -> None:
    written(client, request)
    client.cookies[settings.SESSION_COOKIE_NAME] = seal(request.session.session_key)


def session(client: Any) -> Any:
    """That of its cookie, or a new one."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    cookie = client.cookies.get(settings.SESSION_COOKIE_NAME)
    found = store(unseal(cookie.value)) if cookie else store()
    if not cookie:
        found.save()
        client.cookies[settings.SESSION_COOKIE_NAME] = seal(found.session_key)
    return found


async def asession(client: Any) -> Any:
    store = import_module(settings.SESSION_ENGINE).SessionStore
    cookie = client.cookies.get(settings.SESSION_COOKIE_NAME)
    found = store(unseal(cookie.value)) if cookie else store()
    if not cookie:
        await found.asave()
        client.cookies[settings.SESSION_COOKIE_NAME] = seal(found.session_key)
    return found


ClientMixin._set_login_cookies = sealed
ClientMixin.session = property(session)
ClientMixin.asession = asession
