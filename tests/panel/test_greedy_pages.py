"""Whatever a host says, as much of it as it may and in the worst characters: every page stays small and quick."""

import time
from urllib.parse import quote

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from machines.contract import orders, reports
from machines.contract.states import JobState, MachineState
from machines.models import Job, Machine, Revision
from machines.panel.courier.intake import Taken
from tests import make
from tests.panel.test_intake import HostVoice

pytestmark = pytest.mark.django_db

WORST = "'"  # six characters in HTML, and three or more in an address
SHORT = WORST * 300
ETC, PLACE = "/etc/systemd/nspawn/", "/etc/systemd/system/"
STATES = (MachineState.RUNNING, MachineState.FAILED)


def name(number: int) -> str:
    return f"{number:03}" + WORST * 252


def some(count: int, size: int = 290) -> list[str]:
    return [f"{number:04}" + WORST * size for number in range(count)]


def machine(number: int, state: MachineState = MachineState.FAILED) -> reports.MachineFact:
    told = dict.fromkeys(some(60), SHORT)
    return reports.MachineFact(
        name=name(number), state=state, since=1.0, unit=SHORT, os=SHORT, image_id=WORST * 100, image_path=WORST * 1000,
        hidden_images=[SHORT] * 20, addresses=[reports.Address(family="inet6", address=WORST * 64)] * 64,
        effective=told, why=WORST * 4000, unreadable=SHORT,
        activity=reports.Activity(
            sub=SHORT, part=SHORT, ended=SHORT, policy=SHORT, says=SHORT, init=SHORT, failed=[SHORT] * 50,
            cannot=dict.fromkeys(some(10), SHORT),
        ),
    )  # fmt: skip


def host() -> reports.HostFact:
    """As much as the panel keeps of it, and 20 names without a machine."""
    files = [reports.Leftover(path=WORST * 300 + str(n), kind="unit", target=WORST * 300) for n in range(10)]
    return reports.HostFact(
        hostname=SHORT, os=SHORT, kernel=SHORT, worker=SHORT, mirror=WORST * 4000, pool_type=SHORT, bridges=some(100),
        interfaces=some(100), tools=dict.fromkeys(some(20), SHORT), missing=dict.fromkeys(some(50), SHORT),
        lacks=dict.fromkeys(some(20), SHORT), policy={"bind_sources": some(20), "other": SHORT},
        leftovers=[reports.NameWithFiles(name=name(number), files=files) for number in range(500, 510)],
        unusable_images=dict.fromkeys(some(10), WORST * 1000),
        bases=[reports.BaseFact(id=f"{n:016x}", key="k", title=SHORT) for n in range(100)],
    )  # fmt: skip


def found() -> reports.ObservedMachine:
    many = "".join(f"{n}\n" for n in range(20_000))  # of a file that was changed by hand
    lines = "".join(f"Environment={WORST * 100}{n}\n" for n in range(200))
    texts = [f"[Exec]\n{lines}\n{many}"[:131_072], *(f"[Service]\n{lines}" for _ in range(40))]
    files = [
        reports.ObservedFile(
            path=f"{PLACE if n else ETC}{n}{WORST * 900}", kind="dropin" if n else "nspawn", text=text, error=SHORT
        )
        for n, text in enumerate(texts)
    ]
    words = [WORST * 1000] * 200
    return reports.ObservedMachine(
        name=name(0), files=files, shown=dict.fromkeys(some(100), WORST * 500), inside=dict.fromkeys(some(100), WORST * 500),
        unit_command=["/usr/bin/systemd-nspawn", *words[:99]], run_command=["/usr/bin/systemd-nspawn", *words[:99]],
    )  # fmt: skip


