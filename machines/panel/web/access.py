"""Who gets in. A view declares the permission it needs; one that declares none is refused, and fails the tests.

What a person may not see is a 404, what they may not do is a 403 that names the missing permission.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from machines.contract.permissions import Permission
from machines.models import Host, Job, Machine, User

log = logging.getLogger(__name__)
View = TypeVar("View", bound=Callable[..., Any])
PUBLIC = "public"  # no sign-in needed, or (allauth's own pages) the page asks for it itself


class PanelRequest(HttpRequest):
    """What a signed-in request has."""

    user: User
    htmx: HtmxDetails


def needs(permission: Permission | str) -> Callable[[View], View]:
    """Declare the permission a view needs. It is checked by RequireDeclaredPermission, before the view runs."""

    def declare(view: View) -> View:
        view.permission = permission  # type: ignore[attr-defined]  # functions carry attributes
        return view

    return declare


class RequireDeclaredPermission:
    """Refuse what declares no permission, send strangers to sign in, and stop those whose role lacks the permission.

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
        if not request.user.may(Permission(permission)):
            raise PermissionDenied(
                f"This needs the permission to {permission}. Your role, {request.user.role}, does not have it; "
                "an administrator can do it or change your role."
            )
        return None


def signed_in(request: HttpRequest) -> bool:
    """Before this is asked, PanelRequest's promise of a user is not yet kept."""
    return request.user.is_authenticated


def to_login(request: PanelRequest) -> HttpResponse:
    """To sign in, and then back to the page that was open: neither a fragment nor what takes only a POST."""
    if request.htmx:
        back = request.htmx.current_url_abs_path or "/"
        return HttpResponseClientRedirect(f"{reverse('account_login')}?next={quote(back)}")
    back = request.get_full_path() if request.method == "GET" else page_of(request)
    return redirect(f"{reverse('account_login')}?next={quote(back)}")


def is_page(address: str) -> bool:
    """Whether this is a path of the panel's own. Only such a one of what a browser sent may be led to, and never by
    redirect(), which takes words without a slash for names of views."""
    return address.startswith("/") and url_has_allowed_host_and_scheme(address, allowed_hosts=None)


def page_of(request: HttpRequest) -> str:
    """The path of the page whose form was sent. Of what the browser says of it only the path counts."""
    path = urlsplit(request.headers.get("Referer", "")).path
    return path if is_page(path) else "/"


def host(_request: PanelRequest, name: str) -> Host:
    return get_object_or_404(Host, name=name)


def machine(_request: PanelRequest, host_name: str, name: str) -> Machine:
    machines = Machine.objects.listed().select_related("host", "applied")
    return get_object_or_404(machines, host__name=host_name, name=name)


def job(_request: PanelRequest, pk: int) -> Job:
    return get_object_or_404(Job.objects.select_related("host", "actor", "retry_of", "revision"), pk=pk)
