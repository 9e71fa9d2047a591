"""A new machine under whose name files lie on its host: they are shown, and somebody decides."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.models import Host, Job, Machine, Revision
from tests import make
from tests.panel.machines.test_new import URL, form, text

HAND = {"path": "/etc/systemd/nspawn/web.nspawn", "kind": "settings", "sha256": "a" * 64}
LIMIT = {
    "path": "/etc/systemd/system.control/systemd-nspawn@web.service.d/50-MemoryMax.conf", "kind": "limit", "sha256": "b" * 64
}  # fmt: skip
LINK = {
    "path": "/etc/systemd/system/multi-user.target.wants/systemd-nspawn@web.service", "kind": "autostart",
    "target": "/usr/lib/systemd/system/systemd-nspawn@.service",
}  # fmt: skip


@pytest.fixture
def alpha(db):
    facts = {"systemd": 257, "leftovers": [{"name": "web", "files": [HAND, LIMIT, LINK]}]}
    return make.host("alpha", facts=facts, inventory_at=timezone.now())


def digest(page: str) -> str:
    found = re.search(r'name="seen" value="([0-9a-f]{64})"', page)
    assert found, "the page asks for no decision"
    return found[1]


def test_they_are_shown_and_nothing_is_ordered_until_somebody_has_decided(as_admin, alpha):
    answer = as_admin.post(URL, form())
    assert answer.status_code == 422
    page = text(answer)
    for shown in (
        "alpha already has files for a machine of this name", f"{HAND['path']}</span>: settings of the machine, not by the panel",
        f"{LIMIT['path']}</span>: set by systemctl set-property", f"{LINK['path']}</span>: starts it at boot",
        "Keep: they apply", "Replace: settings below", "alpha already has files for web: keep or replace them.",
    ):  # fmt: skip
        assert shown in page
    answer = as_admin.post(URL, form(seen=digest(page)))
    assert "Keep or replace them, or choose another name." in text(answer)
    assert not Job.objects.exists()


@pytest.mark.parametrize("decision", ["keep", "replace"])
def test_the_order_names_what_was_seen_and_what_shall_become_of_it(as_admin, alpha, decision):
    seen = digest(text(as_admin.post(URL, form())))
    assert as_admin.post(URL, form(seen=seen, leftovers=decision)).status_code == 302
    order = Job.objects.get().order
    assert order["leftovers"] == decision
    assert order["seen"] == [
        {"path": HAND["path"], "sha256": "a" * 64}, {"path": LIMIT["path"], "sha256": "b" * 64},
        {"path": LINK["path"], "sha256": "absent"},
    ]  # fmt: skip


def test_a_decision_about_other_files_than_those_that_are_there_now_counts_for_nothing(as_admin, alpha):
    seen = digest(text(as_admin.post(URL, form())))
    changed = [HAND | {"sha256": "c" * 64}, LIMIT, LINK]
    Host.objects.update(facts={"leftovers": [{"name": "web", "files": changed}]})
    answer = as_admin.post(URL, form(seen=seen, leftovers="replace"))
    assert answer.status_code == 422
    assert digest(text(answer)) != seen
    assert not Job.objects.exists()


def test_another_name_asks_for_nothing(as_admin, alpha):
    assert as_admin.post(URL, form(name="db", leftovers="replace")).status_code == 302
    order = Job.objects.get().order
    assert (order["leftovers"], order["seen"]) == ("refuse", [])


def test_what_the_host_refused_a_build_for_is_on_the_job_s_page_and_asked_about_at_once(as_admin, alpha):
    """Its last inventory is older than the files."""
    Host.objects.update(facts={}, facts_at=timezone.now(), inventory_at=timezone.now() - timedelta(seconds=50))
    assert as_admin.post(URL, form()).status_code == 302
    job = Job.objects.get()
    Job.objects.update(
        state="failed", finished_at=timezone.now(), result={"leftovers": [HAND]},
        problem={"code": "name-has-files", "message": "There are files of web on this host."},
    )  # fmt: skip
    Machine.objects.update(removed_at=timezone.now())
    page = text(as_admin.get(f"/jobs/{job.pk}/"))
    assert f"{HAND['path']}</span>: settings of the machine, not by the panel" in page
    assert f"{URL}?again={job.pk}" in page
    again = text(as_admin.get(URL, {"again": job.pk}))
    answer = as_admin.post(URL, form(seen=digest(again), leftovers="keep"))
    assert answer.status_code == 302
    assert [file["path"] for file in Job.objects.latest("id").order["seen"]] == [HAND["path"]]


def test_a_heartbeat_after_the_refusal_and_an_older_refusal_hide_nothing(as_admin, alpha):
    """A heartbeat says nothing of files; the last refusal is the one that counts."""
    now = timezone.now()
    Host.objects.update(facts={}, facts_at=now, inventory_at=now - timedelta(seconds=50))
    for seconds, files in ((30, [LIMIT]), (10, [HAND])):
        make.job(
            make.build_order("web"), on=alpha, state="failed", finished_at=now - timedelta(seconds=seconds),
            result={"leftovers": files},
            problem={"code": "name-has-files", "message": "There are files of web on this host."},
        )  # fmt: skip
    page = text(as_admin.post(URL, form()))
    assert HAND["path"] in page
    assert LIMIT["path"] not in page


def test_of_an_earlier_machine_only_our_own_unchanged_files_are_replaced_without_a_word(as_admin, alpha):
    machine = make.machine("db", on=alpha, state="missing", nspawn_sha256="f" * 64, drifted=True)
    applied = Revision.objects.create(machine=machine, number=4, state="applied", nspawn_text="[Exec]\n")
    Machine.objects.update(applied=applied)
    assert as_admin.post(URL, form(name="db", team="ops")).status_code == 302
    assert Job.objects.get().order["configuration"]["replaces_nspawn"] == applied.nspawn_sha256


def test_the_host_s_page_lists_files_without_a_machine(as_admin, alpha):
    page = text(as_admin.get("/hosts/alpha/"))
    assert "Files without a machine" in page
    assert LIMIT["path"] in page
    machine = make.machine("web", on=alpha, state="missing")
    assert LIMIT["path"] in text(as_admin.get("/hosts/alpha/"))
    Machine.objects.filter(pk=machine.pk).update(state="running")  # built since the host has told of them
    assert "Files without a machine" not in text(as_admin.get("/hosts/alpha/"))
    Host.objects.update(facts={"leftovers": "nonsense"})
    assert "Files without a machine" not in text(as_admin.get("/hosts/alpha/"))


def test_a_hostile_host_s_list_breaks_no_page(as_admin, alpha):
    Host.objects.update(facts={"leftovers": [7, {"name": "web", "files": [{"path": 1}, "x"]}, {"files": 3}]})
    assert as_admin.get("/hosts/alpha/").status_code == 200
    assert as_admin.post(URL, form()).status_code == 302
    assert Job.objects.get().order["op"] == orders.Build.model_fields["op"].default