@pytest.fixture
def stuffed() -> HostVoice:
    voice = HostVoice()
    tell(voice, reports.Inventory(host=host(), machines=[], partial=SHORT))
    for begin in range(0, 120, 20):
        tell(voice, reports.Observed(machines=[machine(n, STATES[n % 2]) for n in range(begin, begin + 20)]))
    tell(voice, reports.ObservedFiles(machines=[found()]))
    mine = Machine.objects.get(name=name(0))
    applied = Revision.objects.create(
        machine=mine, number=1, state="applied", nspawn_text="".join(f"{n}.\n" for n in range(20_000))
    )
    Machine.objects.filter(pk=mine.pk).update(applied=applied, drifted=True)
    tell(voice, reports.Heartbeat(trouble=dict.fromkeys(some(20), SHORT)))
    for number in range(20):
        tell(voice, reports.Refused(code=SHORT, message=f"{number:04}" + WORST * 3996))
    for number in range(100):
        say(voice, number)
    return voice


def say(voice: HostVoice, number: int) -> None:
    job = make.job(orders.Start(name=f"job{number}"), on=voice.host, state=JobState.SENT)
    phases = [reports.Phase(job=job.uuid, name=SHORT, number=n + 1, of=50, at=float(n)) for n in range(50)]
    texts = [reports.Line(at=1.0, text=WORST * 16_384)] * 20
    lines = [reports.Lines(job=job.uuid, first=1 + 20 * n, lines=texts) for n in range(5)]
    command = reports.Command(job=job.uuid, argv=[WORST * 8000] * 30)
    progress = reports.Progress(job=job.uuid, fraction=0.5, note=SHORT)
    if number < 98:
        tell(voice, reports.JobOutput(job=job.uuid, parts=[phases[0], progress]))
        return
    tell(voice, reports.JobOutput(job=job.uuid, parts=[*phases, command, progress]))
    for part in lines:
        tell(voice, part)
    if number == 99:
        problem = {
            "code": "x",
            "message": WORST * 100_000,
            "hint": WORST * 100_000,
            "details": WORST * 500_000,
            SHORT: SHORT,
        }
        result = dict.fromkeys(some(100), WORST * 5000)
        tell(voice, reports.Outcome(job=job.uuid, state="failed", at=1.0, problem=problem, result=result))


def tell(voice: HostVoice, report: reports.Report) -> None:
    assert voice.tell(report) is Taken.YES


AT_MOST = 1_500_000  # bytes of a page in the worst characters; a hundredth of that in the usual ones


def addresses(voice: HostVoice) -> list[str]:
    mine = f"/hosts/alpha/machines/{quote(name(0), safe='')}/"
    jobs = [f"/jobs/{pk}/" for pk in Job.objects.order_by("-pk").values_list("pk", flat=True)[:2]]
    return [
        "/machines/", "/machines/?q=host:alpha", f"/machines/?q={WORST * 100}", "/machines/hosts/?kind=debian", "/machines/new/",
        "/hosts/", "/hosts/alpha/", "/hosts/alpha/doctor/", "/hosts/alpha/pool/",
        *(mine + part for part in ("", "menu/", "confirm/poweroff/", "export/", "remove/", "doctor/", "limit-test/", "config/",
          "config/raw/", "config/review/", "effective/", "revisions/")),
        "/jobs/", "/jobs/?q=state:running",
        *(job + part for job in jobs for part in ("", "?tab=commands", "?tab=order", "?tab=result", "status/", "cancel/confirm/",
          "log/older/?before=90")),
        "/events/", "/recipes/", "/presets/", "/archives/",
    ]  # fmt: skip


def test_every_page_stays_small_and_quick(stuffed, as_admin):
    too_much = []
    for address in addresses(stuffed):
        for headers in ({}, {"HX-Request": "true"}):
            with CaptureQueriesContext(connection) as queries:
                begun = time.perf_counter()
                answer = as_admin.get(address, headers=headers)
                took = time.perf_counter() - begun
            where = address.replace(quote(name(0), safe=""), "NAME")
            figure = f"{answer.status_code} {len(answer.content):>9,} {took * 1000:6.0f} ms {len(queries):3} {bool(headers)} {where[:60]}"
            print(figure)
            if answer.status_code >= 500 or len(answer.content) > AT_MOST:
                too_much.append(figure)
    assert too_much == []
