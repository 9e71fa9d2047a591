"""How often a password or the code of a second factor may be tried: a wait that grows, per address and per pair of name and address.

Nothing counts against a name alone, so no stranger can lock one. A device that signed in before (devices.py) is counted by
itself, so what strangers do from the same address does not keep it out. Each attempt is booked as a failure before
the password is looked at and taken back when it was right: of any number at once no more get through than are free.
Codes are only asked of whoever knows the password: they count against the person, from wherever they come.
The counts are rows, shared by all web processes, and there are at most MOST of them.
"""

import ipaddress
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import salted_hmac

from machines.models import Attempts, User
from machines.panel.web import devices

FIRST = 5  # seconds, after the last free failure; then twice as long each time
LONGEST = 300  # seconds
FORGET = timedelta(hours=1)  # after the last attempt
MOST = 50_000  # rows
PAIR, DEVICE, SESSION, CODE = 5, 5, 5, 5  # failures that cost no wait
RESETS = 5  # mails with a link to a new password, of one address, and to one
PASSKEYS = 30  # questions for a passkey from one address: each is a row of the sessions until it ends
ADDRESS, NETWORK = 30, 100  # an IPv4 address or IPv6 /64; the IPv6 /48 around it


class TooSoon(Exception):
    """`seconds` to wait, at least 1."""

    def __init__(self, seconds: float, what: str) -> None:
        self.seconds = max(1, math.ceil(seconds))
        super().__init__(f"Too many {what}. Try again in {in_words(self.seconds)}.")


@dataclass(frozen=True)
class Booked:
    """An attempt, counted as a failure until it is taken back. By key: when one could try before, and can try next."""

    until: Mapping[str, tuple[datetime, datetime]]

    def take_back(self) -> None:
        for key, (before, after) in self.until.items():
            mine = Attempts.objects.filter(key=key, count__gt=0)
            if not mine.filter(until=after).update(count=F("count") - 1, until=before):
                mine.update(count=F("count") - 1)  # somebody tried since, and what they wait stays


def book(request: HttpRequest, name: str) -> Booked:
    """An attempt at the password of `name`. Raises TooSoon; then the password must not be looked at."""
    return _book(_counted(request, name), "wrong passwords")


def book_code(request: HttpRequest, user: User) -> Booked:
    """An attempt at a code of this person's second factor. Raises TooSoon; then the code must not be looked at."""
    device = devices.known(request, user.username.casefold())
    free = {_key("device code", device): CODE} if device else {_key("code", str(user.pk)): CODE}
    return _book(free, "wrong codes")


def book_passkey(request: HttpRequest) -> Booked:
    """A question for a passkey by somebody who may be anybody. Raises TooSoon; then nothing must be kept of it."""
    narrow, *_ = network(request.META.get("REMOTE_ADDR", ""))
    return _book({_key("passkey", narrow): PASSKEYS}, "attempts from your address")


def book_reset(request: HttpRequest, email: str) -> Booked:
    """A mail with a link to a new password. Raises TooSoon; then none must be sent."""
    narrow, *_ = network(request.META.get("REMOTE_ADDR", ""))
    return _book({_key("reset", narrow): RESETS, _key("reset to", email.casefold()): RESETS}, "mails asked for")


def is_first_use(user: User, code: str) -> bool:
    """Whether this code of an authenticator app was not used before, by the count of all web processes."""
    now = timezone.now()
    _, is_new = Attempts.objects.get_or_create(
        key=_key("used", str(user.pk), code), defaults={"until": now, "last": now}
    )
    return is_new


def _book(free: Mapping[str, int], what: str) -> Booked:
    if waiting := _longest_wait(Attempts.objects.filter(key__in=free).values_list("until", flat=True)):
        raise TooSoon(waiting, what)  # asked first without a lock: what is refused costs others nothing
    _make_rows(list(free))
    with transaction.atomic():
        rows = list(Attempts.objects.select_for_update().filter(key__in=free).order_by("key"))
        if len(rows) < len(free):
            raise TooSoon(1, what)  # tidied away this moment
        if waiting := _longest_wait(row.until for row in rows):
            raise TooSoon(waiting, what)
        return Booked({row.key: _count(row, free[row.key]) for row in rows})


def wait_after(failures: int, free: int) -> int:
    """Seconds."""
    return 0 if failures < free else int(min(LONGEST, FIRST * 2 ** min(failures - free, 20)))


def in_words(seconds: int) -> str:
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def network(address: str) -> list[str]:
    """What stands for an address, narrowest first: IPv4 itself; of IPv6 the /64 that one customer has, and the /48."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ["unknown"]
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if found.version == 4:
        return [str(found)]
    return [str(ipaddress.ip_network((int(found), size), strict=False)) for size in (64, 48)]


def _counted(request: HttpRequest, name: str) -> dict[str, int]:
    """The keys that this attempt counts under, and how many failures each has free."""
    name = unicodedata.normalize("NFKC", name).strip().casefold()[:254]
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated and name in (user.username.casefold(), user.email.casefold()):
        return {_key("session", request.session.session_key or ""): SESSION}
    if device := devices.known(request, name):
        return {_key("device", device): DEVICE}
    narrow, *wider = network(request.META.get("REMOTE_ADDR", ""))
    counted = {_key("pair", name, narrow): PAIR, _key("address", narrow): ADDRESS}
    return counted | {_key("network", each): NETWORK for each in wider}


def _key(*parts: str) -> str:
    return salted_hmac("machines.panel.web.attempts", "\0".join(parts), algorithm="sha256").hexdigest()


def _longest_wait(moments: Iterable[datetime]) -> float:
    """Seconds; 0 when one may try. What lies too far ahead is of a clock that was put back, and holds nobody."""
    read = list(moments)  # before the clock: the moment at which another attempt is booked meanwhile would lie ahead
    now = timezone.now()
    ahead = [(until - now).total_seconds() for until in read]
    return max((each for each in ahead if 0 < each <= LONGEST), default=0.0)


def _count(row: Attempts, free: int) -> tuple[datetime, datetime]:
    now, before = timezone.now(), row.until
    row.count = 1 if row.last < now - FORGET else row.count + 1
    row.last, row.until = now, now + timedelta(seconds=wait_after(row.count, free))
    row.save(update_fields=["count", "last", "until"])
    return before, row.until


def _make_rows(keys: list[str]) -> None:
    now = timezone.now()
    known = set(Attempts.objects.filter(key__in=keys).values_list("key", flat=True))
    new = [Attempts(key=key, until=now, last=now) for key in keys if key not in known]
    if not new:
        return
    Attempts.objects.filter(last__lt=now - FORGET).delete()
    if Attempts.objects.count() >= MOST:
        oldest = Attempts.objects.order_by("last").values_list("pk", flat=True)[: MOST // 10]
        Attempts.objects.filter(pk__in=list(oldest)).delete()
    Attempts.objects.bulk_create(new, ignore_conflicts=True)
