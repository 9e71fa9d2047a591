"""Which team's things alone the lists of a session show, for people who see those of several."""

from django.http import HttpRequest

from machines.models import User

KEY = "team"


def choose(request: HttpRequest, slug: str) -> None:
    """ "" shows those of all teams."""
    if slug:
        request.session[KEY] = slug
    else:
        request.session.pop(KEY, None)


def of(request: HttpRequest, user: User) -> str:
    """The slug that was chosen, as long as the person is in that team; "" for all."""
    slug = "" if user.scope is not None else str(request.session.get(KEY, ""))
    return slug if slug and (user.sees_all or any(grant.slug == slug for grant in user.grants)) else ""
