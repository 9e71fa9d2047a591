"""Root of a machine never becomes root of its host by a bind: by no order, however well signed, and by nothing that is put in
a path's place afterwards. On real hosts with systemd 252 and 257, under a policy that allows everything it can."""

from collections.abc import Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.reports import Outcome
from tests.host.scratch_panel import SERVICE, ScratchPanel

FILE = "/etc/systemd/nspawn/bound.nspawn"
DROPIN = "/etc/systemd/system/systemd-nspawn@bound.service.d/10-nspawnpanel-binds.conf"
POLICY = "/etc/nspawnpanel/policy.toml"
WORKER = "/opt/nspawnpanel"
GENEROUS = 'bind_sources = ["/"]\nprivileged_binds = "allowed"\n'
AS_ROOT = "[Exec]\nPrivateUsers=no\n"
SHAPES = """
mkdir -p /srv/bound/data /srv/bound/deep/er /srv/bound/mnt /srv/bound/up /srv/bound/shown /srv/bound/layers
ln -sfn /opt/nspawnpanel /srv/bound/link
ln -sfn /opt /srv/bound/opt
mountpoint -q /srv/bound/mnt || mount --bind /opt /srv/bound/mnt
mountpoint -q /srv/bound/deep/er || mount --bind /opt/nspawnpanel/bin /srv/bound/deep/er
ln -f /etc/hostname /etc/bound-hard-link
mkdir -p /srv/bound/theirs/data; chown nobody /srv/bound/theirs
"""


@pytest.fixture(params=["scratch", "later"], scope="module")
def generous(request: pytest.FixtureRequest) -> Iterator[ScratchPanel]:
    """A host with the machine bound, paths of many shapes, and a policy that allows everything."""
    made: ScratchPanel = request.getfixturevalue(request.param)
    sh(made, "btrfs subvolume snapshot /var/lib/machines/web /var/lib/machines/bound")
    made.sandbox.write(POLICY, GENEROUS)
    sh(made, SHAPES + f"systemctl restart {SERVICE}")
    yield made
    sh(made, f"rm -f {POLICY}; umount /srv/bound/deep/er /srv/bound/mnt; rm -rf /srv/bound /etc/bound-hard-link;"
       f"btrfs subvolume delete /var/lib/machines/bound; systemctl daemon-reload; systemctl restart {SERVICE}")  # fmt: skip


@pytest.fixture
def panel(generous: ScratchPanel) -> Iterator[ScratchPanel]:
    """The same with nothing applied to that machine yet, which does not run."""
    yield generous
    sh(generous, f"machinectl terminate bound; rm -f {FILE} {DROPIN}; systemctl daemon-reload; until systemctl show -p ActiveState systemd-nspawn@bound | grep -Eq 'inactive|failed'; do sleep 0.1; done; systemctl reset-failed systemd-nspawn@bound")  # fmt: skip


def sh(panel: ScratchPanel, script: str) -> str:
    return panel.sandbox.run(["sh", "-c", script], check=False).stdout


def apply(panel: ScratchPanel, text: str) -> Outcome:
    """What becomes of an order that is signed by the panel's own key."""
    found = sh(panel, f"test -e {FILE} && sha256sum {FILE}").split()
    configuration = orders.Configuration(
        revision=7, nspawn=nspawn.mark(text, 7), limits="", replaces_nspawn=found[0] if found else orders.ABSENT,
        replaces_limits=orders.ABSENT,
    )  # fmt: skip
    return panel.do(orders.Apply(name="bound", configuration=configuration))


BAD = [
    f"Bind={WORKER}:/mnt", f"Bind={WORKER}/src:/mnt", "Bind=/opt:/mnt", "Bind=/:/mnt", "Bind=/srv/bound/link:/mnt",
    "Bind=/srv/bound/link/bin:/mnt", "Bind=/srv/bound/opt/nspawnpanel:/mnt", "Bind=/srv/bound/mnt:/mnt", "Bind=/srv/bound:/mnt",
    "Bind=/srv/bound/deep:/mnt", "Bind=/srv/bound/mnt/nspawnpanel/bin:/mnt", "Overlay=/srv/bound/data:/opt/nspawnpanel",
    "Overlay=/srv/bound/data:/srv/bound/link:/mnt", "BindUser=root", "Bind=/etc/systemd:/mnt", "Bind=/var/lib:/mnt",
    "Bind=/var/lib/machines/web:/mnt", "Bind=/etc/bound-hard-link:/mnt", "Bind=/run/dbus/system_bus_socket:/mnt",
    "BindReadOnly=/run/systemd:/mnt", "BindReadOnly=/etc/nspawnpanel:/mnt", "BindReadOnly=/var/lib/nspawnpanel/keys:/mnt",
    "Bind=/srv/bound/theirs/data:/mnt", "BindReadOnly=/usr/share:/mnt", "Bind=/proc/1/root/opt:/mnt", "Bind=/dev:/mnt",
]  # fmt: skip


def test_no_order_however_well_signed_binds_what_root_runs(panel):
    taken = []
    for line in BAD:
        outcome = apply(panel, f"{AS_ROOT}[Files]\n{line}\n")
        code = (outcome.problem or {}).get("code")
        if outcome.state != "failed" or code not in {"protected-path", "config-refused"} or sh(panel, f"cat {FILE}"):
            taken.append((line, outcome.state, outcome.problem))
    assert not taken


