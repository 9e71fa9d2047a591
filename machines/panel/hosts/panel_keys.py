"""The panel's signing keys as pages show them, and what an administrator asks of them (panel/courier/key_ring.py does it)."""

from base64 import b64decode
from dataclasses import dataclass

from django.utils import timezone
from nacl.signing import VerifyKey

from machines.contract.enrolment import panel_fingerprint
from machines.contract.envelope import key_id
from machines.contract.problems import Problem
from machines.contract.states import HostState
from machines.models import Host, PanelKey, User
from machines.models.host import host_state

SHOWN = 20  # names of hosts
ASKED_OF = {
    PanelKey.Ask.PREPARE: PanelKey.State.CURRENT,
    PanelKey.Ask.SWITCH: PanelKey.State.NEXT,
    PanelKey.Ask.DISCARD: PanelKey.State.NEXT,
    PanelKey.Ask.RETIRE: PanelKey.State.PREVIOUS,
}


@dataclass(frozen=True)
class KeyRow:
    """A key, and the hosts that do not obey it yet: their names, each with why it may be so."""

    state: str
    fingerprint: str
    made: PanelKey
    obeying: int
    missing: list[tuple[str, str]]


def rows() -> list[KeyRow]:
    """The current key first, then the next or the previous one. Two queries."""
    now = timezone.now()
    hosts = list(Host.objects.order_by("name").values_list("name", "panel_keys", "last_seen"))
    order = list(PanelKey.State.values)
    found = sorted(PanelKey.objects.all(), key=lambda key: order.index(key.state))
    made = []
    for key in found:
        number = key_id(VerifyKey(b64decode(key.public)))
        missing = [(name, _why(ids, host_state(seen, now))) for name, ids, seen in hosts if number not in ids]
        made.append(KeyRow(key.state, panel_fingerprint(key.public), key, len(hosts) - len(missing), missing))
    return made


def _why(ids: list[str], state: HostState) -> str:
    if state in {HostState.OFFLINE, HostState.JOINING}:
        return "not responding"
    return "being told" if ids else "update its worker"


def ask(what: str, *, by: User) -> None:
    """Have the courier do something with a key. Raises Problem where there is no such key, or another rotation goes on."""
    state = ASKED_OF.get(PanelKey.Ask(what)) if what in PanelKey.Ask.values else None
    states = set(PanelKey.objects.values_list("state", flat=True))
    is_in_the_way = (what == PanelKey.Ask.PREPARE and len(states) > 1) or (
        what == PanelKey.Ask.SWITCH and PanelKey.State.PREVIOUS in states
    )
    if state is None or state not in states or is_in_the_way:
        raise Problem("This cannot be done with the panel's keys as they are now.", code="conflict")
    PanelKey.objects.filter(state=state).update(asked=what, asked_by=by.username)
