"""What a team may use of a host is refused before the order, with the numbers and on the field, whoever asks."""

import threading
from uuid import uuid4

import pytest
from django.db import connection

from machines.contract import orders, recipes
from machines.contract.permissions import Role
from machines.contract.quantities import NBSP
from machines.models import HostShare, Job, Machine, ObservedFiles, Revision
from machines.panel.configs import drafts
from machines.panel.images import builds, saved_recipes
from machines.panel.orders import dispatch
from machines.panel.teams import quotas, usage
from machines.panel.teams.quotas import QuotaExceeded
from tests import make
from tests.pages import text
from tests.panel.configs import cast
from tests.panel.configs.test_holds import OURS, UNIT, find
from tests.panel.machines.test_new import form

GIB = 1 << 30
NEW = "/machines/new/"


@pytest.fixture
def edith(db):
    return make.user("edith", Role.EDITOR)


@pytest.fixture
def as_edith(edith):
    return make.client(edith)


def limited(alpha, **quota) -> HostShare:
    HostShare.objects.filter(host=alpha).update(**quota)
    return HostShare.objects.get(host=alpha)


def running(name, alpha, **fields) -> Machine:
    machine = make.machine(name, on=alpha, state="running")
    cast.applied(machine, **fields)
    return machine


def said(answer) -> str:
    return " ".join(text(answer).replace(NBSP, " ").replace("\xa0", " ").split())


# --- a new machine


def test_more_memory_than_is_left_is_refused_on_its_field_with_the_numbers(as_edith, alpha):
    limited(alpha, max_memory=8 * GIB)
    running("db", alpha, memory_max="6G")
    answer = as_edith.post(NEW, form(memory_max="3G"))
    sentence = (
        "Other machines of team Ops have 6 GiB of its 8 GiB of memory on alpha; this asks for 3 GiB: 1 GiB too much."
    )
    assert answer.status_code == 422
    assert f'<a href="#id_memory_max">Memory limit</a>: {sentence} Lower the limit, or ask' in said(answer)
    assert not Job.objects.exists()
    assert not Machine.objects.filter(name="web").exists()
    assert not Revision.objects.filter(machine__name="web").exists()
    assert as_edith.post(NEW, form(memory_max="2G")).status_code == 302


@pytest.mark.parametrize(
    ("quota", "given", "field", "sentence"),
    [
        ({"max_memory": GIB}, {}, "id_memory_max", "Team Ops may use 1 GiB of memory on alpha, so each of its machines needs this limit."),
        ({"max_cpu": 200}, {}, "id_cpu_quota", "Team Ops may use 200 % of CPU time on alpha, so each of its machines needs this limit."),
        ({"max_cpu": 200}, {"cpu_quota": "300%"}, "id_cpu_quota", "this asks for 300 %: 100 % too much."),
        ({"max_memory": GIB}, {"memory_max": "50%"}, "id_memory_max", "this asks for 4 GiB: 3 GiB too much."),
        ({"max_memory": GIB}, {"memory_max": "infinity"}, "id_memory_max", "each of its machines needs this limit."),
        ({"max_machines": 1}, {}, "id_name", "Team Ops has 1 of 1 machines on alpha."),
        ({"max_disk": 5 * GIB}, {}, "id_host", "Images of team Ops take 5 GiB of 5 GiB on alpha."),
        ({"name_pattern": "ops-*"}, {}, "id_name", "Machines of team Ops on alpha are called ops-*."),
        ({"networks": ["veth", "zone:lab*"]}, {"network_mode": "host"}, "id_network_mode", "may not use the network host on alpha; allowed: veth, zone:lab*."),
        ({"networks": ["zone:lab*"]}, {"network_mode": "zone", "network_target": "prod"}, "id_network_target", "may not use the network zone:prod on alpha"),
        ({"bind_sources": ["/srv/ops"]}, {"binds-TOTAL_FORMS": "1", "binds-0-source": "/srv/opsx"}, "id_binds-0-source", "Team Ops may not bind /srv/opsx of alpha; allowed: /srv/ops."),
    ],
)  # fmt: skip
def test_a_new_machine_beyond_a_quota_is_refused_where_it_was_typed(as_edith, alpha, quota, given, field, sentence):
    alpha.facts["networkd"] = True
    alpha.save()
    machine = running("db", alpha, memory_max="0", cpu_quota="0%")
    Machine.objects.filter(pk=machine.pk).update(disk_bytes=5 * GIB)
    limited(alpha, **quota)
    answer = as_edith.post(NEW, form(**given))
    assert answer.status_code == 422, said(answer)[-3000:]
    assert sentence in said(answer)
    assert f'href="#{field}' in text(answer)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("quota", "given"),
    [
        ({"networks": ["zone"]}, {"network_mode": "zone", "network_target": "prod"}),
        ({"networks": ["zone:lab*"]}, {"network_mode": "zone", "network_target": "lab-1"}),
        ({"bind_sources": ["/srv/ops"]}, {"binds-TOTAL_FORMS": "1", "binds-0-source": "/srv/ops/data"}),
        ({"name_pattern": "w?b"}, {}),
        (
            {"max_machines": 1, "max_memory": GIB, "max_cpu": 50, "max_disk": 1},
            {"memory_max": "1G", "cpu_quota": "50%"},
        ),
    ],
)
def test_what_a_quota_allows_is_built(as_edith, alpha, quota, given):
    limited(alpha, **quota)
    assert as_edith.post(NEW, form(**given)).status_code == 302
    assert Machine.objects.get().team.slug == "ops"