def test_what_takes_the_place_of_a_bind_afterwards_is_seen_at_the_next_start(panel):
    outcome = apply(panel, f"{AS_ROOT}[Files]\nBind=/srv/bound/data:/mnt\n")
    assert outcome.state == "succeeded", outcome.problem
    assert '["/srv/bound/data", "/srv/bound/data"]' in panel.sandbox.read(DROPIN)
    started = panel.do(orders.Start(name="bound"), 120)
    assert started.state == "succeeded", started.problem
    panel.do(orders.Terminate(name="bound"))

    sh(panel, "mv /srv/bound/data /srv/bound/moved; ln -s /opt/nspawnpanel /srv/bound/data")
    started = panel.do(orders.Start(name="bound"), 120)
    assert started.state == "failed"
    assert "/srv/bound/data leads to /opt/nspawnpanel" in started.problem["message"]

    sh(panel, "rm /srv/bound/data; mv /srv/bound/moved /srv/bound/data; mount --bind /opt /srv/bound/data")
    assert sh(panel, "machinectl start bound 2>&1 && echo STARTED").endswith("STARTED\n") is False
    log = sh(panel, "journalctl --sync; journalctl -q --no-pager -u systemd-nspawn@bound -n 20")
    assert "bound is not started: Bind=/srv/bound/data:/mnt: /srv/bound/data reaches /opt/nspawnpanel" in log

    sh(panel, "umount /srv/bound/data")
    started = panel.do(orders.Start(name="bound"), 120)
    assert started.state == "succeeded", started.problem


def test_the_check_comes_with_the_first_bind_and_goes_with_the_last(panel):
    apply(panel, "[Files]\nBindReadOnly=/srv/bound/data\n")
    assert "10-nspawnpanel-binds.conf" in sh(panel, "systemctl cat systemd-nspawn@bound.service")
    apply(panel, "[Exec]\nHostname=bound\n")
    assert "nspawnpanel-binds" not in sh(panel, "systemctl cat systemd-nspawn@bound.service")
    apply(panel, "[Files]\nBindReadOnly=/srv/bound/data\n")
    sh(panel, f"rm {DROPIN}; systemctl restart {SERVICE}")  # as after an update of a worker that knew of no such thing
    assert "10-nspawnpanel-binds.conf" in sh(panel, "systemctl cat systemd-nspawn@bound.service")


def test_a_link_that_led_out_of_the_policy_before_the_panel_came_starts_until_it_is_bent(panel):
    text = nspawn.mark("[Files]\nBind=/srv/bound/theirs-link:/mnt\n", 7)
    panel.sandbox.write(FILE, text)
    panel.sandbox.write(POLICY, 'bind_sources = ["/srv"]\n')
    try:
        sh(panel, f"mkdir -p /big /other; ln -sfn /big /srv/bound/theirs-link; systemctl restart {SERVICE}")
        assert '["/srv/bound/theirs-link", "/big"]' in panel.sandbox.read(DROPIN)
        assert panel.do(orders.Start(name="bound"), 120).state == "succeeded"
        panel.do(orders.Terminate(name="bound"))
        sh(panel, "ln -sfn /other /srv/bound/theirs-link")
        refused = panel.do(orders.Start(name="bound"), 120)
        assert refused.state == "failed"
        assert "it leads to /other" in refused.problem["message"]
    finally:
        panel.sandbox.write(POLICY, GENEROUS)
        sh(panel, f"rmdir /big /other; systemctl restart {SERVICE}")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("/opt/nspawnpanel/bin/python", "are not judged: /opt/nspawnpanel/bin/python or /opt/nspawnpanel/"),
        ("/opt/nspawnpanel/lib/python3*/site-packages", "are not checked: No module named "),
    ],
)
def test_a_worker_that_is_broken_keeps_no_machine_down(panel, gone, said):
    apply(panel, "[Files]\nBindReadOnly=/srv/bound/data\n")
    sh(panel, f"for each in {gone}; do mv $each $each.away; done")
    try:
        assert sh(panel, "machinectl start bound && echo STARTED").endswith("STARTED\n")
    finally:
        sh(panel, f"for each in {gone}.away; do mv $each ${{each%.away}}; done")
        # So early in its boot it may miss a gentler signal; systemd-nspawn 257 leaves a mount behind that is in its way then.
        sh(panel, "systemctl kill --signal=KILL systemd-nspawn@bound; umount -q /run/systemd/nspawn/unix-export/bound")
    log = sh(panel, "journalctl --sync; journalctl -q --no-pager -u systemd-nspawn@bound -n 50")
    assert f"The binds of bound {said}" in log


def test_a_machine_that_an_older_worker_gave_such_a_bind_starts_as_before(panel):
    text = nspawn.mark("[Files]\nBind=/srv/bound/link:/mnt\n", 7)
    panel.sandbox.write(FILE, text)
    sh(panel, f"systemctl restart {SERVICE}")
    assert panel.do(orders.Start(name="bound"), 120).state == "succeeded"
    assert not sh(panel, f"ls {DROPIN} 2>/dev/null")
    for name in ("bound", ""):
        examined = panel.do(orders.Diagnose(name=name)).result["findings"]
        assert [each["facts"]["line"] for each in examined if each["code"] == "binds-protected"] == [
            "Bind=/srv/bound/link:/mnt"
        ]
    outcome = apply(panel, "[Exec]\nHostname=bound\n[Files]\nBind=/srv/bound/link:/mnt\n")
    assert outcome.problem["code"] == "protected-path"
    assert apply(panel, "[Exec]\nHostname=bound\n").state == "succeeded"
