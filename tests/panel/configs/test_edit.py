"""Editing the draft: config-edit."""

import pytest
from django.urls import reverse

from machines.contract import orders
from machines.contract.configuration import command_line
from machines.models import Machine, Revision
from tests import make
from tests.pages import text
from tests.panel.configs import cast
from tests.panel.configs.posts import post

URL = "/hosts/alpha/machines/web/config/"


def test_it_shows_what_was_applied_last(as_viewer, web):
    cast.applied(web, memory_max="512M", network_mode="zone", network_target="shop")
    page = text(as_viewer.get(URL))
    assert 'value="512M"' in page
    assert 'value="shop"' in page
    assert "As applied by revision 1" in page


def test_it_shows_the_draft_when_there_is_one(as_admin, admin, web):
    cast.applied(web, memory_max="512M")
    cast.draft(web, admin, memory_max="1G")
    page = text(as_admin.get(URL))
    assert 'value="1G"' in page
    assert "Draft of ada" in page


def test_it_makes_a_first_draft_out_of_defaults(as_admin, admin, web):
    answer = as_admin.post(URL, post(seen=cast.stamp(web), memory_max="256M"))
    assert answer.status_code == 302
    made = Revision.objects.get(machine=web)
    assert (made.state, made.author, made.memory_max, made.replaces_nspawn) == ("draft", admin, "256M", "absent")


def test_it_saves_a_draft_that_may_replace_only_what_was_applied(as_admin, web):
    before = cast.applied(web, memory_max="512M")
    as_admin.post(URL, post(seen=cast.stamp(web), memory_max="1G"))
    made = Revision.objects.get(machine=web, state="draft")
    assert made.replaces_nspawn == before.nspawn_sha256
    assert made.render_limits() == "[Service]\nMemoryMax=1G\n"
    assert not web.host.jobs.exists()


def test_saving_twice_keeps_one_draft(as_admin, web):
    for size in ("1G", "2G"):
        as_admin.post(URL, post(seen=cast.stamp(web), memory_max=size, ports=[("tcp", 80, 80)]))
    made = Revision.objects.get(machine=web)
    assert made.memory_max == "2G"
    assert made.ports.count() == 1


def test_it_goes_on_to_the_review(as_admin, web):
    answer = as_admin.post(URL, post(seen=cast.stamp(web), then="review"))
    assert answer.url == reverse("config-review", args=["alpha", "web"])


def test_it_says_what_is_wrong_and_keeps_what_was_typed(as_admin, web):
    answer = as_admin.post(URL, post(seen=cast.stamp(web), memory_max="a lot", cpu_quota="half"))
    page = text(answer)
    assert answer.status_code == 422
    assert "2 fields need attention" in page
    assert 'value="a lot"' in page
    assert "is not a size" in page
    assert not Revision.objects.exists()


def test_a_correction_does_not_forget_which_draft_was_seen(as_admin, admin, web):
    seen = cast.stamp(web)
    cast.draft(web, make.user("bob", role="administrator"), memory_max="2G")
    page = text(as_admin.post(URL, post(seen=seen, memory_max="a lot")))
    assert f'name="seen" value="{seen}"' in page


def test_it_needs_the_right_to_configure(as_viewer, web):
    assert as_viewer.post(URL, post(seen=cast.stamp(web))).status_code == 403
    assert not Revision.objects.exists()
    page = text(as_viewer.get(URL))
    assert "needs the permission to configure" in page
    assert "Save draft" not in page


def test_a_newer_draft_is_not_overwritten_unseen(as_admin, admin, web):
    cast.applied(web, memory_max="512M")
    seen = cast.stamp(web)
    theirs = cast.draft(web, make.user("bob", role="administrator"), memory_max="2G")
    answer = as_admin.post(URL, post(seen=seen, memory_max="1G"))
    page = text(answer)
    theirs.refresh_from_db()
    assert answer.status_code == 409
    assert "bob saved a newer draft in the meantime" in page
    assert "2G" in page
    assert 'value="1G"' in page
    assert theirs.memory_max == "2G"


