"""A host joins, as far as the web process has a part in it: it makes tokens, takes claims, and writes down what an
administrator decides. The answer is the courier's (panel/courier/enrol.py), which alone has the key that signs it."""

from base64 import b64decode
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac
from nacl.signing import SigningKey, VerifyKey

from machines.contract import enrolment as contract
from machines.contract.names import host_name
from machines.contract.problems import BadValue, EnvelopeRefused, Problem
from machines.models import Enrolment, Host, PanelKey, User
from machines.panel.audit import entries

LIFE = timedelta(seconds=contract.LIFE)
SHOWN = 10
KEPT = timedelta(days=30)
RUN_AGAIN = "Choose “Add host” on the panel and run the new command."


@dataclass(frozen=True)
class Reply:
    """What a host is told: an HTTP status, and a body of JSON."""

    status: int
    body: dict[str, str]


def missing_settings() -> list[str]:
    """What the panel must know before a host can join: names of variables."""
    given = {"NSPAWNPANEL_URL": settings.PANEL_URL, "NSPAWNPANEL_HOSTS_REDIS_URL": settings.HOSTS_REDIS_URL}
    return [name for name, value in given.items() if not value]


def panel_key() -> str:
    """The public key with which orders are signed now; "" until a courier has run."""
    return PanelKey.objects.filter(state=PanelKey.State.CURRENT).values_list("public", flat=True).last() or ""


def make(name: str, *, by: User, host: Host | None = None) -> Enrolment:
    """A token for a host that is new, or for one that joins again. Raises BadValue where the name is taken."""
    now, name = timezone.now(), host_name(name)
    if not (key := panel_key()):
        raise BadValue("The courier has not run yet: start it, then try again.", field="name")
    number = uuid4()
    with transaction.atomic():
        Enrolment.objects.filter(made_at__lt=now - KEPT).delete()
        if host is None and Host.objects.filter(name=name).exists():
            raise BadValue(
                f"There is a host {name} already. To give it new keys, enroll it again on its page.", field="name"
            )
        of_name = Enrolment.objects.open(now).filter(host_name=name)
        if of_name.exclude(state__in=[Enrolment.State.WAITING, Enrolment.State.ANSWERED]).exists():
            raise BadValue(f"A host is joining as {name} at this moment. Accept or reject it first.", field="name")
        of_name.filter(state=Enrolment.State.WAITING).update(
            state=Enrolment.State.WITHDRAWN, decided_by=by.username, decided_at=now
        )
        made = Enrolment.objects.create(
            pk=number, host_name=name, host=host, is_new=host is None, made_by=by.username, expires_at=now + LIFE, panel_key=key,
            token_key=Enrolment.text_of(SigningKey(_seed(number)).verify_key),
        )  # fmt: skip
        _tell(made, by, "enrolment-begun", f"made a token for the host {name}.")
    return made


def token(enrolment: Enrolment) -> contract.Token:
    """Derived anew from this installation's SECRET_KEY: the database never has it."""
    return contract.Token(VerifyKey(b64decode(enrolment.panel_key)), enrolment.pk, _seed(enrolment.pk))


def _seed(number: UUID) -> bytes:
    return salted_hmac("machines.panel.hosts.enrolments", str(number), algorithm="sha256").digest()


# --- the host's part


def take(number: UUID, message: str, *, address: str) -> Reply:
    """A claim, for the first time or again: what the host is told. Raises EnvelopeRefused for whoever has no token."""
    found = Enrolment.objects.filter(pk=number).first()
    if found is None:
        raise EnvelopeRefused("This token is not known here.", code="envelope-forged")
    claim = contract.read_claim(message, number, VerifyKey(b64decode(found.token_key)))
    if found.state == Enrolment.State.WAITING and not found.is_expired(timezone.now()):
        _claimed(found, claim, address)
        found.refresh_from_db()
    if found.verify_key and (found.verify_key, found.box_key) != (claim.verify, claim.box):
        Enrolment.objects.filter(pk=number).update(other_address=address[:64])
        return Reply(
            409,
            {"error": f"Another host has used this token. Unless that was you, reject it on the panel. {RUN_AGAIN}"},
        )
    return _reply(found)


