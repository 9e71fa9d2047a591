"""The host's worker on a real systemd with a real Redis: what it does alone, without the panel."""

import json
import time
from uuid import uuid4

import pytest
from nacl.signing import SigningKey
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from machines.contract import orders, routes
from machines.contract.configuration import nspawn
from machines.contract.envelope import seal_secret
from machines.contract.recipes import BuildSecrets, DebianRecipe, FirstBoot
from machines.contract.reports import AnyReport
from tests.host.scratch_panel import PYTHON, SERVICE, ScratchPanel
from tests.live import leftovers
from tests.person import until

CANARY = "CANARYcanaryCANARY"


@pytest.fixture
def panel(scratch: ScratchPanel) -> ScratchPanel:
    return scratch


def build(name: str, *, sealed: str = "", start: bool = False) -> orders.Build:
    return orders.Build(
        name=name, recipe=DebianRecipe(release="bookworm"), first_boot=FirstBoot(), start=start, sealed=sealed, fresh=True,
        configuration=orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits=""),
    )  # fmt: skip


def configuration(panel: ScratchPanel, revision: int, text: str, limits: str = "") -> orders.Apply:
    """An Apply based on what the host last reported of web."""
    panel.order(orders.Refresh())
    time.sleep(0.5)
    panel.read()
    inventories = [r for r in panel.reports if r.kind == "inventory"]
    web = next(m for m in inventories[-1].machines if m.name == "web")
    return orders.Apply(name="web", configuration=orders.Configuration(
        revision=revision, nspawn=nspawn.mark(text, revision) if text else "", limits=limits,
        replaces_nspawn=web.nspawn_sha256, replaces_limits=web.limits_sha256,
    ))  # fmt: skip


def python(panel: ScratchPanel, script: str, *arguments: str) -> str:
    return panel.sandbox.run([PYTHON, "-c", script, *arguments]).stdout


# --- verbs


def test_it_starts_and_powers_off_and_says_how_the_machine_is(panel):
    started = panel.do(orders.Start(name="web"))
    assert (started.state, started.machine.state) == ("succeeded", "running")
    ended = panel.do(orders.Poweroff(name="web"))
    assert (ended.state, ended.machine.state, ended.machine.leader) == ("succeeded", "stopped", None)


def test_a_machine_without_an_image_cannot_be_started(panel):
    outcome = panel.do(orders.Start(name="nope"))
    assert outcome.problem["code"] == "machine-missing"


def test_what_is_done_by_hand_is_seen_at_once_and_the_address_when_it_comes(panel):
    panel.do(orders.Terminate(name="web"))
    panel.read()
    before = len(panel.reports)
    began = time.time()
    panel.sandbox.run(["machinectl", "start", "web"])
    panel.until(
        lambda r: (
            r in panel.reports[before:] and r.kind == "observed" and r.machines and r.machines[0].state == "running"
        )
    )
    assert time.time() - began < 3
    panel.until(lambda r: r.kind == "observed" and any(m.name == "web" and m.addresses for m in r.machines), 30)


def test_what_holds_is_told_of_machines_the_panel_knows_and_again_when_it_asks(panel):
    """A file may be there before its image: told too early, it would find no machine to belong to."""
    panel.sandbox.write("/etc/systemd/nspawn/early.nspawn", "[Exec]\nBoot=yes\n")
    panel.sandbox.plant("early")
    panel.until(lambda report: "early" in names_in(report, "observed_files"))
    known: set[str] = set()
    for report in panel.reports:
        known |= names_in(report, "inventory", "observed") | (
            {report.machine.name} if says_how_one_is(report) else set()
        )
        assert names_in(report, "observed_files") <= known
    told = len(panel.reports)
    panel.order(orders.Refresh())
    again = lambda: {name for report in panel.reports[told:] for name in names_in(report, "observed_files")}  # noqa: E731
    panel.until(lambda _: {"early", "web"} <= again())
    panel.sandbox.run(["rm", "-r", "/etc/systemd/nspawn/early.nspawn", "/var/lib/machines/early"])
    panel.until(lambda report: report.kind == "observed" and "early" in report.gone)


