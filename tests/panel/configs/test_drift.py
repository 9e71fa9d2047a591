"""Files changed by hand: seen, taken over, applied again, or left at that."""

import pytest

from machines.contract import envelope, reports
from machines.models import Job, Machine, ObservedFiles, Revision
from machines.panel.configs import drafts, drift
from machines.panel.courier.intake import TAKE
from machines.panel.courier.machine_facts import refresh
from tests.panel.configs import cast
from tests.panel.configs.test_holds import BESIDE, ETC, LEFT, OURS, find

pytestmark = pytest.mark.django_db

URL = "/hosts/alpha/machines/web/effective/"
BY_HAND = "[Exec]\nBoot=yes\n# mine\n"


def tell(machine: Machine, nspawn: str = "", limits: str = "", **fields) -> Machine:
    """The host reports these files."""
    fact = reports.MachineFact(
        name="web", state="stopped", nspawn_sha256=cast.sha(nspawn), limits_sha256=cast.sha(limits), **fields
    )
    refresh(machine.host, fact)
    files = [(ETC, nspawn)] * bool(nspawn) + [(OURS, limits)] * bool(limits)
    find(machine, *files)
    return fresh(machine)


def fresh(machine: Machine) -> Machine:
    return Machine.objects.select_related("host", "applied").get(pk=machine.pk)


def seen(machine: Machine) -> dict[str, str]:
    return {"seen": fresh(machine).fingerprint}


def test_a_machine_as_it_was_applied_has_not_drifted(web):
    revision = cast.applied(web)
    assert not tell(web, revision.nspawn_text).drifted


@pytest.mark.parametrize("change", [{"nspawn": BY_HAND}, {"nspawn": ""}, {"limits": "[Service]\nTasksMax=3\n"}])
def test_a_file_changed_removed_or_added_by_hand_is_drift(web, as_viewer, change):
    revision = cast.applied(web)
    assert tell(web, **{"nspawn": revision.nspawn_text, **change}).drifted
    assert "Changed by hand on alpha" in as_viewer.get(URL).content.decode()
    assert ">drift</a>" in as_viewer.get("/machines/").content.decode()


def test_while_an_apply_is_on_its_way_its_own_writing_is_no_drift(web, admin):
    cast.applied(web)
    draft = cast.draft(web, admin, memory_max="1G")
    drafts.apply(fresh(web), by=admin, seen=cast.stamp(web))
    draft.refresh_from_db()
    assert not tell(web, draft.nspawn_text).drifted


def test_drift_that_is_mended_by_hand_is_gone(web):
    revision = cast.applied(web)
    tell(web, BY_HAND)
    assert not tell(web, revision.nspawn_text).drifted


def test_take_over_makes_a_revision_of_what_was_found(as_admin, web):
    cast.applied(web, number=4)
    tell(web, BY_HAND, "[Service]\nTasksMax=3\n")
    assert as_admin.post(f"{URL}adopt/", seen(web)).status_code == 302
    machine = fresh(web)
    revision = machine.applied
    assert (revision.number, revision.state, revision.author_name) == (5, "applied", "found on disk")
    assert (revision.nspawn_text, revision.limits_text) == (BY_HAND, "[Service]\nTasksMax=3\n")
    assert not machine.drifted
    assert not tell(web, BY_HAND, "[Service]\nTasksMax=3\n").drifted
    assert not Job.objects.exists()


def test_a_machine_that_was_there_before_becomes_revision_1_and_a_draft_goes_on_from_it(as_admin, web):
    text = "[Exec]\r\nBoot=1\n; kept\n[Files]\nBind=/srv:/data\n"
    tell(web, text)
    page = as_admin.get(URL).content.decode()
    assert "Import as revision 1" in page
    as_admin.post(f"{URL}adopt/", seen(web))
    machine = fresh(web)
    assert (machine.applied.number, machine.applied.nspawn_text) == (1, text)
    draft = drafts.new(machine)
    assert draft.replaces_nspawn == cast.sha(text)
    assert draft.base_nspawn == text