def test_an_administrator_stays_within_the_quota_of_the_team_too(as_admin, alpha):
    limited(alpha, max_memory=GIB)
    answer = as_admin.post(NEW, form(team="ops", memory_max="2G"))
    assert answer.status_code == 422
    assert "1 GiB too much" in said(answer)
    assert as_admin.post(NEW, form(team="", memory_max="2G")).status_code == 302
    assert Machine.objects.get().team is None


def test_a_host_that_is_not_shared_to_the_team_is_refused(as_admin, alpha):
    make.team("lab")
    answer = as_admin.post(NEW, form(team="lab"))
    assert answer.status_code == 422
    assert "alpha is not shared to team Lab." in said(answer)


def test_it_is_said_before_anything_is_typed(as_edith, alpha):
    limited(alpha, max_memory=8 * GIB, max_machines=4, networks=["veth"])
    running("db", alpha, memory_max="6G")
    page = said(as_edith.get(NEW))
    for shown in ("Quota of team Ops on", "6 GiB of 8 GiB", "1 of 4", "Networks"):
        assert shown in page


# --- whose


def test_who_builds_in_several_teams_chooses(edith, as_edith, alpha):
    make.member(edith, Role.EDITOR, team="lab")
    make.member(edith, Role.VIEWER, team="sales")
    make.share(alpha, team="lab")
    page = text(as_edith.get(NEW))
    assert '<option value="lab"' in page
    assert '<option value="sales"' not in page
    assert "administrators only" not in page
    assert as_edith.post(NEW, form()).status_code == 422
    assert as_edith.post(NEW, form(team="sales")).status_code == 422
    assert as_edith.post(NEW, form(team="lab")).status_code == 302
    assert Machine.objects.get().team.slug == "lab"
    assert Job.objects.get().team.slug == "lab"


def test_who_builds_in_one_team_is_not_asked(as_edith, alpha):
    assert 'name="team" id="id_team"' not in text(as_edith.get(NEW)).replace('type="hidden" name="team"', "")


def test_of_another_teams_machine_only_the_name_is_told_to_be_taken(as_edith, alpha):
    make.machine("web", on=alpha, team=make.team("lab"), os="Secret OS", state="missing")
    answer = as_edith.post(NEW, form())
    assert answer.status_code == 422
    assert "On alpha the name web is taken by another team" in said(answer)
    assert "Secret OS" not in text(answer)


