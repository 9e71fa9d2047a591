"""Sign-in by the provider of OIDC_SERVER_URL. Whoever it vouches for is let in as far as their groups say (OIDC_TEAMS), and
at each sign-in the memberships of the teams that are named there are made what the groups say.

Teams that are not named there are left alone. A mail address joins nobody to an account: whoever has one here already
connects it under Settings → Security.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

import requests
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.base import AuthProcess
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from machines.contract.permissions import TEAM_ROLES, Permission, Role
from machines.models import Membership, Team, User
from machines.panel.audit import entries
from machines.panel.people import roster, withdrawals
from machines.panel.people.names import is_taken
from machines.panel.web import access

log = logging.getLogger(__name__)
MOST_GROUPS = 1000


@dataclass(frozen=True)
class Rule:
    """Whoever is in the group is this in the team; without a team, an administrator of the installation."""

    group: str
    team: str
    role: Role
    extra: frozenset[Permission] = frozenset()


@dataclass
class Wanted:
    is_administrator: bool = False
    teams: dict[str, tuple[Role, frozenset[Permission]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.is_administrator or bool(self.teams)


@cache
def parse(text: str) -> tuple[Rule, ...]:
    """ "web-admins=web:owner, web-people=web:operator+console, root=administrator". Raises ImproperlyConfigured."""
    return tuple(_rule(each.strip()) for each in text.split(",") if each.strip())


def _rule(text: str) -> Rule:
    group, _, given = text.rpartition("=")
    team, _, rest = given.rpartition(":")
    role, *extra = rest.split("+")
    known = role == Role.ADMINISTRATOR if not team else role in TEAM_ROLES
    if not group or not known or not set(extra) <= {"console", "remove"} or (extra and not team):
        raise ImproperlyConfigured(
            f"OIDC_TEAMS: “{text}” is neither GROUP=TEAM:ROLE (a role is one of {', '.join(TEAM_ROLES)}, with +console or "
            "+remove behind it) nor GROUP=administrator."
        )
    return Rule(group, team, Role(role), frozenset(Permission(each) for each in extra))


def wanted(groups: list[str]) -> Wanted:
    """What these groups give: of several roles in a team the highest, with all rights."""
    found = Wanted()
    for rule in parse(settings.OIDC_TEAMS):
        if rule.group not in groups:
            continue
        if not rule.team:
            found.is_administrator = True
            continue
        role, extra = found.teams.get(rule.team, (rule.role, frozenset()))
        found.teams[rule.team] = (max(role, rule.role, key=TEAM_ROLES.index), extra | rule.extra)
    return found


def groups_of(login: SocialLogin) -> list[str]:
    """As the provider says them, in its userinfo or in the ID token; [] when it says none, or something else."""
    said = login.account.extra_data or {}
    for part in ("userinfo", "id_token"):
        found = (said.get(part) or {}).get(settings.OIDC_GROUPS_CLAIM)
        if isinstance(found, list):
            return [each for each in found[:MOST_GROUPS] if isinstance(each, str)]
    return []


class GroupsDecide(DefaultSocialAccountAdapter):  # type: ignore[misc]  # allauth is untyped
    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        sociallogin.email_addresses = []  # a person has one address, which is in their row
        if sociallogin.state.get("process") == AuthProcess.CONNECT:
            return
        given = wanted(groups_of(sociallogin))
        if sociallogin.is_existing:
            follow(sociallogin.user, given)
        if not given:
            raise _refused(request, "None of your groups may use this panel. Ask an administrator.")
        if not sociallogin.is_existing:
            _refuse_bad_name(request, sociallogin.user.username)

    def populate_user(self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]) -> User:
        """Of what the provider says, the name as it is, and an address only that it has verified and nobody else has."""
        user: User = super().populate_user(request, sociallogin, data)
        said = sociallogin.account.extra_data or {}
        told = said.get("userinfo") or said.get("id_token") or {}
        user.username = User.normalize_username(str(data.get("username") or ""))[:150]
        user.first_name, user.last_name = str(data.get("name") or "")[:150], ""
        email = str(told.get("email") or "")[:254]
        user.email = email if told.get("email_verified") is True and email and not is_taken(email) else ""
        return user

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:  # noqa: ARG002  # allauth's
        return True  # judged by groups before

    def is_auto_signup_allowed(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:  # noqa: ARG002  # allauth's
        return True

    @transaction.atomic
    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        try:
            with transaction.atomic():
                user: User = super().save_user(request, sociallogin, form)
        except IntegrityError:
            raise _refused(request, _there_already(sociallogin.user.username)) from None
        follow(user, wanted(groups_of(sociallogin)))
        return user

    def get_connect_redirect_url(self, request: HttpRequest, socialaccount: Any) -> str:  # noqa: ARG002  # allauth's
        return reverse("mfa_index")

    def on_authentication_error(self, request: HttpRequest, provider: Any, **told: Any) -> None:  # noqa: ARG002  # allauth's
        log.warning("Sign-in by %s failed: %s %s", provider, told.get("error"), told.get("exception"))


def _refuse_bad_name(request: HttpRequest, name: str) -> None:
    try:
        User.username_validator(name)
    except ValidationError:
        raise _refused(request, f"Your username, “{name}”, cannot be one here. Ask an administrator.") from None
    if is_taken(name):
        raise _refused(request, _there_already(name))


def _there_already(name: str) -> str:
    said = (
        f"There is an account named {name} here already. If it is yours, sign in to it with its password and connect "
    )
    return f"{said}it under Settings → Security."


def _refused(request: HttpRequest, said: str) -> ImmediateHttpResponse:
    return ImmediateHttpResponse(render(request, "socialaccount/refused.html", {"said": said}, status=403))


# --- memberships


@transaction.atomic
def follow(user: User, given: Wanted) -> None:
    """Make memberships of the teams that rules name what the groups say. A last administrator and a last owner stay."""
    rules = parse(settings.OIDC_TEAMS)
    changes = [_administer(user, is_one=given.is_administrator)] if any(not rule.team for rule in rules) else []
    withdrawals.hold(user.pk)
    named = {rule.team for rule in rules if rule.team}
    for team in Team.objects.select_for_update(no_key=True).filter(slug__in=named).order_by("pk"):
        changes.append(_belong(user, team, given.teams.get(team.slug)))
    user.forget_grants()
    if said := "; ".join(change for change in changes if change):
        withdrawals.follow_rights(user.pk)
        entries.record("groups-followed", f"By the groups of {user.username} at sign-in: {said}.", by=user, on=user)


def _administer(user: User, *, is_one: bool) -> str:
    administrators = roster.locked_administrators(user)
    if is_one == user.is_administrator or administrators == {user.pk}:
        return ""
    User.objects.filter(pk=user.pk).update(is_administrator=is_one)
    user.is_administrator = is_one
    return "administrator of the installation" if is_one else "no administrator of the installation any more"


def _belong(user: User, team: Team, given: tuple[Role, frozenset[Permission]] | None) -> str:
    member = Membership.objects.filter(team=team, user=user).first()
    if given is None and member is None:
        return ""
    if member and member.role == Role.OWNER and (given is None or given[0] != Role.OWNER):
        others = team.memberships.filter(role=Role.OWNER, user__is_active=True).exclude(pk=member.pk)
        if not others.exists():
            return ""
    if given is None:
        Membership.objects.filter(team=team, user=user).delete()
        return f"no member of {team.name} any more"
    role, extra = given
    fields = {"role": role, "may_console": Permission.CONSOLE in extra, "may_remove": Permission.REMOVE in extra}
    if member and {name: getattr(member, name) for name in fields} == fields:
        return ""
    Membership.objects.update_or_create(team=team, user=user, defaults=fields)
    return f"{role} of {team.name}"


# --- views


def where_set(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """allauth's view where a provider is set, else 404. To connect an account it asks again who this is; a provider that
    does not answer is said."""

    @wraps(view)
    def only_where_set(request: access.PanelRequest, **given: str) -> HttpResponse:
        if not settings.OIDC_SERVER_URL:
            raise Http404("No provider is set.")
        if request.GET.get("process") == AuthProcess.CONNECT and not access.is_recent(request):
            return access.to_confirm(request)
        try:
            return view(request, **given)
        except (requests.RequestException, KeyError) as error:
            log.warning("The provider of OIDC_SERVER_URL did not answer as it should: %r", error)
            said = f"{settings.OIDC_NAME} did not answer. Try again later, or sign in with your password."
            return render(request, "socialaccount/refused.html", {"said": said}, status=502)

    return only_where_set
