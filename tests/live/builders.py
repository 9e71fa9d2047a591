"""A host with the tools of other distributions and small repositories to build from."""

from dataclasses import dataclass
from uuid import UUID

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import DnfRecipe, FirstBoot, PackagesRecipe, RpmRepository, SuseRecipe
from machines.contract.reports import Outcome
from nspawnpanel.sandbox import Sandbox
from tests.host.scratch_panel import ScratchPanel
from tests.live import small_repositories as small

HTTP = f"http://127.0.0.1:{small.PORT}"


@dataclass
class Fleet:
    """A host with dnf, and what it can build from."""

    panel: ScratchPanel
    key: str
    other_key: str

    @property
    def host(self) -> Sandbox:
        return self.panel.sandbox

    def recipe(self, *packages: str, url: str = "file:///srv/tiny", key: str = "", **values: object) -> DnfRecipe:
        tiny = RpmRepository(id="tiny", url=url, key=key or self.key)
        more = values.pop("more", ())
        return DnfRecipe(release="43", packages=packages, repositories=(tiny, *more), **values)  # type: ignore[arg-type]

    def suse(self, *packages: str, url: str = f"{HTTP}/tiny", key: str = "", **values: object) -> SuseRecipe:
        tiny = RpmRepository(id="tiny", url=url, key=key or self.key)
        more = values.pop("more", ())
        return SuseRecipe(release="15.6", packages=packages, repositories=(tiny, *more), **values)  # type: ignore[arg-type]

    def order(self, recipe: PackagesRecipe, name: str = "tiny", *, start: bool = False, **values: object) -> UUID:
        files = orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits="")
        boot = FirstBoot(hostname="tiny-host", ssh_keys=())
        return self.panel.order(
            orders.Build(name=name, recipe=recipe, first_boot=boot, configuration=files, start=start, **values)  # type: ignore[arg-type]
        )

    def build(self, recipe: PackagesRecipe, name: str = "tiny", **values: object) -> Outcome:
        return self.panel.outcome(self.order(recipe, name, **values), 60)  # type: ignore[arg-type]

    def fails(self, recipe: PackagesRecipe) -> dict:
        """The problem of a build that fails; it leaves nothing."""
        outcome = self.build(recipe, "never")
        assert outcome.state == "failed"
        assert self.leftovers() == ""
        assert outcome.problem is not None
        return outcome.problem

    def leftovers(self) -> str:
        """What a build that came to nothing has left in the pool."""
        names = ["-name", ".nspawnpanel*.tmp*", "-o", "-name", ".nspawnpanel*.base*", "-o", "-name", "never"]
        return self.host.run(["find", "/var/lib/machines", "-maxdepth", "1", "(", *names, ")"]).stdout


def told(fleet: Fleet, job: UUID, kind: str) -> list:
    return [report for report in fleet.panel.reports if report.kind == kind and report.job == job]


def inside(fleet: Fleet, machine: str, *argv: str) -> str:
    leader = fleet.host.run(["machinectl", "show", machine, "--property=Leader", "--value"]).stdout.strip()
    return fleet.host.run(["nsenter", "--target", leader, "--all", "--", *argv]).stdout
