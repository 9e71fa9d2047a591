"""All that a team has, made with one word in every name and text, so that a page can be searched for it."""

from typing import Any

from django.utils import timezone

from machines.contract import orders
from machines.contract.permissions import Role
from machines.contract.recipes import CloneRecipe, DebianRecipe, FirstBoot
from machines.models import (
    Archive,
    Host,
    Invitation,
    Job,
    JobGroup,
    LogChunk,
    Machine,
    Membership,
    PortForward,
    Preset,
    PresetUse,
    Recipe,
    RecipeVersion,
    Revision,
    Team,
    User,
)
from machines.models.preset import GroupMember
from machines.panel.audit import entries
from tests import make

PORTS = {100: 47700, 770: 47701, 771: 47702}  # of a team, by its number


def things(word: str, number: int, *, shared: Host, owned: bool = True) -> dict[str, Any]:
    """The parts of addresses that lead to what a team of this word has, or nobody where it is not `owned`. Keys begin at
    `number`; one machine lies on a host of its own, another one on the `shared` host."""
    team = make.team(word) if owned else None
    own = make.host(f"{word}-host")
    if team is None:
        own.shares.all().delete()
        someone = User.objects.create(username=f"{word}-person", is_administrator=True)
        member = number
    else:
        own.shares.update(team=team)
        make.share(shared, team=word)
        someone = make.user(f"{word}-person", Role.OWNER, team=word)
        Membership.objects.filter(user=someone).update(id=number)
        member = number
    machine = _machine(own, f"{word}-machine", team, word, number)
    other = _machine(shared, f"{word}-beside", team, word, number + 1)
    _jobs(machine, other, someone, team, word, number)
    _on_the_host(own, word, number)
    _on_the_host(shared, word, number)
    _saved(machine, someone, team, word, number)
    archive = Archive.objects.create(
        title=f"{word}.tar", state="ready", size=5, team=team, author=someone, author_name=someone.username
    )
    invitation = Invitation(pk=number, digest=word, note=f"{word} guest", invited_by=someone, team=team)
    invitation.expires_at = timezone.now() + timezone.timedelta(days=1)
    invitation.save()
    entries.record("archive-uploaded", f"{someone.username} uploaded {word}.tar.", by=someone, on=archive)
    return {
        "host": own.name, "name": machine.name, "op": "poweroff", "pk": number, "number": 1, "what": "networkd",
        "base": f"{number:016x}", "team": word, "archive": archive.pk, "member": member, "beside": other.name,
    }  # fmt: skip


def _machine(on: Host, name: str, team: Team | None, word: str, number: int) -> Machine:
    port = PORTS[number // 1000]
    machine = make.machine(
        name, on=on, state="running", team=team, pk=number, addresses=[f"10.77.{number // 1000}.{number % 1000}"], os=f"{word} Linux", image_type="directory",
        image_path=f"/var/lib/machines/{name}", why=f"{word} is why", since=timezone.now(),
    )  # fmt: skip
    text = f"[Network]\nVirtualEthernet=yes\nPort=tcp:{port}:80\n[Files]\nBind=/srv/{word}\n"
    applied = Revision.objects.create(
        pk=number, machine=machine, number=1, state="applied", nspawn_text=text, reason=f"for {word}", author_name=f"{word}-person"
    )  # fmt: skip
    PortForward.objects.create(revision=applied, protocol="tcp", host_port=port)
    machine.applied = applied
    machine.save()
    return machine


def _jobs(machine: Machine, other: Machine, by: User, team: Team | None, word: str, number: int) -> None:
    recipe = DebianRecipe(release="trixie", packages=(word,))
    configuration = orders.Configuration(revision=1, nspawn="", limits="")
    built = orders.Build(name=machine.name, recipe=recipe, first_boot=FirstBoot(), configuration=configuration)
    copied = orders.Build(
        name=other.name, recipe=CloneRecipe(source=machine.name), first_boot=FirstBoot(), configuration=configuration
    )
    job = _job(built, machine, by, team, number, state="failed", problem={"code": "x", "message": f"{word} broke"})
    LogChunk.objects.create(job=job, first=1, count=1, lines=[[0.0, "out", f"{word} says hello"]])
    Job.objects.filter(pk=job.pk).update(line_count=1)
    _job(copied, other, by, team, number + 1, state="succeeded")
    _job(orders.Reboot(name=other.name), other, by, team, number + 2, state="running", progress_note=f"{word} reboots")


def _job(order: orders.Order, machine: Machine, by: User, team: Team | None, pk: int, **fields: Any) -> Job:
    return make.job(order, on=machine.host, by=by, team=team, pk=pk, **fields)


def _on_the_host(host: Host, word: str, number: int) -> None:
    """What a host tells of everybody's."""
    made = Job.objects.get(pk=number)
    base = {
        "id": f"{number:016x}",
        "key": f"{number:064x}",
        "title": f"{word} base",
        "built": 1.7e9,
        "job": str(made.uuid),
    }
    leftover = {"name": f"{word}-left", "files": [{"kind": "nspawn", "path": f"/etc/systemd/nspawn/{word}-left.nspawn", "sha256": "0" * 64}]}  # fmt: skip
    host.facts = host.facts | {
        "bases": [*host.facts.get("bases", []), base],
        "leftovers": [*host.facts.get("leftovers", []), leftover],
        "unusable_images": host.facts.get("unusable_images", {}) | {f"{word} image": f"{word} cannot be a machine"},
        "bad_binds": host.facts.get("bad_binds", {}) | {f"{word}-machine": f"Bind=/srv/{word}"},
        "remnants": [
            *host.facts.get("remnants", []),
            {"path": f"/var/lib/machines/{word}", "why": word, "since": 1.7e9},
        ],
    }
    host.trouble = host.trouble | {word: f"{word} cannot be read"}
    host.save()


def _saved(machine: Machine, by: User, team: Team | None, word: str, number: int) -> None:
    recipe = Recipe.objects.create(pk=number, name=f"{word} recipe", description=f"{word} thing", team=team)
    spec = DebianRecipe(release="trixie", packages=(word,)).model_dump(mode="json")
    recipe.current = RecipeVersion.objects.create(
        pk=number, recipe=recipe, number=1, spec=spec, author=by, author_name=by.username
    )
    recipe.save()
    Job.objects.filter(pk=number).update(recipe_version=recipe.current)
    preset = Preset.objects.create(pk=number, name=f"{word} preset", team=team, settings={"Hostname": word})
    PresetUse.objects.create(pk=number, preset=preset, machine=machine, content=preset.content)
    group = JobGroup.objects.create(
        pk=number, title=f"{word} group", team=team, preset=preset, author=by, author_name=by.username
    )
    GroupMember.objects.create(pk=number, group=group, machine=machine, position=0, job_id=number)
