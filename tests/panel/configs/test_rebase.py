"""The host's files were changed by hand: seeing them, and deciding: config-rebase."""

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.models import Job, Revision
from machines.models.revision import sha256
from machines.panel.configs import apply_errors
from tests import make
from tests.pages import text
from tests.panel.configs import cast

URL = "/hosts/alpha/machines/web/config/rebase/"
REVIEW = "/hosts/alpha/machines/web/config/review/"
BY_HAND = """\
# Written by nspawnpanel, revision 1. A change by hand is kept and shown as drift.
# ours again
[Exec]
NotifyReady=yes

[Network]
Private=yes
VirtualEthernet=yes
Port=tcp:2222:22

[Files]
Bind=/srv
"""


@pytest.fixture
def refused(web, admin):
    """Refuses a draft as a host does that has `nspawn`: (draft, job)."""

    def refuse(nspawn: str = BY_HAND, limits: str = "") -> Revision:
        cast.applied(web, memory_max="512M")
        draft = cast.draft(web, admin, memory_max="1G")
        configuration = draft.begin_apply()
        make.job(
            orders.Apply(name="web", configuration=configuration), on=web.host, by=admin, revision=draft, state="failed",
            problem={"code": "config-changed", "message": "It was changed on the host."}, finished_at=draft.changed_at,
            result={"found_nspawn": nspawn, "found_limits": limits},
        )  # fmt: skip
        Revision.objects.filter(pk=draft.pk).update(state="draft", number=None)
        return draft

    return refuse


def test_the_review_shows_what_the_host_has_beside_what_the_draft_wants(as_admin, refused):
    refused(BY_HAND + "X-Evil=<script>\n")
    page = text(as_admin.get(REVIEW))
    assert "Applied, now on alpha, and draft" in page
    assert "<code>tcp:2222:22</code>" in page
    assert "<code>1G</code>" in page
    assert "<script>\n" not in page


def test_the_draft_may_be_put_over_it(as_admin, web, refused):
    draft = refused()
    answer = as_admin.post(URL, {"seen": cast.stamp(web), "take": "ours"})
    draft.refresh_from_db()
    assert answer.url == REVIEW
    assert (draft.replaces_nspawn, draft.replaces_limits) == (sha256(BY_HAND), "absent")
    assert draft.memory_max == "1G"
    page = text(as_admin.get(REVIEW))
    assert "could not be applied" not in page
    assert "- Port=tcp:2222:22" in page


def test_the_order_then_replaces_what_was_found(as_admin, web, refused):
    refused()
    as_admin.post(URL, {"seen": cast.stamp(web), "take": "ours"})
    as_admin.post("/hosts/alpha/machines/web/config/apply/", {"seen": cast.stamp(web)})
    order = orders.from_wire(Job.objects.latest("pk").order)
    assert order.configuration.replaces_nspawn == sha256(BY_HAND)


def test_the_draft_may_begin_anew_from_it(as_admin, web, refused):
    draft = refused()
    answer = as_admin.post(URL, {"seen": cast.stamp(web), "take": "theirs"})
    draft.refresh_from_db()
    assert answer.url == "/hosts/alpha/machines/web/config/"
    assert ([str(p) for p in draft.ports.all()], [str(b) for b in draft.binds.all()]) == (["tcp:2222:22"], ["/srv"])
    assert draft.memory_max == ""
    assert "# ours again" in draft.render_nspawn()
    assert "there is nothing to apply" in text(as_admin.get(REVIEW))


def test_the_draft_may_be_put_onto_it(as_admin, web, refused):
    draft = refused(limits="[Service]\nTasksMax=100\n")
    answer = as_admin.post(URL, {"seen": cast.stamp(web), "take": "merge"})
    draft.refresh_from_db()
    assert answer.url == REVIEW
    assert [str(p) for p in draft.ports.all()] == ["tcp:2222:22"], "theirs"
    assert (draft.memory_max, draft.tasks_max) == ("1G", "100"), "mine and theirs"
    assert "# ours again" in draft.render_nspawn()
    assert draft.replaces_nspawn == sha256(BY_HAND)


def test_where_both_changed_one_setting_the_draft_holds():
    base, theirs, mine = (apply_errors.Files(f"[Network]\nZone={zone}\n# {zone}\n", "") for zone in ("a", "b", "c"))
    assert apply_errors.merged(base, theirs, mine).nspawn == "[Network]\nZone=c\n# b\n"
    assert apply_errors.merged(base, theirs, base).nspawn == "[Network]\nZone=b\n# b\n"


@pytest.mark.parametrize("line", ["[Exec]\nPrivateUsers=perhaps", "[Exec]\nHostname=a b"])
def test_what_is_not_valid_is_not_taken_over_silently(as_admin, web, refused, line):
    draft = refused(BY_HAND + line + "\n")
    answer = as_admin.post(URL, {"seen": cast.stamp(web), "take": "theirs"})
    draft.refresh_from_db()
    assert answer.status_code == 409
    assert "something that is not valid" in text(answer)
    assert (draft.memory_max, draft.ports.count()) == ("1G", 0)


@pytest.mark.parametrize(
    "line",
    [
        "[Files]\nBind=/srv:/srv:norbind",
        "[Network]\nPort=nonsense",
        "[Network]\nMACVLAN=eth0",
        "[Files]\nBind=relative",
    ],
)
def test_what_a_form_cannot_show_is_taken_over_word_for_word(as_admin, web, refused, line):
    draft = refused(BY_HAND + line + "\n")
    assert as_admin.post(URL, {"seen": cast.stamp(web), "take": "theirs"}).status_code == 302
    draft.refresh_from_db()
    assert draft.render_nspawn() == nspawn.unmark(BY_HAND + line + "\n")


def test_without_a_refusal_there_is_nothing_to_decide(as_admin, admin, web):
    cast.draft(web, admin)
    assert as_admin.post(URL, {"seen": cast.stamp(web)}).status_code == 409


def test_a_newer_draft_is_left_alone(as_admin, web, refused):
    seen = cast.stamp(web)
    refused()
    assert as_admin.post(URL, {"seen": seen, "take": "theirs"}).status_code == 409


def test_it_rejects_get(as_admin, web):
    assert as_admin.get(URL).status_code == 405


def test_it_needs_the_right_to_configure(as_viewer, web, refused):
    refused()
    assert as_viewer.post(URL, {"seen": cast.stamp(web)}).status_code == 403
    assert "config/rebase" not in text(as_viewer.get(REVIEW))