def test_a_machine_of_a_name_of_another_teams_removed_one_inherits_nothing(as_edith, alpha):
    lab = make.team("lab")
    old = make.machine("web", on=alpha, team=lab)
    cast.applied(old, memory_max="9G")
    make.job(orders.Remove(name="web"), on=alpha, team=lab, state="succeeded")
    old.forget()
    assert as_edith.post(NEW, form()).status_code == 302
    assert [revision.memory_max for revision in Machine.objects.get().revisions.all()] == [""]


# --- a machine that is there


@pytest.mark.parametrize(
    ("now", "asked", "refused"),
    [
        ("1G", "2G", ""),
        ("1G", "3G", "this asks for 3 GiB: 1 GiB too much."),
        ("4G", "3G", ""),  # the quota was lowered since: a step down
        ("4G", "4G", ""),
        ("1G", "", "each of its machines needs this limit."),
        ("", "3G", "this asks for 3 GiB: 1 GiB too much."),
        ("", "2G", ""),
    ],
)
def test_a_change_is_held_against_what_is_left(alpha, edith, now, asked, refused):
    limited(alpha, max_memory=8 * GIB)
    running("db", alpha, memory_max="6G")
    web = running("web", alpha, memory_max=now)
    cast.draft(web, edith, memory_max=asked)
    page = said(make.client(edith).get("/hosts/alpha/machines/web/config/review/"))
    assert (refused in page) if refused else ("too much" not in page)
    if not refused:
        assert drafts.apply(web, by=edith, seen=cast.stamp(web)).op == "apply"
        return
    with pytest.raises(QuotaExceeded) as raised:
        drafts.apply(web, by=edith, seen=cast.stamp(web))
    assert refused in f"{raised.value.message} {raised.value.hint}".replace(NBSP, " ")
    assert not Job.objects.exists()
    assert Revision.objects.get(state="draft").number is None


def test_a_press_of_apply_beyond_the_quota_says_the_numbers(alpha, as_edith, edith):
    limited(alpha, max_memory=2 * GIB)
    web = running("web", alpha, memory_max="1G")
    cast.draft(web, edith, memory_max="3G")
    sent = {"seen": cast.stamp(web), "press": str(uuid4())}
    answer = as_edith.post("/hosts/alpha/machines/web/config/apply/", sent, follow=True)
    assert "1 GiB too much" in said(answer)
    assert not Job.objects.exists()


def test_a_machine_without_a_limit_must_get_one_before_others_grow(alpha, edith):
    share = limited(alpha, max_memory=8 * GIB)
    found = make.machine("found", on=alpha)
    web = running("web", alpha, memory_max="1G")
    assert [each.message for each in quotas.findings(share, "web", "", "[Service]\nMemoryMax=2G\n")] == [
        "found of team Ops has no MemoryMax=, so what the team uses of alpha cannot be counted."
    ]
    ObservedFiles.objects.create(machine=found, shown={"MemoryMax": str(7 * GIB)})
    assert [*quotas.findings(share, "web", "", "[Service]\nMemoryMax=1G\n")] == []
    assert "too much" in next(quotas.findings(share, "web", "", "[Service]\nMemoryMax=2G\n")).message
    assert web.team_id == found.team_id


def test_lines_that_a_machine_has_are_not_held_against_it(alpha, edith):
    web = running("web", alpha)
    before = "[Network]\nPrivate=no\n[Files]\nBind=/opt/data\nOverlay=/opt/a:/opt/b:/x\n"
    Revision.objects.filter(pk=web.applied_id).update(nspawn_text=before)
    share = limited(alpha, networks=["veth"], bind_sources=["/srv"])
    assert [*quotas.findings(share, "web", before, "")] == []
    more = before.replace("Bind=/opt/data", "Bind=/opt/data\nBind=/srv/../etc\nOverlay=/srv/a:/opt/c:/y\nBindUser=ada")
    wrong = {each.value for each in quotas.findings(share, "web", more, "")}
    assert wrong == {"/srv/../etc", "/srv/a:/opt/c:/y", "ada"}


