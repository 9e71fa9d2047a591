"""Sign-in by allauth, and the panel."""

from allauth.account import urls as account
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import include, path

from machines.panel import urls as panel
from machines.panel.web import server_errors
from machines.panel.web.access import PUBLIC, needs

OPEN = {"account_login", "account_logout", "account_change_password", "account_reauthenticate", "account_inactive"}


@needs(PUBLIC)
def closed(request: HttpRequest, **_: str) -> HttpResponse:
    """Of allauth's pages those that would send mail or make accounts."""
    raise Http404(request.path)


# allauth asks for the sign-in itself where a page needs one; names of closed pages stay, for it resolves them
for pattern in account.urlpatterns:
    pattern.callback = needs(PUBLIC)(pattern.callback) if pattern.name in OPEN else closed

handler500 = server_errors.answer

urlpatterns = [
    path("accounts/", include(account)),
    path("", include(panel)),
]
