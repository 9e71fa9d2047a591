"""By what people sign in: names and mail addresses, of which each is one person's."""

from django.db.models import Q

from machines.models import User
from machines.models.user import key_of


def is_taken(name: str, *, but: User | None = None) -> bool:
    """Whether somebody signs in by this name or address, in whatever case, or by what is stored of it: names are kept in
    Unicode's form KC, in which a wide “Ａ” is an A."""
    others = User.objects.exclude(pk=but.pk) if but else User.objects.all()
    plain = User.normalize_username(name)
    asked = Q(username_key=key_of(name)) | Q(username__iexact=plain) | Q(email__iexact=plain) | Q(email__iexact=name)
    return others.filter(asked).exists()
