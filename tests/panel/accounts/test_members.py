"""The people of a team: added by name, given roles, removed, and gone by themselves; an owner is always left."""

import threading

import pytest
from django.db import OperationalError, connections

from machines.contract import orders
from machines.contract.permissions import Permission, Role
from machines.contract.problems import NotAllowed, Problem
from machines.models import Event, Job, Machine, Membership, User
from machines.panel.orders import dispatch
from machines.panel.people import members, roster, single_sign_on
from tests import make
from tests.pages import text

ADD = "/teams/ops/members/add/"


@pytest.fixture
def olga(db) -> User:
    return make.user("olga", Role.OWNER)


@pytest.fixture
def bob(olga) -> Membership:
    return make.member(make.user("bob", role=""), Role.VIEWER)


def member(name: str) -> Membership:
    return Membership.objects.get(user__username=name)


class TestAdd:
    def test_an_owner_adds_somebody_by_the_exact_name(self, olga):
        make.user("bob", role="")
        given = {"name": "bob", "role": "editor", "may_remove": "on"}
        page = text(make.client(olga).post(ADD, given, follow=True))
        assert "bob is now editor of Ops." in page
        assert (member("bob").role, member("bob").extra) == ("editor", [Permission.REMOVE])
        assert Event.objects.get().text == "olga added bob to Ops as editor with the right to remove."

    @pytest.mark.parametrize("typed", ["nobody", "Bob", "gone", "bo"])
    def test_a_name_that_is_none_and_one_that_is_disabled_read_alike(self, olga, typed):
        make.user("bob", role="")
        User.objects.filter(pk=make.user("gone", role="").pk).update(is_active=False)
        answer = make.client(olga).post(ADD, {"name": typed, "role": "viewer"})
        assert answer.status_code == 422
        assert "No such person, or not known to you." in answer.content.decode()
        assert Membership.objects.count() == 1

    def test_the_page_lists_nobody(self, olga):
        make.user("bob", role="")
        assert "bob" not in text(make.client(olga).get(ADD))

    def test_a_member_is_not_added_twice(self, olga, bob):
        answer = make.client(olga).post(ADD, {"name": "bob", "role": "owner"})
        assert answer.status_code == 422
        assert "bob already is a member, with the role viewer." in answer.content.decode()
        assert member("bob").role == Role.VIEWER

    @pytest.mark.parametrize("role", ["administrator", "", "king"])
    def test_a_role_that_is_none_of_a_team_is_refused(self, olga, role):
        make.user("bob", role="")
        assert make.client(olga).post(ADD, {"name": "bob", "role": role}).status_code == 422
        assert Membership.objects.count() == 1


class TestChange:
    def test_it_takes_effect_at_once_for_an_open_page(self, olga, bob):
        theirs = make.client(bob.user)
        assert theirs.get("/presets/new/").status_code == 403
        url = f"/teams/ops/members/{bob.pk}/"
        assert make.client(olga).post(url, {"role": "editor", "may_console": "on"}).status_code == 302
        assert theirs.get("/presets/new/").status_code == 200
        assert User.objects.get(username="bob").may_in(Permission.CONSOLE, bob.team_id)
        assert make.client(olga).post(url, {"role": "viewer"}).status_code == 302
        assert theirs.get("/presets/new/").status_code == 403

    def test_a_member_of_another_team_is_not_found_by_number(self, olga):
        other = make.member(make.user("eve", role=""), Role.VIEWER, team="shop")
        for what in ("", "remove/"):
            answer = make.client(olga).post(f"/teams/ops/members/{other.pk}/{what}", {"role": "owner"})
            assert answer.status_code == 404
        assert member("eve").role == Role.VIEWER

    def test_one_who_was_removed_meanwhile_is_said_to_be(self, olga, bob):
        Membership.objects.filter(pk=bob.pk).delete()
        with pytest.raises(Problem, match=r"bob is no member of Ops any more\."):
            members.change(bob, Role.EDITOR, may_console=False, may_remove=False, by=olga)


class TestLastOwner:
    def test_cannot_be_demoted_removed_or_leave(self, olga, as_admin):
        mine, owner = member("olga"), make.client(olga)
        said = "olga is the last owner of Ops. Make somebody else an owner first."
        for client in (owner, as_admin):
            for url, data in ((f"{mine.pk}/", {"role": "editor"}), (f"{mine.pk}/remove/", {})):
                answer = client.post(f"/teams/ops/members/{url}", data)
                assert answer.status_code == 409
                assert said in answer.content.decode()
        assert said in owner.post("/teams/ops/leave/").content.decode()
        assert member("olga").role == Role.OWNER
        assert not Event.objects.exists()

    def test_a_disabled_owner_is_none_to_rely_on_and_can_go(self, olga, as_admin):
        gone = make.member(make.user("gone", role=""), Role.OWNER)
        User.objects.filter(pk=gone.user_id).update(is_active=False)
        assert as_admin.post(f"/teams/ops/members/{member('olga').pk}/remove/").status_code == 409
        assert as_admin.post(f"/teams/ops/members/{gone.pk}/remove/").status_code == 302

    def test_with_another_owner_all_of_that_works(self, olga, bob):
        owner = make.client(olga)
        owner.post(f"/teams/ops/members/{bob.pk}/", {"role": "owner"})
        answer = owner.post("/teams/ops/leave/", follow=True)
        assert "You left Ops." in text(answer)
        assert Membership.objects.get().user.username == "bob"
        assert owner.get("/teams/ops/").status_code == 403


