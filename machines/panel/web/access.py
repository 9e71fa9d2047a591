"""Who gets in. A view declares the permission it needs; one that declares none is refused, and fails the tests.

What a person may not see is a 404, what they may not do is a 403 that names the missing permission.
"""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from allauth.account.internal.flows.login import get_authentication_records
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from machines.contract.permissions import Permission
from machines.contract.problems import NotAllowed
from machines.models import Host, Job, Machine, Team, User
from machines.models.team import OfTeams
from machines.panel.teams.authorize import authorize, who_can, why_not
from machines.panel.web import bearer, shown_team

log = logging.getLogger(__name__)
View = TypeVar("View", bound=Callable[..., Any])
M = TypeVar("M", bound=Model)
PUBLIC = "public"  # no sign-in needed
SIGNED_IN = "signed in"  # what people have of themselves: no permission needed but to be somebody


class PanelRequest(HttpRequest):
    """What a signed-in request has."""

    user: User
    htmx: HtmxDetails
    permission: Permission  # the one the view declares


def needs(permission: Permission | str) -> Callable[[View], View]:
    """Declare the permission a view needs, or PUBLIC or SIGNED_IN. It is checked by RequireDeclaredPermission, before
    the view runs."""

    def declare(view: View) -> View:
        view.permission = permission  # type: ignore[attr-defined]  # functions carry attributes
        return view

    return declare


def recently_signed_in(view: View) -> View:
    """Let in who signed in, or confirmed to be it, within the last 15 minutes; others confirm, and are back then.

    Stands below `needs`: nobody is asked for a password to do what they may not do. What was sent is not kept meanwhile
    (there may be passwords in it): the form is sent again.
    """

    @wraps(view)
    def only_recently(request: PanelRequest, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs) if is_recent(request) else to_confirm(request)

    only_recently.asks_again = True  # type: ignore[attr-defined]  # as above
    return only_recently  # type: ignore[return-value]  # the same arguments


def is_recent(request: HttpRequest) -> bool:
    """Whether this session's person signed in or confirmed within ACCOUNT_REAUTHENTICATION_TIMEOUT seconds."""
    if not signed_in(request):
        return False
    moments = [each["at"] for each in get_authentication_records(request, request.user)]
    age = time.time() - max(moments, default=0.0)
    return 0 <= age < settings.ACCOUNT_REAUTHENTICATION_TIMEOUT


class RequireDeclaredPermission:
    """Refuse what declares no permission, send strangers to sign in, and stop those who hold the permission nowhere. Whether
    they hold it for the very thing is judged when that is looked up (machine, job … below).

    No cache keeps what signed-in people see: a page one comes Back to is asked for anew, and shows what holds by then.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if signed_in(request):
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response

    def process_view(self, request: PanelRequest, view: Callable[..., Any], *_: Any) -> HttpResponse | None:
        permission = getattr(view, "permission", None)
        if permission is None:
            log.error("The view %s declares no permission; refused.", getattr(view, "__qualname__", view))
            raise PermissionDenied("This page declares no permission, so nobody may open it.")
        if permission == PUBLIC:
            return None
        if not signed_in(request):
            return to_login(request)
        request.user.shown_team = shown_team.of(request, request.user)
        if permission == SIGNED_IN:
            return None
        if not request.user.may(Permission(permission)):
            said = _lacks(request.user, Permission(permission))
            if request.user.scope is not None:
                return bearer.answer(said, 403)
            raise PermissionDenied(said)
        request.permission = Permission(permission)
        return None


def signed_in(request: HttpRequest) -> bool:
    """Before this is asked, PanelRequest's promise of a user is not yet kept."""
    return request.user.is_authenticated


def to_login(request: PanelRequest) -> HttpResponse:
    """To sign in, and then back to the page that was open: neither a fragment nor what takes only a POST."""
    return _by_way_of(request, reverse("account_login"))


def to_confirm(request: PanelRequest) -> HttpResponse:
    """To say once more who one is (allauth leads on from there to what this person has), and then back likewise."""
    return _by_way_of(request, reverse("account_reauthenticate"))


def _by_way_of(request: PanelRequest, address: str) -> HttpResponse:
    if request.htmx:
        back = request.htmx.current_url_abs_path or "/"
        return HttpResponseClientRedirect(f"{address}?next={quote(back)}")
    back = request.get_full_path() if request.method == "GET" else page_of(request)
    return redirect(f"{address}?next={quote(back)}")


def is_page(address: str) -> bool:
    """Whether this is a path of the panel's own. Only such a one of what a browser sent may be led to, and never by
    redirect(), which takes words without a slash for names of views."""
    return address.startswith("/") and url_has_allowed_host_and_scheme(address, allowed_hosts=None)


def page_of(request: HttpRequest) -> str:
    """The path of the page whose form was sent. Of what the browser says of it only the path counts."""
    path = urlsplit(request.headers.get("Referer", "")).path
    return path if is_page(path) else "/"


# --- what an address names: 404 when it does not exist for this person, 403 when the view's permission is not theirs for it


def host(request: PanelRequest, name: str) -> Host:
    return get_object_or_404(Host.objects.visible_to(request.user), name=name)


def machine(request: PanelRequest, host_name: str, name: str) -> Machine:
    machines = Machine.objects.listed().select_related("host", "applied", "team")
    return of_team(request, machines, host__name=host_name, name=name)


def job(request: PanelRequest, pk: int) -> Job:
    return of_team(request, Job.objects.select_related("host", "actor", "retry_of", "revision", "team"), pk=pk)


def team(request: PanelRequest, slug: str) -> Team:
    """Of a renamed one the address is still the same."""
    found = get_object_or_404(Team.objects.visible_to(request.user), slug=slug)
    check(request, request.permission, found.pk)
    return found


def of_team(request: PanelRequest, rows: OfTeams[M], **key: Any) -> M:
    """The one of these rows with this key. Raises Http404, and PermissionDenied when the person may see it and not do with
    it what the view is for."""
    found = get_object_or_404(rows.visible_to(request.user), **key)
    check(request, request.permission, found.team_id)  # type: ignore[attr-defined]  # rows of OfTeams have a team
    return found


def check(request: PanelRequest, permission: Permission, team_id: int | None) -> None:
    """Raises PermissionDenied."""
    try:
        authorize(request.user, permission, team_id)
    except NotAllowed as problem:
        raise PermissionDenied(f"{problem.message} {problem.hint}") from problem


def _lacks(user: User, permission: Permission) -> str:
    if permission is Permission.ADMINISTER or user.scope is not None or not user.grants:
        return f"{why_not(user, permission, None)} {who_can(user, permission, None)}"
    return f"This needs the permission to {permission}, which you have in none of your teams. An owner of the team can change that."
