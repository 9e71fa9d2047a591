"""Short makers of records. Keywords, no library."""

import time
from base64 import b64encode
from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.contract import orders, recipes
from machines.contract.permissions import Role
from machines.contract.states import MachineState
from machines.models import Host, HostShare, Job, Machine, Membership, Team, User
from tests import sealed_client  # noqa: F401 - signs people in

TEAM = "ops"  # whose everything is unless a test says otherwise


def team(slug: str = TEAM) -> Team:
    return Team.objects.get_or_create(slug=slug, defaults={"name": slug.title()})[0]


def user(name: str, role: str = Role.VIEWER, password: str = "", *, team: str = TEAM) -> User:
    """A person with this role in this team, "" for none; an administrator is one of the installation."""
    someone = User(username=name, is_administrator=role == Role.ADMINISTRATOR, last_seen=timezone.now())
    someone.set_password(password) if password else someone.set_unusable_password()
    someone.save()
    if role and not someone.is_administrator:
        member(someone, role, team=team)
    return someone


def member(someone: User, role: str, *, team: str = TEAM, **carries: bool) -> Membership:
    return Membership.objects.create(user=someone, team=_team(team), role=role, **carries)


_team = team


def client(someone: User, *, minutes_ago: int = 0) -> Client:
    """Signed in with a password, as long ago as that."""
    signed_in = Client()
    signed_in.force_login(someone)
    session = signed_in.session
    session["account_authentication_methods"] = [{"method": "password", "at": time.time() - 60 * minutes_ago}]
    session["account_authentication_methods_user"] = str(someone.pk)
    session.save()
    return signed_in


def host(name: str = "alpha", *, signing: SigningKey | None = None, **fields: Any) -> Host:
    """An online host; its keys are real but nobody keeps the private halves unless `signing` is given."""
    verify = (signing or SigningKey.generate()).verify_key
    fields.setdefault("last_seen", timezone.now())
    fields.setdefault("facts", {"systemd": 252, "cpus": 2, "memory_total": 8 << 30, "memory_available": 6 << 30,
                                "disk_total": 100 << 30, "disk_free": 60 << 30, "kernel": "6.1.0", "os": "Debian GNU/Linux 12"})  # fmt: skip
    made = Host.objects.create(
        name=name,
        verify_key=b64encode(bytes(verify)).decode(),
        box_key=b64encode(bytes(PrivateKey.generate().public_key)).decode(),
        **fields,
    )
    share(made)
    return made


def share(host: Host, *, team: str = TEAM, **quota: Any) -> HostShare:
    return HostShare.objects.create(host=host, team=_team(team), **quota)


def machine(name: str, *, on: Host, state: str = MachineState.STOPPED, **fields: Any) -> Machine:
    fields.setdefault("team", team())
    return Machine.objects.create(host=on, name=name, state=state, **fields)


def fleet(hosts: int, machines: int) -> list[Host]:
    """So many awake hosts with so many machines among them, one in five failed."""
    now = timezone.now()
    made = [host(f"host-{n:03}", last_seen=now + timedelta(hours=1)) for n in range(hosts)]
    states = ["running", "running", "running", "stopped", "failed"]
    Machine.objects.bulk_create(
        Machine(
            host=made[n % hosts], name=f"machine-{n:05}", state=states[n % 5], rank=0 if n % 5 == 4 else 1,
            since=now, addresses=[f"10.{n % 250}.{n // 250}.2"], os="Debian GNU/Linux 12 (bookworm)",
            image_type="subvolume", memory_bytes=64 << 20, disk_bytes=400 << 20, enabled=n % 2 == 0,
        )
        for n in range(machines)
    )  # fmt: skip
    return made


def job(order: orders.Order, *, on: Host, by: User | None = None, **fields: Any) -> Job:
    given = fields.pop("team", team())
    return Job.objects.create(
        host=on,
        machine_name=getattr(order, "name", ""),
        op=order.op,
        order=orders.to_wire(order),
        actor=by,
        actor_name=by.username if by else "ada",
        actor_role=by.role_in(given.pk if given else None) if by else Role.ADMINISTRATOR,
        team=given,
        **fields,
    )


def build_order(name: str = "web", release: str = "trixie") -> orders.Build:
    configuration = orders.Configuration(revision=1, nspawn="", limits="")
    recipe = recipes.DebianRecipe(release=release)
    return orders.Build(name=name, recipe=recipe, first_boot=recipes.FirstBoot(), configuration=configuration)
