"""Hosts shared to teams: quotas as people type them, and who sees which."""

import pytest

from machines.contract.permissions import Role
from machines.models import Event, HostShare
from machines.panel.teams import quota_words
from tests import make
from tests.pages import text

EDIT = "/teams/ops/hosts/alpha/edit/"
GIB = 1 << 30


@pytest.fixture
def share(alpha) -> HostShare:
    return HostShare.objects.get()


def test_a_quota_is_typed_in_units_and_read_back_the_same(as_admin, share):
    typed = {
        "max_machines": "5", "max_memory": "8G", "max_cpu": "250%", "max_disk": "1.5T", "networks": "veth zone:lab*, bridge:br0",
        "bind_sources": "/srv/web\n/srv/data", "name_pattern": "web-*", "claims": "on",
    }  # fmt: skip
    page = text(as_admin.post(EDIT, typed, follow=True))
    assert "Quota saved." in page
    share.refresh_from_db()
    assert (share.max_machines, share.max_memory, share.max_cpu, share.max_disk) == (5, 8 * GIB, 250, 1536 * GIB)
    assert share.networks == ["veth", "zone:lab*", "bridge:br0"]
    assert share.bind_sources == ["/srv/web", "/srv/data"]
    assert (share.name_pattern, share.claims) == ("web-*", True)
    form = as_admin.get(EDIT).content.decode()
    for value in (
        'value="5"',
        'value="8G"',
        'value="250%"',
        'value="1536G"',
        'value="web-*"',
        "veth\nzone:lab*\nbridge:br0",
    ):
        assert value in form
    said = Event.objects.get().text
    assert said.startswith("ada changed what Ops may use of alpha to machines 5, memory 8")
    assert "before: no limit." in said


def test_what_stays_empty_is_not_limited(as_admin, share):
    HostShare.objects.update(max_memory=GIB, networks=["veth"], name_pattern="a*", claims=True)
    as_admin.post(EDIT, dict.fromkeys(("max_machines", "max_memory", "networks", "bind_sources", "name_pattern"), ""))
    share.refresh_from_db()
    assert quota_words.in_words(share) == "no limit"


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("max_memory", "8 apples", "is not a size"),
        ("max_memory", "9" * 19 + "T", "more than any host has"),
        ("max_cpu", "200", "Write 200% with the percent sign"),
        ("max_cpu", "12.5%", "whole percent"),
        ("max_machines", "-1", "greater than or equal to 0"),
        ("networks", "lan", "“lan” is no network"),
        ("networks", "veth:x", "veth has no name"),
        ("networks", "bridge:", "bridge has no name behind the colon"),
        ("bind_sources", "srv/web", "absolute"),
        ("name_pattern", "a/b", "as names of machines have them"),
    ],
)
def test_what_cannot_be_is_said_on_its_field_and_nothing_changes(as_admin, share, field, typed, said):
    answer = as_admin.post(EDIT, {"max_machines": "3", field: typed})
    assert answer.status_code == 422
    assert said in text(answer)
    share.refresh_from_db()
    assert share.max_machines is None


def test_a_host_is_shared_from_its_own_page_or_the_team_s(as_admin, alpha):
    make.team("shop")
    page = text(as_admin.get("/hosts/alpha/teams/"))
    assert 'href="/teams/shop/share/?host=alpha"' in page
    assert f'<option value="{alpha.pk}" selected>alpha' in text(as_admin.get("/teams/shop/share/?host=alpha"))
    answer = as_admin.post("/teams/shop/share/", {"host": alpha.pk, "max_machines": "2"})
    assert answer.url == "/teams/shop/hosts/alpha/"
    assert HostShare.objects.get(team__slug="shop").max_machines == 2
    assert f'<option value="{alpha.pk}"' not in text(as_admin.get("/teams/shop/share/")), "it is shared already"
    assert as_admin.post("/teams/shop/share/", {"host": alpha.pk}).status_code == 422


def test_members_read_their_own_share_and_nothing_of_another_team(as_viewer, alpha):
    make.share(alpha, team="shop", max_memory=3 * GIB)
    HostShare.objects.filter(team__slug="ops").update(max_memory=2 * GIB)
    page = text(as_viewer.get("/hosts/alpha/teams/"))
    assert "Ops" in page
    assert "Shop" not in page
    assert "3 GiB" not in page.replace("\N{NO-BREAK SPACE}", " ")
    assert "0 B of 2 GiB" in text(as_viewer.get("/teams/ops/hosts/alpha/")).replace("\N{NO-BREAK SPACE}", " ")
    assert as_viewer.get("/teams/shop/hosts/alpha/").status_code == 404


def test_owners_change_no_quota(alpha):
    owner = make.client(make.user("olga", Role.OWNER))
    for address in (EDIT, "/teams/ops/share/", "/teams/ops/hosts/alpha/remove/"):
        assert owner.post(address, {"max_machines": "99"}).status_code == 403
    assert "Change quota" not in text(owner.get("/teams/ops/"))


def test_a_host_that_is_no_longer_shared_is_gone_for_the_team(as_admin, as_viewer, web):
    assert as_viewer.get("/hosts/alpha/teams/").status_code == 200
    assert "Its 1 machine there stays its and keeps running." in text(as_admin.get("/teams/ops/hosts/alpha/remove/"))
    assert as_admin.post("/teams/ops/hosts/alpha/remove/").status_code == 302
    assert as_viewer.get("/hosts/alpha/teams/").status_code == 404
    web.refresh_from_db()
    assert web.team.slug == "ops"


@pytest.mark.parametrize("number", [0, 1023, 1024, 1536 << 20, 8 << 30, 3 << 40])
def test_a_size_as_typed_is_the_same_size(number):
    typed = quota_words.size_as_typed(number)
    assert quota_words.values.size_in_bytes(typed) == number