def test_saving_again_after_a_conflict_is_a_decision(as_admin, admin, web):
    seen = cast.stamp(web)
    cast.draft(web, make.user("bob", role="administrator"), memory_max="2G")
    page = text(as_admin.post(URL, post(seen=seen, memory_max="1G")))
    assert cast.stamp(web) in page
    as_admin.post(URL, post(seen=cast.stamp(web), memory_max="1G"))
    made = Revision.objects.get(machine=web)
    assert (made.memory_max, made.author) == ("1G", admin)


def test_a_draft_that_was_applied_meanwhile_is_a_conflict_too(as_admin, admin, web):
    made = cast.draft(web, admin)
    seen = cast.stamp(web)
    made.delete()
    cast.applied(web, memory_max="512M")
    answer = as_admin.post(URL, post(seen=seen, memory_max="1G"))
    assert answer.status_code == 409
    assert "was applied or discarded in the meantime" in text(answer)


def test_nothing_changes_while_a_revision_is_on_its_way(as_admin, admin, web):
    made = cast.draft(web, admin)
    configuration = made.begin_apply()
    job = make.job(orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=made)
    assert "is being sent to alpha" in text(as_admin.get(URL))
    answer = as_admin.post(URL, post(seen=cast.stamp(web)))
    assert answer.status_code == 409
    assert f"job {job.pk}" in text(answer)


def test_a_revision_whose_job_ended_unsettled_can_be_edited_again(as_admin, admin, web):
    """A cancelled or expired apply: nothing was written, whatever the revision's row says."""
    made = cast.draft(web, admin)
    configuration = made.begin_apply()
    make.job(
        orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=made, state="expired"
    )
    assert as_admin.post(URL, post(seen=cast.stamp(web), memory_max="1G")).status_code == 302
    made.refresh_from_db()
    assert (made.state, made.number, made.memory_max) == ("draft", None, "1G")


def test_files_of_somebody_else_are_left_alone(as_admin, web):
    web.nspawn_sha256 = "ab" * 32
    web.save()
    assert "import them as revision 1" in text(as_admin.get(URL))
    assert as_admin.post(URL, post(seen=cast.stamp(web))).status_code == 409
    assert not Revision.objects.exists()


def test_a_change_by_hand_is_told(as_admin, web):
    cast.applied(web)
    web.nspawn_sha256, web.drifted = "cd" * 32, True
    web.save()
    assert "Applying will be rejected" in text(as_admin.get(URL))


def test_a_failed_apply_leads_to_the_setting_it_is_about(as_admin, admin, web):
    made = cast.draft(web, admin, network_mode="zone", network_target="shop")
    configuration = made.begin_apply()
    line = configuration.nspawn.splitlines().index("Zone=shop") + 1
    details = f"/run/systemd/nspawn/x.nspawn:{line}: Cannot use it <b>\nMemoryMax= is odd"
    problem = {"code": "config-refused", "message": "systemd does not take this.", "details": details}
    make.job(
        orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=made, state="failed",
        problem=problem, finished_at=made.changed_at,
    )  # fmt: skip
    Revision.objects.filter(pk=made.pk).update(state="draft", number=None)
    page = text(as_admin.get(URL))
    assert "systemd does not take this." in page
    assert f'href="{URL}#id_network_target">Zone=</a>' in page
    assert f'href="{URL}#id_memory_max">MemoryMax=</a>' in page
    assert "it <b>" not in page


def test_an_old_failure_is_not_held_against_a_new_draft(as_admin, admin, web):
    made = cast.draft(web, admin)
    configuration = made.begin_apply()
    make.job(
        orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=made, state="failed",
        problem={"message": "No."}, finished_at=made.changed_at,
    )  # fmt: skip
    Revision.objects.filter(pk=made.pk).update(state="draft", number=None)
    as_admin.post(URL, post(seen=cast.stamp(web), memory_max="1G"))
    assert "could not be applied" not in text(as_admin.get(URL))


