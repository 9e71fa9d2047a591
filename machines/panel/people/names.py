"""By what people sign in: names and mail addresses, of which each is one person's."""

from machines.models import User


def is_taken(name: str, *, but: User | None = None) -> bool:
    """Whether somebody signs in by this name or address, in whatever case."""
    others = User.objects.exclude(pk=but.pk) if but else User.objects.all()
    return (others.filter(email__iexact=name) | others.filter(username__iexact=name)).exists()
