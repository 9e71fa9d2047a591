"""Short makers of records. Keywords, no library."""

from base64 import b64encode
from typing import Any

from django.test import Client
from django.utils import timezone
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.contract import orders, recipes
from machines.contract.permissions import Role
from machines.contract.states import MachineState
from machines.models import Host, Job, Machine, User


def user(name: str, role: str = Role.VIEWER, password: str = "") -> User:
    someone = User(username=name, role=role)
    someone.set_password(password) if password else someone.set_unusable_password()
    someone.save()
    return someone


def client(someone: User) -> Client:
    signed_in = Client()
    signed_in.force_login(someone)
    return signed_in


def host(name: str = "alpha", *, signing: SigningKey | None = None, **fields: Any) -> Host:
    """An online host; its keys are real but nobody keeps the private halves unless `signing` is given."""
    verify = (signing or SigningKey.generate()).verify_key
    fields.setdefault("last_seen", timezone.now())
    fields.setdefault("facts", {"systemd": 252, "cpus": 2, "memory_total": 8 << 30, "memory_available": 6 << 30,
                                "disk_total": 100 << 30, "disk_free": 60 << 30, "kernel": "6.1.0", "os": "Debian GNU/Linux 12"})  # fmt: skip
    return Host.objects.create(
        name=name,
        verify_key=b64encode(bytes(verify)).decode(),
        box_key=b64encode(bytes(PrivateKey.generate().public_key)).decode(),
        **fields,
    )


def machine(name: str, *, on: Host, state: str = MachineState.STOPPED, **fields: Any) -> Machine:
    return Machine.objects.create(host=on, name=name, state=state, **fields)


def job(order: orders.Order, *, on: Host, by: User | None = None, **fields: Any) -> Job:
    return Job.objects.create(
        host=on,
        machine_name=getattr(order, "name", ""),
        op=order.op,
        order=orders.to_wire(order),
        actor=by,
        actor_name=by.username if by else "ada",
        actor_role=by.role if by else Role.ADMINISTRATOR,
        **fields,
    )


def build_order(name: str = "web", release: str = "trixie") -> orders.Build:
    configuration = orders.Configuration(revision=1, nspawn="", limits="")
    recipe = recipes.DebianRecipe(release=release)
    return orders.Build(name=name, recipe=recipe, first_boot=recipes.FirstBoot(), configuration=configuration)