def test_a_link_of_any_name_inside_a_machine_hides_no_machine(panel):
    """Whoever is root inside names its links; the kernel takes bytes that are no text."""
    leader = panel.sandbox.run(["machinectl", "show", "web", "--property=Leader", "--value"]).stdout.strip()
    rename = (
        'new=$(printf "\\377\\376"); ip link set host0 down; ip link set host0 name "$new" && ip link set "$new" up'
    )
    panel.sandbox.run(["nsenter", "--target", leader, "--net", "--", "sh", "-c", rename])
    told = len(panel.reports)
    panel.order(orders.Refresh())
    panel.until(lambda r: r in panel.reports[told:] and r.kind == "inventory" and "web" in names_in(r, "inventory"))
    assert panel.do(orders.Terminate(name="web")).state == "succeeded"
    assert panel.do(orders.Start(name="web")).state == "succeeded"


def names_in(report: AnyReport, *kinds: str) -> set[str]:
    return {machine.name for machine in report.machines} if report.kind in kinds else set()


def says_how_one_is(report: AnyReport) -> bool:
    return report.kind == "outcome" and report.machine is not None


def test_enable_makes_it_start_with_the_host(panel):
    assert panel.do(orders.Enable(name="web")).machine.enabled
    wanted = panel.sandbox.run(["systemctl", "list-dependencies", "--plain", "multi-user.target"]).stdout
    assert "machines.target" in wanted
    assert not panel.do(orders.Disable(name="web")).machine.enabled


# --- configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Exec]\nPrivateUsers=piick\n", "web.nspawn:2: UID/GID shift invalid"),
        ("[Exec]\nFoo=1\n", "web.nspawn:2: Unknown key 'Foo'"),
        ("[Bogus]\nA=b\n", "web.nspawn:1: Unknown section"),
        ("[Network]\nZone=muchtoolongname\n", "Invalid network zone name"),
        ("[Network]\nPrivate=no\nVirtualEthernet=no\nPort=80\n", "without private networking"),
        ("[Exec]\nAmbientCapability=CAP_NET_ADMIN\n", "AmbientCapability"),
        ("[Exec]\nBoot=yes\nNotifyReady=yes\n[Files]\nReadOnly=yes\n", ""),
    ],
)
def test_systemd_s_own_parser_is_heard(panel, text, words):
    script = (
        "import sys; from machines.host.machine import lint; from machines.host.system.paths import Paths;"
        "print('\\n'.join(lint.nspawn_words(Paths(), 'web', sys.argv[1])))"
    )
    said = python(panel, script, text)
    assert words in said if words else not said.strip()
    assert "np-probe" not in panel.sandbox.run(["ls", "-A", "/run/systemd/nspawn"]).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Service]\nMemoryMax=1X\n", "50-nspawnpanel.conf:2: Invalid memory limit"),
        ("[Service]\nCPUQuota=50\n", "Invalid CPU quota"),
        ("[Service]\nFoo=1\n", "Unknown key"),
        ("[Servce]\nMemoryMax=1G\n", "Unknown section"),
        ("[Service]\nMemoryMax=1G\nCPUQuota=50%\nTasksMax=100\n", ""),
    ],
)
def test_systemd_s_word_on_a_drop_in_is_heard(panel, text, words):
    script = (
        "import sys; from machines.host.machine import lint; from machines.host.system.paths import Paths;"
        "print('\\n'.join(lint.dropin_words(Paths(), 'web', sys.argv[1])))"
    )
    said = python(panel, script, text)
    assert words in said if words else not said.strip()