def test_a_file_beside_the_image_is_taken_over_and_watched_where_it_lies(as_admin, web):
    find(web, (BESIDE, BY_HAND))
    as_admin.post(f"{URL}adopt/", seen(web))
    machine = fresh(web)
    assert (machine.applied.found_in, machine.applied.nspawn_text) == (BESIDE, BY_HAND)
    assert not machine.differs
    assert drafts.new(machine).replaces_nspawn == "absent"
    found(machine, BESIDE, BY_HAND)
    assert not fresh(web).drifted
    found(machine, BESIDE, "[Exec]\nBoot=no\n")
    assert fresh(web).drifted


def found(machine: Machine, path: str, text: str) -> None:
    file = reports.ObservedFile(path=path, kind="nspawn", text=text, sha256=cast.sha(text))
    TAKE["observed_files"](
        machine.host, reports.ObservedFiles(machines=[reports.ObservedMachine(name="web", files=[file])]), envelope
    )


def test_limits_elsewhere_stay_where_they_are(as_admin, web):
    find(web, (ETC, BY_HAND), (LEFT, "[Service]\nMemoryMax=1G\n"))
    Machine.objects.update(nspawn_sha256=cast.sha(BY_HAND))
    assert "Limits in other drop-ins stay" in as_admin.get(URL).content.decode()
    as_admin.post(f"{URL}adopt/", seen(web))
    assert fresh(web).applied.limits_text == ""


def test_what_changed_since_the_page_was_shown_is_not_taken_over(as_admin, web):
    tell(web, BY_HAND)
    before = seen(web)
    tell(web, BY_HAND + "# more\n")
    answer = as_admin.post(f"{URL}adopt/", before)
    assert answer.status_code == 409
    assert "have changed since this page was loaded" in answer.content.decode()
    assert not Revision.objects.exists()


def test_texts_that_have_not_arrived_are_not_taken_over(as_admin, web):
    tell(web, BY_HAND)
    Machine.objects.update(nspawn_sha256="ab" * 32)
    answer = as_admin.post(f"{URL}adopt/", seen(web))
    assert "have not arrived from the host yet" in answer.content.decode()


def test_bytes_that_are_no_text_are_not_taken_over(as_admin, web):
    tell(web, BY_HAND)
    ObservedFiles.objects.update(told=[{**ObservedFiles.objects.get().told[0], "form": "base64", "text": "/w=="}])
    assert "is not a text file" in as_admin.post(f"{URL}adopt/", seen(web)).content.decode()


def test_applying_again_orders_the_same_revision_over_what_is_there(as_admin, web):
    revision = cast.applied(web, number=3, memory_max="1G")
    tell(web, BY_HAND)
    as_admin.post(f"{URL}reapply/", seen(web))
    job = Job.objects.get()
    ordered = job.order["configuration"]
    assert (job.op, job.revision_id, ordered["revision"]) == ("apply", revision.pk, 3)
    assert (ordered["nspawn"], ordered["limits"]) == (revision.nspawn_text, revision.limits_text)
    assert (ordered["replaces_nspawn"], ordered["replaces_limits"]) == (cast.sha(BY_HAND), "absent")


def test_ignored_until_a_file_changes_again(as_admin, web):
    cast.applied(web)
    tell(web, BY_HAND)
    as_admin.post(f"{URL}ignore/", seen(web))
    assert not tell(web, BY_HAND).drifted
    assert "ignored until" in as_admin.get(URL).content.decode()
    assert tell(web, BY_HAND + "# again\n").drifted
    assert tell(web, BY_HAND).drifted


def test_a_viewer_sees_it_and_may_not_decide(as_viewer, web):
    cast.applied(web)
    tell(web, BY_HAND)
    assert "Import the changes from disk" not in as_viewer.get(URL).content.decode()
    for verb in ("adopt", "reapply", "ignore"):
        assert as_viewer.post(f"{URL}{verb}/", seen(web)).status_code == 403
    assert drift.is_drifted(fresh(web), "x", "y", ())
