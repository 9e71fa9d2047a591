"""Whatever a host reports where anything may stand, every page that shows it still opens."""

import pytest
from django.utils import timezone

from machines.contract import envelope, orders, recipes, reports
from machines.contract.permissions import Role
from machines.contract.states import JobState, MachineState
from machines.models import Job, ObservedFiles
from machines.panel.configs import validation
from machines.panel.configs.diffs import Files
from machines.panel.courier.intake import Taken, take
from tests import make
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db

MIXED = [5, "<script>", True, [], [1], [None], [[]], {}, {"a": [None]}, None, 1e300, 2**62]
RULES = (
    "operations",
    "bind_sources",
    "bind_sources_read_only",
    "unverified_pulls",
    "mirrors",
    "networks",
    "capabilities",
)
RESULT = (
    "findings",
    "measurements",
    "base",
    "packages",
    "seconds",
    "bytes",
    "sha256",
    "applied_at",
    "at",
    "first_id",
    "removed",
)
PROBLEM = ("code", "message", "hint", "details", "field", "retryable", "job")
ORDERS = (
    orders.Start(name="web"),
    orders.Diagnose(name="web"),
    orders.Diagnose(),
    orders.LimitTest(name="web"),
    orders.Fix(what="networkd"),
    orders.Export(name="web", url="https://panel.example/transfer/x/", limit=1),
    orders.Pool(size=2**32),
    orders.BuildBase(recipe=recipes.DebianRecipe(release="trixie")),
    orders.RemoveBase(base="0" * 16),
    orders.Apply(name="web", configuration=orders.Configuration(revision=1, nspawn="", limits="")),
    orders.RemoveDropins(name="web", files=[orders.OldDropin(path="/etc/x.conf", sha256="0" * 64)]),
    orders.SetReadOnly(name="web", read_only=True),
    make.build_order(),
)
HOST = "/hosts/alpha/"
MACHINE = f"{HOST}machines/web/"
PAGES = (
    "/machines/", "/machines/hosts/", "/hosts/", HOST, f"{HOST}doctor/", f"{HOST}pool/", MACHINE, f"{MACHINE}menu/",
    f"{MACHINE}config/", f"{MACHINE}config/raw/", f"{MACHINE}effective/", f"{MACHINE}doctor/", f"{MACHINE}limit-test/",
    f"{MACHINE}export/", f"{MACHINE}revisions/", "/machines/new/?host=alpha", "/machines/new/?host=alpha&source=pull",
    "/machines/new/?host=alpha&clone=web", "/jobs/", "/recipes/", "/archives/", "/presets/",
)  # fmt: skip
FILE = "[Files]\nBind=/srv/a:/x\nBindReadOnly=/a\n[Network]\nPort=80\nBridge=b\n[Exec]\nCapability=CAP_X\n"


def _tell(voice, odd):
    """A machine, its files and what holds of them, and the end of a job of every kind, twice."""
    fact = reports.MachineFact(
        name="web", state=MachineState.RUNNING, since=1.0, image_type="directory", image_id="1",
        effective={"MemoryMax": "x", "CPUQuotaPerSecUSec": "-"},
    )  # fmt: skip
    policy = dict.fromkeys(RULES, odd)
    facts = reports.HostFact(policy=policy, tools={"x": "y"}, missing={"a": "b"}, systemd=252, pool_type="ext4")
    voice.tell(reports.Inventory(host=facts, machines=[fact]))
    file = reports.ObservedFile(path="/etc/systemd/nspawn/web.nspawn", kind="nspawn", text=FILE, sha256="0" * 64)
    told = reports.ObservedMachine(
        name="web", files=[file], shown={"MemoryMax": "<b>", "CPUQuotaPerSecUSec": "x"}, kernel={"MemoryMax": "nan"},
        inside={"Exec.Capability": "\x07"},
    )  # fmt: skip
    voice.tell(reports.ObservedFiles(machines=[told]))
    for order in ORDERS:
        for state in ("failed", "succeeded"):
            job = make.job(order, on=voice.host, state=JobState.SENT)
            voice.tell(reports.Outcome(
                job=job.uuid, state=state, at=timezone.now().timestamp(), machine=fact if order.op == "build" else None,
                result=dict.fromkeys(RESULT, odd), problem=dict.fromkeys(PROBLEM, odd),
            ))  # fmt: skip


@pytest.mark.parametrize("odd", MIXED[:6:2] + MIXED[6:9:2], ids=repr)
def test_every_page_opens(odd):
    voice, someone = HostVoice(), make.client(make.user("ada", Role.ADMINISTRATOR))
    _tell(voice, odd)
    assert ObservedFiles.objects.count() == 1
    jobs = list(Job.objects.values_list("pk", flat=True))
    assert Job.objects.filter(state="succeeded").count() == len(ORDERS)
    for page in (*PAGES, *(f"/jobs/{pk}/{tail}" for pk in jobs for tail in ("", "?tab=result", "status/"))):
        answer = someone.get(page, headers={"HX-Request": "true"} if page.endswith("/status/") else {})
        assert answer.status_code == 200, page
        assert b"<script>" not in answer.content, page