@pytest.mark.parametrize("line", ["Interface=eth1", "MACVLAN=eth0\nBridge=br0", "NamespacePath=/run/netns/x"])
def test_no_way_to_be_connected_goes_round_the_list(alpha, line):
    share = limited(alpha, networks=["veth", "none"])
    assert [*quotas.findings(share, "new", f"[Network]\n{line}\n", "")]


@pytest.mark.parametrize("key", ["MACVLAN", "IPVLAN"])
def test_a_pattern_of_nics_allows_each_of_a_line_by_itself(alpha, key):
    share = limited(alpha, networks=[f"{key.lower()}:lan*"])

    def wrong(value: str) -> list[str]:
        return [each.message for each in quotas.findings(share, "new", f"[Network]\n{key}={value}\n", "")]

    assert [wrong("lan0"), wrong("lan0 lan1:inside")] == [[], []]
    assert wrong("lan0 eth0") == [
        f"Team Ops may not use the network {key.lower()}:eth0 on alpha; allowed: {key.lower()}:lan*."
    ]
    assert wrong("eth0:lan0")
    assert len(wrong("lan0 eth0 eth1")) == 2


@pytest.mark.parametrize("says_it", ["share", "policy of the host"])
def test_files_that_nobody_counted_are_not_kept_for_a_new_machine(alpha, edith, says_it):
    if says_it == "share":
        limited(alpha, max_memory=GIB)
    else:
        alpha.facts["policy"] = {"teams": {"ops": {"max_memory": GIB}}}
        alpha.save()
    order = make.build_order("web").model_copy(
        update={"leftovers": "keep", "seen": [orders.SeenFile(path="/etc/x", sha256="a" * 64)]}
    )
    with pytest.raises(QuotaExceeded, match="cannot be kept"):
        quotas.check(alpha, make.team().pk, order)


ROOT = f"/etc/systemd/system/{UNIT}.d/10-root.conf"
ROOTS = "[Service]\nMemoryMax=1G\nCPUQuota=100%\n"
GOES = {"path": ROOT, "sha256": cast.sha(ROOTS)}
GOES_AT = "/hosts/alpha/machines/web/effective/remove-dropin/"


@pytest.mark.parametrize("says_it", ["share", "policy of the host"])
@pytest.mark.parametrize("quota", [{"max_memory": GIB}, {"max_cpu": 100}])
def test_a_drop_in_that_is_all_that_limits_a_machine_is_not_removed(as_edith, alpha, quota, says_it):
    find(make.machine("web", on=alpha), (ROOT, ROOTS), shown={"MemoryMax": str(GIB)})
    if says_it == "share":
        limited(alpha, **quota)
    else:
        alpha.facts["policy"] = {"teams": {"ops": quota}}
        alpha.save()
    answer = as_edith.post(GOES_AT, GOES)
    assert "own limits of web are all that holds. " in said(answer)
    assert not Job.objects.exists()


def test_a_drop_in_goes_where_ours_limits_the_same_within_the_quota(as_edith, alpha):
    limited(alpha, max_memory=GIB, max_cpu=100)
    machine = running("web", alpha, memory_max="1G", cpu_quota="100%")
    find(machine, (ROOT, ROOTS))
    as_edith.post(GOES_AT, GOES)
    assert not Job.objects.exists()  # applied once, and not on the host any more
    find(machine, (ROOT, ROOTS), (OURS, "[Service]\nMemoryMax=1G\nCPUQuota=200%\n"))
    as_edith.post(GOES_AT, GOES)
    assert not Job.objects.exists()
    find(machine, (ROOT, ROOTS), (OURS, "[Service]\nMemoryMax=1G\nCPUQuota=100%\n"))
    as_edith.post(GOES_AT, GOES)
    assert Job.objects.get().op == "remove_dropins"


@pytest.fixture
def built(alpha, edith) -> Job:
    """A build of the team's that has made a base image on alpha."""
    job = make.job(make.build_order(), on=alpha, by=edith, state="succeeded")
    alpha.facts["bases"] = [{"id": "0" * 16, "key": "k", "job": str(job.uuid)}]
    alpha.save()
    return job