class TestRemove:
    def test_whoever_is_removed_sees_nothing_of_it_any_more(self, olga, bob, web):
        make.member(bob.user, Role.VIEWER, team="shop")
        theirs = make.client(bob.user)
        assert theirs.get("/hosts/alpha/machines/web/revisions/").status_code == 200
        page = text(make.client(olga).post(f"/teams/ops/members/{bob.pk}/remove/", follow=True))
        assert "bob removed from Ops." in page
        assert theirs.get("/hosts/alpha/machines/web/revisions/").status_code == 404
        assert theirs.get("/teams/ops/").status_code == 404

    def test_who_removes_itself_is_led_elsewhere(self, olga, bob):
        make.member(make.user("other", role=""), Role.OWNER)
        answer = make.client(olga).post(f"/teams/ops/members/{member('olga').pk}/remove/")
        assert answer.url == "/settings/profile/"

    def test_viewers_and_editors_manage_nobody(self, olga, bob):
        for role in (Role.VIEWER, Role.OPERATOR, Role.EDITOR):
            Membership.objects.filter(pk=bob.pk).update(role=role)
            client = make.client(bob.user)
            for url in (ADD, f"/teams/ops/members/{bob.pk}/", f"/teams/ops/members/{member('olga').pk}/remove/"):
                assert client.post(url, {"role": "owner", "name": "bob"}).status_code == 403
        with pytest.raises(NotAllowed):
            members.change(bob, Role.OWNER, may_console=True, may_remove=True, by=User.objects.get(username="bob"))
        assert member("olga").role == Role.OWNER


def at_last(act: str, theirs: Membership, me: User) -> None:
    """Of an SQLite in memory, as tests have it, nobody waits for its tables: who finds one locked comes again."""
    while True:
        try:
            if act == "leave":
                return members.leave(theirs.team, me)
            if act == "remove":
                return members.remove(theirs, by=me)
            return members.change(theirs, Role.VIEWER, may_console=False, may_remove=False, by=me)
        except OperationalError as error:
            if "table is locked" not in str(error):
                raise


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("act", ["remove", "demote", "leave"])
def test_of_two_owners_who_remove_each_other_at_once_one_is_left(act):
    """Again and again; on the database of the run, which is SQLite or PostgreSQL (test_postgresql.py)."""
    for _ in range(5):
        User.objects.all().delete()
        people = [make.user(name, Role.OWNER) for name in ("ann", "ben")]
        together, failed = threading.Barrier(2), []

        def run(me: User, other: User, together=together, failed=failed) -> None:
            theirs = Membership.objects.select_related("team", "user").get(user=other)
            together.wait(10)
            try:
                at_last(act, theirs, me)
            except Problem as problem:
                failed.append(problem)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=run, args=pair) for pair in (people, people[::-1])]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert Membership.objects.filter(role=Role.OWNER).count() == 1
        assert len(failed) == 1


class TestWaitingOrders:
    """The host is away; what was ordered meanwhile goes out with no more than its person is by then."""

    @pytest.fixture
    def ann(self, olga) -> Membership:
        return make.member(make.user("ann", role=""), Role.EDITOR)

    @pytest.fixture
    def web(self, olga) -> Machine:
        return make.machine("web", on=make.host())

    @pytest.mark.parametrize("how", ["removed", "left", "lowered", "by groups", "administrator no more"])
    def test_one_that_its_person_may_not_give_any_more_is_withdrawn_and_says_so(self, olga, ann, web, settings, how):
        if how == "administrator no more":
            ann.delete()
            User.objects.filter(pk=ann.user_id).update(is_administrator=True)
        waiting = dispatch.place(orders.Start(name="web"), on=web.host, by=User.objects.get(pk=ann.user_id))
        begun = make.job(orders.Start(name="db"), on=web.host, by=ann.user, state="running")
        match how:
            case "removed":
                members.remove(ann, by=olga)
            case "left":
                members.leave(ann.team, ann.user)
            case "lowered":
                members.change(ann, Role.VIEWER, may_console=False, may_remove=False, by=olga)
            case "by groups":
                settings.OIDC_TEAMS = "people=ops:editor"
                single_sign_on.follow(ann.user, single_sign_on.wanted([]))
            case _:
                roster.unmake_administrator(ann.user, by=make.user("ada", Role.ADMINISTRATOR))
        waiting.refresh_from_db()
        begun.refresh_from_db()
        assert (waiting.state, begun.state) == ("cancelled", "running")
        why = "Withdrawn: ann may not do this any more."
        assert why in text(make.client(olga).get(f"/jobs/{waiting.pk}/"))
        assert Event.objects.get(kind="job-ended").text.endswith(f"was cancelled (job {waiting.pk}): {why}")

    def test_one_that_was_sent_is_cancelled_at_its_host_by_the_panel(self, olga, ann, web):
        job = make.job(orders.Start(name="web"), on=web.host, by=ann.user, state="sent", sends=1)
        members.remove(ann, by=olga)
        job.refresh_from_db()
        assert job.state == "sent"
        assert job.cancel_asked_at
        assert (job.cancelled_by, job.cancelled_role) == ("courier", Role.ADMINISTRATOR)

    def test_one_that_its_person_still_may_give_goes_out_with_the_lower_role(self, olga, ann, web):
        job = dispatch.place(orders.Start(name="web"), on=web.host, by=ann.user)
        members.change(ann, Role.OPERATOR, may_console=True, may_remove=False, by=olga)
        job.refresh_from_db()
        assert (job.state, job.actor_role, job.actor_extra) == ("queued", Role.OPERATOR, ["console"])

    def test_one_that_is_placed_from_a_request_begun_before_is_refused(self, olga, ann, web):
        before = User.objects.get(pk=ann.user_id)
        assert before.grants
        members.change(ann, Role.VIEWER, may_console=False, may_remove=False, by=olga)
        with pytest.raises(NotAllowed, match="permission to operate"):
            dispatch.place(orders.Start(name="web"), on=web.host, by=before)
        assert not Job.objects.exists()
