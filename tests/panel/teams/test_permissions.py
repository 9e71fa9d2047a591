"""What a person may do here, and why: the page says what authorize() does, for every pair."""

import re

import pytest

from machines.contract.permissions import Permission, Role
from machines.contract.problems import NotAllowed
from machines.models import Host, Membership, Team, User
from machines.panel.pages.teams import permission_page
from machines.panel.teams.authorize import authorize
from tests import make
from tests.pages import text

PAGE = "/permissions/"


@pytest.fixture
def cast(admin, web) -> dict[str, User]:
    """Every role in one team and another in a second, the rights beside roles, nobody at all, and a disabled owner."""
    make.machine("till", on=make.host("beta"), team=make.team("shop"))
    for role in (Role.VIEWER, Role.OPERATOR, Role.EDITOR, Role.OWNER):
        make.member(make.user(f"a-{role}", role), Role.VIEWER, team="shop")
        make.user(f"b-{role}", role, team="shop")
    make.member(make.user("more", role=""), Role.VIEWER, may_console=True, may_remove=True)
    make.user("none", role="")
    make.user("gone", Role.OWNER)
    User.objects.filter(username="gone").update(is_active=False)
    return {user.username: user for user in User.objects.all()}


def allows(person: User, right: Permission, team_id: int | None) -> bool:
    try:
        authorize(User.objects.get(pk=person.pk), right, team_id)
    except NotAllowed:
        return False
    return True


def cells(page: str) -> list[bool]:
    return [each == "yes" for each in re.findall(r'data-may="(yes|no)"', page)]


def test_page_and_truth_do_not_differ_for_any_pair(cast, as_admin):
    """As an administrator sees it: every person × (both teams, what is nobody's, both machines) × every right."""
    ops, shop = (Team.objects.get(slug=slug).pk for slug in ("ops", "shop"))
    seen = set()
    for person in cast.values():
        said = cells(text(as_admin.get(PAGE, {"person": person.username})))
        truth = [allows(person, right, team) for team in (ops, shop, None, shop, ops) for right in Permission]
        assert said == truth, person
        seen |= set(said)
    assert seen == {True, False}


def test_so_it_is_for_hosts(cast, admin):
    for person in cast.values():
        said = {host["name"] for host in permission_page.context(admin, person)["hosts"] if host["may"]}
        assert said == set(Host.objects.visible_to(User.objects.get(pk=person.pk)).values_list("name", flat=True)), (
            person
        )


def test_each_cell_names_the_grant(cast, as_admin):
    Membership.objects.update(since="2026-05-03T12:00:00Z")
    page = text(as_admin.get(PAGE, {"person": "more"}))
    assert "viewer of Ops, since 3 May 2026" in page
    assert "right to remove, given with the membership in Ops of 3 May 2026" in page
    assert "no: viewer of Ops does not include it" in page
    assert "no: not a member" in page
    assert "no: not an administrator of the installation" in page
    assert "administrator of the installation" in text(as_admin.get(PAGE))
    assert "no: the account is disabled" in text(as_admin.get(PAGE, {"person": "gone"}))


def test_everybody_sees_what_they_may_themselves(cast):
    page = text(make.client(cast["b-viewer"]).get(PAGE))
    assert "What you can do here, and why" in page
    assert "Shop" in page
    assert "Ops" not in page
    assert "beta" in page
    assert "alpha" not in page
    assert "No team, and so nothing." in text(make.client(cast["none"]).get(PAGE))


def test_owners_see_people_of_their_teams_and_only_what_concerns_those(cast):
    owner = make.client(cast["b-owner"])
    page = text(owner.get(PAGE, {"person": "a-editor"}))
    assert "viewer of Shop" in page
    assert "editor" not in page.replace("a-editor", "")
    assert "Ops" not in page
    for name in ("more", "ada", "nobody", "none"):
        assert owner.get(PAGE, {"person": name}).status_code == 404


@pytest.mark.parametrize("role", ["viewer", "operator", "editor"])
def test_others_see_nobody_but_themselves(cast, role):
    client = make.client(cast[f"b-{role}"])
    assert client.get(PAGE, {"person": "b-owner"}).status_code == 404
    assert client.get(PAGE, {"person": f"b-{role}"}).status_code == 200


def test_it_costs_few_queries(cast, as_admin, django_assert_max_num_queries):
    with django_assert_max_num_queries(9):
        as_admin.get(PAGE, {"person": "a-owner"})
