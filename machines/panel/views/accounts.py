"""What people set for themselves."""

from allauth.usersessions.models import UserSession
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRefresh

from machines.contract.permissions import Permission
from machines.models import User
from machines.panel.forms.people import ProfileForm
from machines.panel.people import sessions
from machines.panel.web import access, responses
from machines.panel.web.access import SIGNED_IN, PanelRequest, needs, recently_signed_in


@require_POST
@needs(Permission.VIEW)
def theme(request: PanelRequest) -> HttpResponse:
    """Light, dark, or what the system says; then back to where the person was."""
    wanted, back = request.POST.get("theme", ""), request.POST.get("next", "")
    if wanted not in User.Theme:
        return HttpResponseBadRequest("Choose system, light or dark.")
    request.user.theme = wanted
    request.user.save(update_fields=["theme"])
    if request.htmx:
        return HttpResponseClientRefresh()
    return HttpResponseRedirect(back if access.is_page(back) else reverse("machine-index"))


@require_http_methods(["GET", "POST"])
@needs(SIGNED_IN)
@recently_signed_in
def profile(request: PanelRequest) -> HttpResponse:
    """Name and mail address. A link to a new password goes to that address, so it is asked again who this is."""
    form = ProfileForm(request.POST or None, person=request.user)
    if not form.is_valid():
        return render(request, "settings/profile.html", {"form": form}, status=422 if form.is_bound else 200)
    request.user.first_name, request.user.email = form.cleaned_data["name"], form.cleaned_data["email"]
    request.user.save(update_fields=["first_name", "email"])
    return responses.done(request, "Profile saved.", back="profile")


@require_GET
@needs(SIGNED_IN)
def session_index(request: PanelRequest) -> HttpResponse:
    found = list(sessions.of(request.user)[: sessions.MOST])
    for session in found:
        session.is_this = _is_this(request, session)
    others = any(not session.is_this for session in found)
    return render(request, "settings/sessions.html", {"sessions": found, "others": others})


def _is_this(request: HttpRequest, session: UserSession) -> bool:
    return bool(session.session_key == request.session.session_key)


@require_POST
@needs(SIGNED_IN)
def end_session(request: PanelRequest, pk: int) -> HttpResponse:
    session = get_object_or_404(UserSession, pk=pk, user_id=request.user.pk)
    sessions.end(UserSession.objects.filter(pk=session.pk))
    return responses.done(request, f"Signed out the session from {session.ip}.", back="session-index")


@require_POST
@needs(SIGNED_IN)
def end_other_sessions(request: PanelRequest) -> HttpResponse:
    ended = sessions.end_others(request, request.user)
    said = f"Signed out {ended} other session{'' if ended == 1 else 's'}."
    return responses.done(request, said if ended else "You are signed in nowhere else.", back="session-index")


def out_of_date(request: PanelRequest, **_: str) -> HttpResponse:
    """A form of a page that was opened before somebody signed in anew, or in a browser that lost its cookies."""
    if not access.signed_in(request):
        return access.to_login(request)
    if request.htmx:
        said = "This page is out of date. Reload it, then try again."
        return HttpResponse(said, status=403, content_type="text/plain; charset=utf-8")
    return render(request, "403_csrf.html", {"back": access.page_of(request)}, status=403)