@pytest.mark.parametrize("odd", MIXED, ids=repr)
def test_a_draft_can_be_judged(odd):
    voice = HostVoice()
    facts = reports.HostFact(policy=dict.fromkeys(RULES, odd), systemd=252, bridges=["x"], interfaces=[""])
    voice.tell(reports.Inventory(host=facts, machines=[]))
    voice.host.refresh_from_db()
    found = validation.findings(voice.host, "web", Files(nspawn=FILE, limits="[Service]\nMemoryMax=1G\n"))
    assert any("Bridge" in finding.message or "bridge" in finding.message for finding in found)


@pytest.mark.parametrize("ahead", [1e300, -1e300, 2e10, -1e9])
def test_every_page_opens_whatever_its_clock_says(ahead):
    voice, someone = HostVoice(), make.client(make.user("ada", Role.ADMINISTRATOR))
    make.job(orders.Diagnose(), on=voice.host, state="succeeded", result={"findings": []}, finished_at=timezone.now())
    job = make.job(orders.Start(name="web"), on=voice.host, state=JobState.SENT)
    for number in (1, 2):
        sane = envelope.SignedReport(
            host=voice.host.id, generation=1, number=number, at=0.0, report=reports.to_wire(reports.Heartbeat())
        )
        odd = sane.model_copy(update={"at": timezone.now().timestamp() + ahead})
        assert take(voice.host.id, [(f"{number}-0", envelope.sign_report(odd, voice.key))]) == [Taken.YES]
    for page in ("/hosts/", HOST, f"{HOST}doctor/", "/jobs/", f"/jobs/{job.pk}/"):
        assert someone.get(page).status_code == 200, page


TOLD_STATES = [state for state in MachineState if state != MachineState.MISSING]
ODD_WORDS = (" ", ".", "${X}", "\u202e", "x" * 300)


@pytest.mark.parametrize(
    ("state", "word"),
    [*((state, "<script>") for state in TOLD_STATES), *((MachineState.RESTARTING, word) for word in ODD_WORDS)],
    ids=ascii,
)
def test_every_page_opens_whatever_word_it_says(state, word):
    """Of what a unit does, which command line it has, what lies under names, what cannot be read."""
    voice, someone = HostVoice(), make.client(make.user("ada", Role.ADMINISTRATOR))
    latest, path = reports.LATEST, f"/etc/{word}"
    activity = reports.Activity(
        sub=word, part=word, restarts=2**31 - 1, next_start=latest, ended=word, policy=word, says=word, start_limit=latest,
        refused=True, init=word, failed=[word], cannot={"poweroff": word, word: word},
    )  # fmt: skip
    fact = reports.MachineFact(
        name="web", state=state, activity=activity, image_type="raw", image_path=path, hidden_images=[word], unreadable=word,
        nspawn_sha256="unreadable", unit=word, since=latest, why=word, read_only=True, read_only_by="mount",
    )  # fmt: skip
    left = reports.NameWithFiles(
        name="new", files=[reports.Leftover(path=path, kind="unit", target=path, sha256=word[:64])]
    )
    facts = reports.HostFact(
        systemd=252,
        pool_type="ext4",
        lacks={"MemoryMax": word, word: word},
        leftovers=[left],
        unusable_images={word: word},
        remnants=[reports.Remnant(path=path, why=word, since=latest)],
        bad_binds={word: word, "web": word},
        protected=[reports.ProtectedPlace(path=path, why=word, secret=True)],
        boot_id=word,
    )
    limit = reports.ObservedFile(path="/etc/systemd/system/systemd-nspawn@web.service.d/50-nspawnpanel.conf", kind="dropin",
                              text="[Service]\nMemoryMax=1G\n", target=path)  # fmt: skip
    odd = reports.ObservedFile(
        path="/etc/systemd/nspawn/web.nspawn", kind="nspawn", text=f"[{word}]\n{word}={word}\n", target=path
    )
    told = reports.ObservedMachine(
        name="web", files=[odd, limit], unit_command=[word, "systemd-nspawn", f"--port={word}", f"--{word}", word],
        run_command=["systemd-nspawn", f"-{word}", f"--settings={word}", f"--machine={word}"], lacks={"MemoryMax": word},
    )  # fmt: skip
    for report in (
        reports.Inventory(host=facts, machines=[fact], partial=word),
        reports.ObservedFiles(machines=[told]),
        reports.Heartbeat(trouble={word: word, "files": word, "loop": word, "spool": word}),
    ):
        assert voice.tell(report) == Taken.YES
    assert ObservedFiles.objects.get().told
    job = make.job(orders.Start(name="web"), on=voice.host, state=JobState.SENT, sent_at=timezone.now())
    asks = [f"{MACHINE}confirm/{op}/" for op in ("poweroff", "reboot", "terminate")]
    more = (
        f"{MACHINE}effective/?all=1",
        "/machines/new/?host=alpha&name=new",
        f"{MACHINE}remove/",
        f"/jobs/{job.pk}/",
        *asks,
    )
    for page in (*PAGES, *more):
        answer = someone.get(page, follow=True)
        assert answer.status_code == 200, page
        assert b"<script>" not in answer.content, page