def test_without_javascript_a_button_adds_a_row(as_admin, web):
    answer = as_admin.post(URL, post(seen=cast.stamp(web), add="ports", ports=[("tcp", 80, 80)]))
    page = text(answer)
    assert answer.status_code == 200
    assert 'name="ports-1-host_port"' in page
    assert 'value="80"' in page
    assert not Revision.objects.exists()


@pytest.mark.parametrize("total", ["", "x", "-1", "999999999"])
def test_nonsense_in_the_count_of_rows_is_no_error_of_ours(as_admin, web, total):
    for add in ({}, {"add": "ports"}):
        data = post(seen=cast.stamp(web), **add) | {"ports-TOTAL_FORMS": total}
        assert as_admin.post(URL, data).status_code in {200, 302, 422}


def test_more_rows_than_there_may_be_are_refused_and_not_drawn_without_end(as_admin, web):
    answer = as_admin.post(URL, post(seen=cast.stamp(web)) | {"ports-TOTAL_FORMS": "1100"})
    page = text(answer)
    assert answer.status_code == 422
    assert "Please submit at most 100 forms." in page
    assert 'name="ports-199-host_port"' in page
    assert 'name="ports-200-host_port"' not in page


def test_a_stranger_machine_is_not_found(as_admin, web):
    assert as_admin.get("/hosts/beta/machines/web/config/").status_code == 404
    assert as_admin.get("/hosts/alpha/machines/db/config/").status_code == 404


def test_it_costs_few_queries(as_admin, admin, web, django_assert_max_num_queries):
    cast.applied(web, memory_max="512M")
    cast.draft(web, admin)
    with django_assert_max_num_queries(9):  # one is for what its team may use of the host
        as_admin.get(URL)


def test_a_refusal_in_one_sentence_leads_to_its_setting_too(as_admin, admin, web):
    made = cast.draft(web, admin)
    configuration = made.begin_apply()
    make.job(
        orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=made, state="failed",
        problem={"message": "Bind=/x: /x does not exist on this host."}, finished_at=made.changed_at,
    )  # fmt: skip
    Revision.objects.filter(pk=made.pk).update(state="draft", number=None)
    assert f'href="{URL}#binds">Bind=</a>' in text(as_admin.get(URL))


BRIDGED = ["/usr/bin/systemd-nspawn", "--settings=override", "--network-bridge=br0", "--machine=web"]


def test_a_first_draft_leaves_what_the_unit_s_command_line_says(as_admin, web):
    Machine.objects.filter(pk=web.pk).update(unit_command=BRIDGED)
    page = text(as_admin.get(URL))
    assert "has a command line of its own" in page
    assert "--network-bridge=br0" in page
    fields = {"network_mode": "unsaid", "boot": None, "notify_ready": None, "memory_max": "1G"}
    as_admin.post(URL, post(seen=cast.stamp(web), **fields))
    draft = Revision.objects.get()
    assert draft.render_nspawn() == ""
    assert not draft.boot  # as the unit starts it
    draft.boot = True
    assert "Boot=yes" in draft.render_nspawn()


@pytest.mark.parametrize("page", ["", "config/", "config/raw/"])
def test_every_page_says_that_no_file_is_read(as_admin, web, page):
    Machine.objects.filter(pk=web.pk).update(unit_command=[*BRIDGED[:1], "--boot", "--settings=no"])
    said = text(as_admin.get(f"/hosts/alpha/machines/web/{page}"))
    assert "No .nspawn file is read" in said


def test_a_stock_unit_is_not_worth_a_word(as_admin, web):
    Machine.objects.filter(pk=web.pk).update(unit_command=[*command_line.STOCK_ARGV, "--quiet", "--keep-unit"])
    assert "command line of its own" not in text(as_admin.get(URL))