def limit_of(panel: ScratchPanel) -> int:
    """The memory limit of web's control group, in either hierarchy."""
    group = panel.sandbox.run(
        ["systemctl", "show", "--property=ControlGroup", "--value", "systemd-nspawn@web.service"]
    ).stdout.strip()
    for file in (f"/sys/fs/cgroup{group}/memory.max", f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"):
        text = panel.sandbox.run(["cat", file], check=False).stdout.strip()
        if text:
            return 2**63 if text == "max" else int(text)
    raise AssertionError("web has no control group")


@pytest.mark.parametrize("which", ["panel", "later"])
def test_a_limit_reaches_the_kernel_of_a_running_machine_and_leaves_it_again(which, request):
    panel = request.getfixturevalue(which)
    panel.do(orders.Start(name="web"))
    outcome = panel.do(configuration(panel, 1, "", "[Service]\nMemoryMax=128M\nTasksMax=200\n"))
    assert (outcome.state, outcome.result["live"]) == ("succeeded", ["MemoryMax", "TasksMax"]), outcome.problem
    assert limit_of(panel) == 128 * 1024 * 1024
    outcome = panel.do(configuration(panel, 2, "", ""))
    assert outcome.state == "succeeded"
    assert limit_of(panel) > 2**60
    assert (
        panel.sandbox.run(
            ["systemctl", "show", "--property=NeedDaemonReload", "--value", "systemd-nspawn@web.service"]
        ).stdout
        == "no\n"
    )


def test_a_file_that_changed_meanwhile_is_not_overwritten(panel):
    draft = configuration(panel, 3, "[Exec]\nBoot=yes\n")
    panel.sandbox.write("/etc/systemd/nspawn/web.nspawn", "[Exec]\nHostname=by-hand\n")
    outcome = panel.do(draft)
    assert outcome.problem["code"] == "config-changed"
    assert outcome.result["found_nspawn"] == "[Exec]\nHostname=by-hand\n"
    assert panel.sandbox.read("/etc/systemd/nspawn/web.nspawn") == "[Exec]\nHostname=by-hand\n"
    panel.sandbox.run(["rm", "/etc/systemd/nspawn/web.nspawn"])


# --- jobs in units


def log_on_the_host(panel: ScratchPanel, job: object) -> list[str]:
    """What the job itself wrote down, line by line."""
    entries = map(json.loads, panel.sandbox.read(f"/var/lib/nspawnpanel/jobs/{job}/log").splitlines())
    return [entry["t"] for entry in entries if entry["k"] == "line"]


def in_the_middle(panel: ScratchPanel, job: object) -> None:
    panel.until(lambda r: r.kind == "progress" and r.job == job and r.fraction > 0.1, 90)


def test_a_build_outlives_killed_workers_and_every_line_arrives_once_without_a_secret(panel):
    secret = BuildSecrets(root_password_hash=f"$6$saltsalt${CANARY}{'x' * 68}").model_dump_json()
    job = panel.order(build("built", sealed=seal_secret(secret, panel.box)))
    in_the_middle(panel, job)
    for _ in range(3):
        panel.sandbox.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", SERVICE])
        time.sleep(2.5)
    outcome = panel.outcome(job, 180)
    assert outcome.state == "succeeded", outcome.problem
    assert panel.lines(job) == log_on_the_host(panel, job)
    assert outcome.lines == len(panel.lines(job))
    assert CANARY in panel.sandbox.read("/var/lib/machines/built/etc/shadow")
    places = ["/var/lib/nspawnpanel", "/run/nspawnpanel", "/etc", "/run/systemd", "/tmp", "/var/log"]
    assert panel.sandbox.run(["grep", "-rlsa", CANARY, *places], check=False).stdout == ""
    assert CANARY not in str(panel.reports)
    image = outcome.machine.image_id
    assert panel.do(orders.Remove(name="built", image_id="1-1")).problem["code"] == "image-changed"
    assert panel.do(orders.Remove(name="built", image_id=image)).state == "succeeded"


def test_a_cancelled_build_is_gone_within_five_seconds(panel):
    job = panel.order(build("cancelled"))
    in_the_middle(panel, job)
    began = time.monotonic()
    panel.order(orders.Cancel(job=job))
    assert panel.outcome(job, 10).state == "cancelled"
    assert time.monotonic() - began < 5
    assert leftovers.of(panel.sandbox) == ""


def test_a_job_that_vanished_while_the_worker_was_away_is_told_as_lost(panel):
    job = panel.order(build("lost"))
    in_the_middle(panel, job)
    unit = f"nspawnpanel-job-{job}.service"
    panel.sandbox.run(["systemctl", "stop", SERVICE])
    panel.sandbox.run(["systemctl", "kill", "--signal=KILL", unit])
    time.sleep(1)
    panel.sandbox.run(["systemctl", "reset-failed", unit], check=False)
    panel.sandbox.run(["systemctl", "start", SERVICE])
    outcome = panel.outcome(job, 30)
    assert (outcome.state, outcome.problem["code"]) == ("failed", "job-lost")
    assert leftovers.of(panel.sandbox) == ""


def test_a_running_machine_is_not_removed(panel):
    panel.do(orders.Start(name="web"))
    assert panel.do(orders.Remove(name="web")).problem["code"] == "machine-running"


# --- a host that is not set up, or not whole


@pytest.mark.parametrize("which", ["panel", "later"])
@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("/etc/nspawnpanel/host.env", "/etc/nspawnpanel/host.env"),
        ("/opt/nspawnpanel/lib/python3*/site-packages/dbus_fast", "pip install -r"),
        ("/opt/nspawnpanel/bin/python", "/opt/nspawnpanel/bin/python: No such file"),
    ],
    ids=["settings", "requirements", "python"],
)
def test_a_host_that_is_not_set_up_is_told_so_once_and_not_every_second(which, missing, words, request):
    host = request.getfixturevalue(which).sandbox
    path = host.run(["sh", "-c", f"echo {missing}"]).stdout.strip()
    host.run(["mv", path, f"{path}.aside"])
    try:
        assert host.run(["systemctl", "restart", SERVICE], check=False).returncode != 0
        shown = host.run(["systemctl", "show", "--property=ActiveState,NRestarts,SubState", SERVICE]).stdout
        said = host.run(["systemctl", "status", "--full", "--no-pager", SERVICE], check=False).stdout
    finally:
        host.run(["mv", f"{path}.aside", path])
        host.run(["systemctl", "restart", SERVICE])
    assert "ActiveState=failed\n" in shown
    assert "NRestarts=0\n" in shown
    assert words in said


