"""Teams on a real host: what is another team's, what its section of policy.toml forbids, and where its binds lead by the next start."""

from collections.abc import Iterator
from typing import Any

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.envelope import Actor
from machines.contract.recipes import CloneRecipe, FirstBoot
from machines.contract.reports import Outcome
from tests.host.scratch_panel import SERVICE, ScratchPanel

POLICY = "/etc/nspawnpanel/policy.toml"
FILE = "/etc/systemd/nspawn/shop.nspawn"
RULES = """
[teams.shop]
machines = ["shop*"]
bind_sources = ["/media/shop"]
networks = ["veth"]
max_machines = 2
max_memory = "1G"
"""
EDITOR = Actor(name="edith", role="editor", team="shop")
OTHER = Actor(name="olga", role="editor", team="other")


def sh(panel: ScratchPanel, script: str) -> str:
    return panel.sandbox.run(["sh", "-c", script], check=False).stdout


def ask(panel: ScratchPanel, order: orders.Order, by: Actor = EDITOR) -> Outcome:
    """What becomes of an order that the panel's own key has signed for somebody of a team."""
    job, text = panel.seal(order, actor=by)
    panel.push(text)
    return panel.outcome(job, 120)


def said(outcome: Outcome) -> str:
    problem: dict[str, Any] = outcome.problem or {}
    return f"{outcome.state} {problem.get('code', '')}: {problem.get('message', '')} {problem.get('hint', '')}"


def files(panel: ScratchPanel, text: str, limits: str = "") -> orders.Configuration:
    found = [sh(panel, f"test -e {file} && sha256sum {file}").split() for file in (FILE, DROPIN)]
    return orders.Configuration(
        revision=7, nspawn=nspawn.mark(text, 7), limits=nspawn.mark(limits, 7) if limits else "",
        replaces_nspawn=found[0][0] if found[0] else orders.ABSENT,
        replaces_limits=found[1][0] if found[1] else orders.ABSENT,
    )  # fmt: skip


DROPIN = "/etc/systemd/system/systemd-nspawn@shop.service.d/50-nspawnpanel.conf"


def clone(name: str, source: str, limits: str) -> orders.Build:
    configuration = orders.Configuration(
        revision=1, nspawn=nspawn.mark("[Exec]\nBoot=yes\n", 1), limits=nspawn.mark(limits, 1)
    )
    return orders.Build(
        name=name,
        recipe=CloneRecipe(source=source),
        first_boot=FirstBoot(hostname=name),
        configuration=configuration,
        start=False,
    )


@pytest.fixture(params=["scratch", "later"], scope="module")
def panel(request: pytest.FixtureRequest) -> Iterator[ScratchPanel]:
    """A host with the machine shop, which is nobody's yet, and a section for the team of that name."""
    made: ScratchPanel = request.getfixturevalue(request.param)
    sh(
        made,
        "btrfs subvolume snapshot /var/lib/machines/web /var/lib/machines/shop; mkdir -p /media/shop/data /media/other",
    )
    made.sandbox.write(POLICY, RULES)
    sh(made, f"systemctl restart {SERVICE}")
    yield made
    for name in ("shop", "shop-2"):
        sh(made, f"machinectl terminate {name}; sleep 0.2; rm -rf /etc/systemd/nspawn/{name}.nspawn "
           f"/etc/systemd/system/systemd-nspawn@{name}.service.d; btrfs subvolume delete /var/lib/machines/{name}")  # fmt: skip
        made.do(orders.Assign(name=name, team=""))
    sh(made, f"rm -rf {POLICY} /media/shop /media/other; systemctl daemon-reload; systemctl restart {SERVICE}")


def test_what_a_host_refuses_a_team_however_well_signed(panel):
    assert "not-the-teams: shop belongs to no team on this host" in said(ask(panel, orders.Start(name="shop")))
    assert panel.do(orders.Assign(name="shop", team="shop")).state == "succeeded"
    sh(panel, f"systemctl restart {SERVICE}")
    assert "not-the-teams: shop belongs to another team" in said(ask(panel, orders.Start(name="shop"), OTHER))
    assert "not-the-teams: shop belongs to another team" in said(ask(panel, clone("mine", "shop", ""), OTHER))
    assert sh(panel, "machinectl list --no-legend | grep -w shop") == ""

    limit = "[Service]\nMemoryMax=512M\n"
    beyond = [
        (files(panel, "[Files]\nBind=/media/other\n", limit), "“bind_sources” of [teams.shop]"),
        (files(panel, "[Network]\nPrivate=no\n", limit), "“networks” of [teams.shop]"),
        (files(panel, "[Exec]\nBoot=yes\n", "[Service]\nMemoryMax=2G\n"), "“max_memory” of [teams.shop]"),
        (files(panel, "[Exec]\nBoot=yes\n"), "“max_memory” of [teams.shop]"),
    ]
    for configuration, rule in beyond:
        assert rule in said(ask(panel, orders.Apply(name="shop", configuration=configuration)))
    assert sh(panel, f"cat {FILE} {DROPIN}") == ""
    assert "“machines” of [teams.shop]" in said(ask(panel, clone("else", "shop", limit)))

    allowed = files(panel, "[Files]\nBind=/media/shop/data:/mnt\n", limit)
    assert said(ask(panel, orders.Apply(name="shop", configuration=allowed))).startswith("succeeded")
    assert "“max_memory” of [teams.shop]" in said(ask(panel, clone("shop-2", "shop", "[Service]\nMemoryMax=600M\n")))
    assert said(ask(panel, clone("shop-2", "shop", limit))).startswith("succeeded")
    assert "“max_machines” of [teams.shop]" in said(ask(panel, clone("shop-3", "shop", "[Service]\nMemoryMax=1M\n")))
    assert "belongs to another team" in said(ask(panel, orders.Start(name="shop-2"), OTHER))


def test_a_team_s_bind_that_leads_elsewhere_by_now_keeps_its_machine_down_also_by_hand(panel):
    """To /media/other, which the host allows to others."""
    assert panel.do(orders.Assign(name="shop", team="shop")).state == "succeeded"
    allowed = files(panel, "[Files]\nBind=/media/shop/data:/mnt\n", "[Service]\nMemoryMax=512M\n")
    assert said(ask(panel, orders.Apply(name="shop", configuration=allowed))).startswith("succeeded")
    sh(panel, "mv /media/shop/data /media/shop/moved; ln -s /media/other /media/shop/data")
    assert "it leads to /media/other" in said(ask(panel, orders.Start(name="shop")))
    assert "STARTED" not in sh(panel, "machinectl start shop 2>&1 && echo STARTED")
    log = sh(panel, "journalctl --sync; journalctl -q --no-pager -u systemd-nspawn@shop -n 20")
    assert "shop is not started: The policy of this host (bind_sources) does not allow it" in log
    sh(panel, "rm /media/shop/data; mv /media/shop/moved /media/shop/data; systemctl reset-failed systemd-nspawn@shop")
    assert said(ask(panel, orders.Start(name="shop"))).startswith("succeeded")