def test_a_host_that_is_not_shared_any_more_builds_and_removes_no_base_image(as_edith, alpha, edith, built):
    recipe = saved_recipes.create(
        "Debian", "", recipes.DebianRecipe(release="trixie"), by=edith, team=make.team(), reason=""
    )
    failed = make.job(
        orders.BuildBase(recipe=recipes.DebianRecipe(release="trixie")), on=alpha, by=edith, state="failed"
    )
    HostShare.objects.all().delete()
    for address in (f"/jobs/{built.pk}/build-base/", f"/jobs/{failed.pk}/retry/", f"/recipes/{recipe.pk}/build-base/"):
        as_edith.post(address, {"host": "alpha"})
    for order in (orders.BuildBase(recipe=recipes.DebianRecipe(release="trixie")), orders.RemoveBase(base="0" * 16)):
        with pytest.raises(QuotaExceeded, match=r"^alpha is not shared to team Ops\.$"):
            dispatch.place(order, on=alpha, by=edith, team_id=make.team().pk)
    assert set(Job.objects.all()) == {built, failed}
    make.share(alpha)
    as_edith.post(f"/jobs/{built.pk}/build-base/")
    assert Job.objects.filter(op="build_base", state="queued").count() == 1


@pytest.mark.parametrize("says_it", ["share", "policy of the host"])
def test_a_base_image_is_not_built_on_a_disk_that_the_team_has_used_up(as_edith, alpha, built, says_it):
    make.machine("db", on=alpha, disk_bytes=5 * GIB)
    if says_it == "share":
        limited(alpha, max_disk=5 * GIB)
    else:
        alpha.facts["policy"] = {"teams": {"ops": {"max_disk": 5 * GIB}}}
        alpha.save()
    as_edith.post(f"/jobs/{built.pk}/build-base/")
    assert set(Job.objects.all()) == {built}
    Machine.objects.update(disk_bytes=4 * GIB)
    as_edith.post(f"/jobs/{built.pk}/build-base/")
    assert Job.objects.filter(op="build_base").count() == 1


def test_a_clone_takes_at_least_what_its_original_does(alpha):
    make.machine("db", on=alpha, disk_bytes=3 * GIB)
    assert quotas.image_size(recipes.CloneRecipe(source="db"), alpha) == 3 * GIB


def test_a_retry_is_held_against_the_quota_of_today(alpha, edith):
    with_key = form(memory_max="2G")
    make.client(edith).post(NEW, with_key)
    job = Job.objects.get()
    Job.objects.update(state="failed")
    Revision.objects.get().mark_draft()
    Machine.objects.get().forget()
    limited(alpha, max_memory=GIB)
    job.refresh_from_db()
    with pytest.raises(QuotaExceeded, match="too much"):
        builds.again(job, by=edith)
    assert Job.objects.count() == 1
    limited(alpha, max_memory=2 * GIB)
    job = Job.objects.get()
    assert builds.again(job, by=edith).team_id == job.team_id
    assert Machine.objects.get().team_id == job.team_id


@pytest.mark.skipif(
    connection.vendor == "sqlite", reason="one process's memory has no two writers; on PostgreSQL it runs"
)
@pytest.mark.django_db(transaction=True)
def test_two_presses_at_once_do_not_both_take_the_last_of_it():
    alpha, edith = make.host("alpha"), make.user("edith", Role.EDITOR)
    share = limited(alpha, max_memory=2 * GIB)
    together, ends = threading.Barrier(4), []

    def press(number: int) -> None:
        client = make.client(edith)
        together.wait()
        try:
            ends.append(client.post(NEW, form(name=f"web-{number}", memory_max="1G")).status_code)
        finally:
            connection.close()

    presses = [threading.Thread(target=press, args=[number]) for number in range(4)]
    for one in presses:
        one.start()
    for one in presses:
        one.join(60)
    assert sorted(ends) == [302, 302, 422, 422]
    assert Job.objects.count() == Machine.objects.count() == 2
    assert usage.used(share).memory == 2 * GIB