# --- enemies


def test_who_holds_redis_commands_nothing(panel):
    """Every message an enemy can make of what passes by: none has an effect."""
    panel.do(orders.Terminate(name="web"))
    panel.read()
    before = len(panel.reports)
    job, captured = panel.seal(orders.Start(name="web"))
    _, forged = panel.seal(orders.Start(name="web"), key=SigningKey.generate())
    _, foreign = panel.seal(orders.Start(name="web"), host=uuid4())
    _, old = panel.seal(orders.Start(name="web"), expires=time.time() - 3600)
    for text in (forged, foreign, old, "", "a.b.c", "x" * 500_000, None, 7, {"a": [1]}):
        panel.push(text)
    link = {"task": "celery.chain", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": True}
    for embed in ({"callbacks": [link]}, {"errbacks": [link]}, {"chain": [link]}, {"chord": link}):
        panel.push(captured, embed=embed)
    for task in ("celery.chain", "celery.map", "celery.backend_cleanup", "os.system"):
        panel.push(captured, task=task)
    panel.push(captured, serializer="pickle")
    panel.push(captured, compression="zlib")
    time.sleep(3)
    panel.read()
    told = panel.reports[before:]
    kinds = {r.kind for r in told}
    assert kinds <= {"refused", "heartbeat", "inventory", "observed", "observed_files"}, (
        kinds
    )  # of itself it may say what it likes
    assert not [
        each for r in told if r.kind == "observed" for each in r.machines if each.name == "web" and each.state.is_up
    ]
    assert "running" not in panel.sandbox.run(["machinectl", "list", "--no-legend"]).stdout
    panel.push(captured)
    panel.push(captured)
    assert panel.outcome(job).state == "succeeded", "the worker is still there, and the real order is obeyed"


def test_junk_in_the_queue_ends_no_worker_and_hides_no_order(panel):
    """tests/host/agent/test_queue.py tries thousands; here it is the worker as it is installed."""
    shown = ["systemctl", "show", "--property=MainPID,NRestarts", SERVICE]
    before, told = panel.sandbox.run(shown).stdout, len(panel.reports)
    key = routes.prefix(str(panel.host)) + routes.queue(str(panel.host))
    with panel.valkey.admin() as redis:
        redis.lpush(key, *["junk", "x", "{}"] * 5000, *["[" * 100_000] * 50)
        redis.lpush(key + "\x06\x163", "junk")
    assert panel.do(orders.Start(name="nope"), 20).problem["code"] == "machine-missing"
    assert panel.sandbox.run(shown).stdout == before
    refused = [report for report in panel.reports[told:] if report.kind == "refused"]
    assert 0 < len(refused) < 30


def test_the_host_s_redis_user_can_do_nothing_but_its_own(panel):
    prefix, queue = routes.prefix(str(panel.host)), routes.queue(str(panel.host))
    with Redis.from_url(panel.valkey.url(panel.user, panel.password)) as redis:
        assert redis.ping()
        for command in (
            ("GET", "x"), ("SET", f"{prefix}x", "1"), ("LPUSH", f"{prefix}{queue}", "x"), ("KEYS", "*"), ("FLUSHALL",),
            ("EVAL", "return 1", "0"), ("PUBLISH", "c", "x"), ("SUBSCRIBE", "c"), ("CONFIG", "GET", "*"), ("ACL", "LIST"),
            ("XADD", f"{routes.prefix(str(uuid4()))}evt", "*", "r", "x"), ("XREAD", "STREAMS", routes.stream(str(panel.host)), "0"),
            ("BRPOP", "np:h:other:host.other", "1"), ("CLIENT", "LIST"), ("DEBUG", "SLEEP", "1"), ("BRPOP", routes.POKE, "1"),
        ):  # fmt: skip
            with pytest.raises((NoPermissionError, ResponseError)):
                redis.execute_command(*command)


# --- Redis and the bus go away


@pytest.mark.parametrize("calamity", ["killed", "emptied", "frozen"])
def test_redis_may_go_away(panel, calamity):
    untaken = panel.order(orders.Start(name="none"))
    with panel.valkey.admin() as admin:
        until(lambda: admin.xlen(routes.stream(str(panel.host))), 20)
    if calamity == "killed":
        panel.valkey.kill()
        time.sleep(1)
        panel.valkey.start()
        panel.redis_lost_all()
    elif calamity == "emptied":
        panel.valkey.flush()
        panel.redis_lost_all()
    else:
        panel.valkey.freeze()
        time.sleep(8)
        panel.valkey.thaw()
    began = time.monotonic()
    assert panel.do(orders.Start(name="nope"), 20).problem["code"] == "machine-missing"
    assert time.monotonic() - began < 10
    assert panel.outcome(untaken, 20).problem["code"] == "machine-missing"


@pytest.mark.parametrize("which", ["panel", "later"])
def test_the_bus_may_go_away(which, request):
    panel = request.getfixturevalue(which)
    panel.sandbox.run(["systemctl", "kill", "--signal=KILL", "dbus.service"], check=False)
    time.sleep(3)
    assert panel.do(orders.Terminate(name="web"), 30).state == "succeeded"
    panel.sandbox.run(["systemctl", "restart", "systemd-networkd.service", "systemd-logind.service"])
    assert panel.do(orders.Start(name="web"), 30).machine.state == "running"


def test_an_idle_worker_costs_next_to_nothing(panel):
    pid = panel.sandbox.run(["systemctl", "show", "--property=MainPID", "--value", SERVICE]).stdout.strip()

    def ticks() -> int:
        fields = panel.sandbox.read(f"/proc/{pid}/stat").split()
        return int(fields[13]) + int(fields[14])

    panel.do(orders.Terminate(name="web"))
    time.sleep(3)
    before = ticks()
    time.sleep(20)
    assert (ticks() - before) / 100 / 20 < 0.01, "share of one CPU"
    resident = next(line for line in panel.sandbox.read(f"/proc/{pid}/status").splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 100_000


# --- put back to an older copy of itself


def test_a_state_directory_that_was_put_back_goes_on_in_another_epoch_and_orders_work_at_once(panel):
    """As from a backup: stopped, copied, in use, stopped, put back, started."""
    state, copy = "/var/lib/nspawnpanel", "/var/lib/nspawnpanel-copy"
    stop, start = ["systemctl", "stop", SERVICE], ["systemctl", "start", SERVICE]
    panel.sandbox.run(stop)
    panel.sandbox.run(["cp", "-a", state, copy])
    panel.sandbox.run(start)
    assert panel.do(orders.Start(name="web")).state == "succeeded"
    forgotten = panel.order(orders.Terminate(name="web"))
    panel.outcome(forgotten)
    panel.sandbox.run(stop)
    while panel.read():  # what follows the outcome, such as the link that went with the machine
        pass
    known, epoch = panel.number, panel.epoch
    panel.sandbox.run(["sh", "-c", f"rm -rf {state} && mv {copy} {state}"])
    panel.sandbox.run(start)
    told = len(panel.reports)
    assert panel.said_again(15) > 0, "it numbers its reports a second time"
    panel.order(orders.Resynchronise(epoch=epoch + 1, number=known))
    panel.until(lambda r: any(r is new for new in panel.reports[told:]) and r.kind == "inventory")
    fresh = panel.reports[told:]
    assert (fresh[0].kind, panel.epoch) == ("heartbeat", epoch + 1)
    assert forgotten not in {report.job for report in fresh if report.kind == "outcome"}
    assert "web" in names_in(next(r for r in fresh if r.kind == "inventory"), "inventory")
    assert panel.do(orders.Start(name="web")).state == "succeeded"