def _claimed(found: Enrolment, claim: contract.Claim, address: str) -> None:
    """The first host that comes with a token has it; of two at once, one."""
    now = timezone.now()
    Enrolment.objects.filter(pk=found.pk, state=Enrolment.State.WAITING).update(
        state=Enrolment.State.PENDING, verify_key=claim.verify, box_key=claim.box, hostname=_plain(claim.hostname),
        system=_plain(claim.system), address=address[:64], clock_skew=claim.at - now.timestamp(), claimed_at=now, expires_at=now + LIFE,
    )  # fmt: skip


def _plain(text: str) -> str:
    """PostgreSQL takes no NUL, and nobody reads a control character."""
    return "".join(each if each.isprintable() else "�" for each in text)


def _reply(found: Enrolment) -> Reply:
    if found.is_expired(timezone.now()):
        return Reply(
            410, {"error": f"This token has expired; each step may take {contract.LIFE // 60} minutes. {RUN_AGAIN}"}
        )
    match found.state:
        case Enrolment.State.REFUSED:
            return Reply(410, {"error": f"An administrator rejected this host. {found.problem}".strip()})
        case Enrolment.State.WITHDRAWN:
            return Reply(410, {"error": f"This token has been withdrawn. {RUN_AGAIN}"})
        case Enrolment.State.FAILED:
            return Reply(410, {"error": f"The panel could not add this host. {found.problem} {RUN_AGAIN}"})
    body = {"state": str(found.state), "name": found.host_name}
    return Reply(200, body | ({"answer": found.answer} if found.answer else {}))


# --- the administrator's part


def accept(enrolment: Enrolment, *, by: User) -> None:
    """The fingerprints were compared and are the same. Raises Problem."""
    if not _decide(enrolment, by, Enrolment.State.ACCEPTED, expires_at=timezone.now() + LIFE):
        raise Problem("This enrollment is not waiting for a decision any more.", code="conflict")
    _tell(enrolment, by, "host-accepted", f"accepted the keys of {enrolment.host_name}: {fingerprint(enrolment)}.")


def refuse(enrolment: Enrolment, *, by: User) -> None:
    """Whatever state it is in before it is accepted. Raises Problem."""
    if _withdraw(enrolment, by):
        return
    if not _decide(enrolment, by, Enrolment.State.REFUSED):
        raise Problem("This enrollment is not waiting for a decision any more.", code="conflict")
    _tell(
        enrolment,
        by,
        "host-refused",
        f"rejected a host that wanted to join as {enrolment.host_name}: {fingerprint(enrolment)}.",
    )


def _withdraw(enrolment: Enrolment, by: User) -> bool:
    unused = Enrolment.objects.filter(pk=enrolment.pk, state=Enrolment.State.WAITING)
    return bool(unused.update(state=Enrolment.State.WITHDRAWN, decided_by=by.username, decided_at=timezone.now()))


def _decide(enrolment: Enrolment, by: User, state: Enrolment.State, **fields: object) -> bool:
    """What was shown is what is decided: the keys are compared once more."""
    now = timezone.now()
    shown = Enrolment.objects.open(now).filter(
        pk=enrolment.pk, state=Enrolment.State.PENDING, verify_key=enrolment.verify_key, box_key=enrolment.box_key
    )
    return bool(shown.update(state=state, decided_by=by.username, decided_at=now, **fields))


def _tell(enrolment: Enrolment, by: User, kind: str, said: str) -> None:
    entries.record(
        kind, f"{by.username} {said}", by=by, host=enrolment.host, object_kind="host", object_name=enrolment.host_name
    )


def fingerprint(enrolment: Enrolment) -> str:
    """Of the host that came with the token; "" before."""
    return contract.fingerprint(enrolment.verify_key, enrolment.box_key) if enrolment.verify_key else ""


def forget_answers() -> None:
    """Those that were fetched, as the first report of the host shows, and those that were not in time."""
    kept = Enrolment.objects.exclude(answer="").select_related("host")
    over = [each.pk for each in kept if has_joined(each) or each.is_expired(timezone.now())]
    if over:
        Enrolment.objects.filter(pk__in=over).update(answer="")


def unfinished() -> list[Enrolment]:
    """Those that wait for a host, for an administrator or for the courier, newest first."""
    before = Enrolment.objects.open(timezone.now()).exclude(state=Enrolment.State.ANSWERED)
    return list(before.only("host_name", "state")[:SHOWN])


def has_joined(enrolment: Enrolment) -> bool:
    """Whether the host has reported since it was answered."""
    seen = enrolment.host.last_seen if enrolment.host else None
    return enrolment.state == Enrolment.State.ANSWERED and seen is not None
