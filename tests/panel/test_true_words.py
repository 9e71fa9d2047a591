"""Small things pages said that were not so."""

import pytest
from django.template import Context, Template
from django.utils import timezone

from machines.contract import orders, recipes
from machines.contract.problems import BadValue
from machines.models import Machine, ObservedFiles, Revision
from machines.panel.forms.archives import BeginForm
from machines.panel.orders import job_labels
from machines.panel.pages import job_page, machine_page
from tests import make
from tests.panel.configs import cast


def text(answer) -> str:
    return " ".join(answer.content.decode().split())


def test_a_configuration_taken_over_from_disk_was_applied_by_nobody(as_admin, web):
    revision = cast.applied(web, memory_max="512M")
    Revision.objects.filter(pk=revision.pk).update(author_name="found on disk", reason="imported by ada")
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "imported from disk" in page
    assert "imported by ada" in page
    assert "by found on disk" not in page
    assert "found on disk" not in text(as_admin.get("/hosts/alpha/machines/web/revisions/"))


def test_a_result_says_times_and_sizes_as_people_read_them():
    shown = dict(
        job_page.result({"applied_at": 1795907436.589948, "bytes": 3 << 20, "enabled": True, "found_at": 1e300})
    )
    assert "2026-11-28" in shown["applied at"]
    assert "1795907436" not in shown["applied at"]
    assert shown["bytes"] == "3\u00a0MiB"
    assert shown["enabled"] == "yes"
    assert shown["found at"] == "1e+300"


@pytest.mark.django_db
def test_a_summary_counts_what_it_lists(admin):
    form = BeginForm({"title": "", "format": "zip", "size": "x"}, by=admin)
    form.errors["size"].append("And another.")
    page = Template('{% include "_error_summary.html" %}').render(Context({"form": form}))
    assert "4 fields need attention" in page
    assert page.count("<li>") == 4


@pytest.mark.parametrize(
    "wrong", ["debian-13.tar.xz", "http://images.example/a b.tar", "https://x.example/../a.tar", "ftp://x/a"]
)
def test_an_image_is_not_called_a_mirror(wrong):
    with pytest.raises(BadValue) as refused:
        recipes.address(wrong)
    assert "mirror" not in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.field == "url"


@pytest.mark.parametrize(("kind", "shown"), [("archive", "unpack"), ("pull", "unpack"), ("debian", "packages")])
def test_a_phase_is_called_by_what_is_done_in_it(kind, shown):
    assert job_labels.phase({"recipe": {"kind": kind}}, "packages") == shown
    assert job_labels.phase({"recipe": "strange"}, "packages") == "packages"


def test_a_stopped_machine_with_a_foreign_limit_may_not_use_all_of_its_host(as_admin, web):
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "it may use all of" not in page  # its host has sent no files yet
    limit = {
        "path": "/etc/systemd/system.control/systemd-nspawn@web.service.d/50-MemoryMax.conf",
        "kind": "dropin",
        "form": "text",
    }
    found = ObservedFiles.objects.create(machine=web, told=[limit | {"text": "[Service]\nMemoryMax=300M\n"}])
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "300M" in page
    assert "on next start, set outside the panel" in page
    found.told = [limit | {"text": "[Service]\nMemoryMax=67108864\n"}]
    found.save()
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "64 MiB" in page  # as set-property writes it
    assert "67108864" not in page
    found.told = []
    found.save()
    assert "None: it may use all of alpha" in text(as_admin.get("/hosts/alpha/machines/web/"))


def dropin(unit, name, text):
    path = f"/etc/systemd/system/systemd-nspawn@{unit}.service.d/{name}"
    return {"path": path, "kind": "dropin", "form": "text", "text": text}


def test_of_several_drop_ins_the_one_that_wins_is_shown(as_admin, web):
    """Also one for every machine of the host; and none that ours overrides."""
    files = [
        dropin("", "10-all.conf", "[Service]\nMemoryMax=300M\nTasksMax=77\n"),
        dropin("web", "40-mine.conf", "[Service]\nTasksMax=88\nCPUWeight=55\n"),
        dropin("web", "50-nspawnpanel.conf", "[Service]\nCPUWeight=66\n"),
    ]
    ObservedFiles.objects.create(machine=web, told=files)
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert '"mono">300M</span>' in page
    assert '"mono">88</span>' in page
    assert '"mono">77</span>' not in page
    assert '"mono">55</span>' not in page
    type(web).objects.update(state="unknown")
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "set outside the panel" in page
    assert "next start" not in page


def test_a_start_that_failed_is_told_in_one_box(as_admin, web):
    type(web).objects.filter(pk=web.pk).update(state="failed", why="Failed to stat /srv/gone: No such file")
    problem = {"code": "start-failed", "message": "web did not start.", "hint": ""}
    make.job(orders.Start(name="web"), on=web.host, state="failed", finished_at=timezone.now(), problem=problem)
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert page.count("Failed to stat /srv/gone") == 1
    assert page.count("alert-danger") == 1


def test_limit_rows_of_a_running_machine_are_those_in_force(web):
    web.state = "running"
    assert machine_page.limit_rows(web) == []


def test_a_machine_started_by_hand_without_a_file_has_not_the_defaults_of_its_unit(as_admin, web):
    """`systemd-nspawn -bD …` has the host's network, the unit has --network-veth."""
    words = ["systemd-nspawn", "-q", "--boot", "--directory=/var/lib/machines/web", "--machine=web"]
    Machine.objects.filter(pk=web.pk).update(state="running", unit="machine-web.scope", leader=7, run_command=words)
    ObservedFiles.objects.create(machine=web, told=[])
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "web was started by hand" in page
    assert "no --network-veth" in page
    assert "those of alpha: it uses the host's network" in page
    config, holds = (text(as_admin.get(f"/hosts/alpha/machines/web/{tab}/")) for tab in ("config", "holds"))
    assert "web was started by hand" in config
    assert not any("private network included" in each for each in (page, holds))
    Machine.objects.filter(pk=web.pk).update(run_command=[*words, "--network-zone=shop"])
    assert "it uses the host's network" not in text(as_admin.get("/hosts/alpha/machines/web/"))


def test_a_network_the_file_says_nothing_of_is_called_so(as_admin, web):
    applied = Revision.objects.create(machine=web, number=1, state="applied", network_mode="unsaid")
    Machine.objects.filter(pk=web.pk).update(applied=applied)
    page = text(as_admin.get("/hosts/alpha/machines/web/"))
    assert "Not set in the file" in page
    assert "unsaid" not in page
