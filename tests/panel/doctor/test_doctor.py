"""The doctor's pages: what was found in words, what mends it, and who may press what."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.contract.configuration.findings import WORDS
from machines.models import Job
from machines.panel.pages import doctor_page
from tests import make
from tests.pages import text

HOST, MACHINE = "/hosts/alpha/doctor/", "/hosts/alpha/machines/web/doctor/"
HTMX = {"HX-Request": "true"}
HOSTILE = '<script>alert("x")</script>'


def examined(alpha, found: list[dict], name: str = "", **fields) -> Job:
    now = timezone.now()
    result = {"findings": found, "at": now.timestamp()} | fields.pop("result", {})
    return make.job(
        orders.Diagnose(name=name), on=alpha, **{"state": "succeeded", "result": result, "finished_at": now} | fields
    )


def test_a_host_not_examined_yet_offers_it(as_admin, as_viewer, alpha):
    assert "No diagnostics yet" in text(as_admin.get(HOST))
    assert 'action="/hosts/alpha/doctor/diagnose/"' in text(as_admin.get(HOST))
    assert as_viewer.get(HOST).status_code == 403


@pytest.mark.parametrize(("path", "name"), [(HOST, ""), (MACHINE, "web")])
def test_pressing_examine_places_the_order(as_admin, alpha, web, path, name):
    answer = as_admin.post(f"{path}diagnose/")
    assert (answer.status_code, answer.url) == (302, path)
    [job] = Job.objects.all()
    assert (job.op, job.machine_name, job.order) == ("diagnose", name, {"op": "diagnose", "name": name})
    assert "Running diagnostics" in text(as_admin.get(path))


def test_a_second_press_is_the_same_order(as_admin, alpha):
    as_admin.post(f"{HOST}diagnose/")
    as_admin.post(f"{HOST}diagnose/")
    assert Job.objects.count() == 1


def test_htmx_gets_the_part_back(as_admin, web):
    answer = as_admin.post(f"{MACHINE}diagnose/", headers=HTMX | {"HX-Target": "doctor"})
    assert text(answer).lstrip().startswith('<div id="doctor"')
    assert "toast" in answer.headers["HX-Trigger"]


def test_it_says_what_was_found_what_it_means_and_the_command(as_admin, alpha):
    alpha.clock_skew = 0.1
    alpha.save()
    examined(alpha, [{"code": "networkd-stopped", "can_fix": True}, {"code": "tools-there"}])
    page = text(as_admin.get(HOST))
    assert "systemd-networkd does not run on the host" in page
    assert "Without it they have neither." in page
    assert "<code" in page
    assert "systemctl enable --now systemd-networkd.service" in page
    assert "<b>1 problem</b>" in page
    assert "2 OK" in page  # the tools and the clock
    assert "fix/networkd/" in page


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        (["tools-there"], "No problems found."),
        (["tools-there", "check-failed"], "No problems found, but 1 check could not be run."),
        (["check-failed", "nat-unread"], "No problems found, but 2 checks could not be run."),
        (["networkd-stopped", "disk-low", "check-failed"], "1 problem and 1 warning</b>, 1 unknown, 1 OK."),
    ],
)
def test_nothing_is_called_in_order_while_something_could_not_be_checked(as_admin, alpha, codes, verdict):
    alpha.clock_skew = 0.1
    alpha.save()
    examined(alpha, [{"code": code} for code in codes])
    page = text(as_admin.get(HOST))
    assert verdict in page
    assert ("No problems found." in page) is (codes == ["tools-there"])


def test_a_mend_is_a_button_only_where_the_host_calls_it_safe(as_admin, alpha):
    examined(alpha, [{"code": "networkd-stopped", "can_fix": False}])
    assert "fix/networkd/" not in text(as_admin.get(HOST))
    examined(alpha, [{"code": "networkd-stopped", "can_fix": True}])
    assert "Start and enable systemd-networkd" in text(as_admin.get(HOST))
    examined(alpha, [{"code": "link-down", "can_fix": True}])  # nothing that has a mend
    assert "/fix/" not in text(as_admin.get(HOST))


def test_one_fix_for_several_findings_is_one_button(as_admin, web):
    lost = [
        {"code": code, "can_fix": True, "facts": {"port": port}}
        for code, port in (("masquerade-off", ""), ("port-lost", "tcp 80"), ("port-lost", "tcp 81"))
    ]
    examined(web.host, lost, "web")
    page = text(as_admin.get(MACHINE))
    assert page.count('/fix/nat/"') == 2  # the form's own address, with htmx and without
    assert page.index("NAT (masquerade) is off") < page.index("/fix/nat/") < page.index("tcp 80")


@pytest.mark.parametrize(("path", "name", "what"), [(HOST, "", "networkd"), (MACHINE, "web", "guest-networkd")])
def test_pressing_it_places_the_order(as_admin, alpha, web, path, name, what):
    assert as_admin.post(f"{path}fix/{what}/").status_code == 302
    assert Job.objects.get().order == {"op": "fix", "name": name, "what": what}


def test_nothing_else_can_be_mended(as_admin, alpha, web):
    assert as_admin.post(f"{HOST}fix/reboot/").status_code == 404
    assert as_admin.post(f"{MACHINE}fix/..%2Fx/").status_code == 404
    assert not Job.objects.exists()


def test_another_job_of_the_machine_is_named(as_admin, web, admin):
    make.job(orders.Start(name="web"), on=web.host, by=admin, state="running")
    assert as_admin.post(f"{MACHINE}diagnose/").status_code == 409


def test_it_says_why_a_machine_has_no_address(as_viewer, web):
    chain = [{"code": "networkd-runs"}, {"code": "link-down-inside", "facts": {"link": "ve-web"}},
             {"code": "inside-masked", "facts": {"name": "web"}}, {"code": "address-none"}]  # fmt: skip
    examined(web.host, chain, "web")
    page = text(as_viewer.get(MACHINE))
    assert "Why it has no address:</b> systemd-networkd is masked inside." in page
    assert "systemctl --machine=web unmask systemd-networkd.service" in page


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        (["networkd-stopped", "link-down", "address-none"], WORDS["networkd-stopped"].title),
        (["link-down", "address-local"], "veth link is down: ? on the host"),
        (["address-none"], "every part of the network path is OK; it may still be waiting for DHCP"),
        (["inside-off", "address-has"], ""),
    ],
)
def test_the_cause_is_no_consequence(codes, cause):
    found = [doctor_page.Finding(code=code) for code in codes]
    assert doctor_page.cause(found) == cause


@pytest.mark.parametrize("found", [None, "x", [{"code": "link-up", "facts": {"link": "x" * 999}}], [[]]], ids=str)
def test_what_a_host_says_amiss_is_not_shown(as_viewer, web, found):
    examined(web.host, found, "web")
    assert "cannot be read" in text(as_viewer.get(MACHINE))


def test_what_a_hostile_host_says_stays_text(as_viewer, web):
    found = {"code": "link-down", "facts": {"link": HOSTILE}}
    examined(web.host, [found], "web", problem={"message": HOSTILE})
    page = text(as_viewer.get(MACHINE))
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_the_last_that_succeeded_is_shown_under_one_that_failed(as_admin, alpha):
    examined(alpha, [{"code": "tools-there"}])
    make.job(orders.Diagnose(), on=alpha, state="failed", problem={"message": "The bus is away.", "hint": ""})
    page = text(as_admin.get(HOST))
    assert "Diagnostics failed" in page
    assert "The bus is away." in page
    assert "All tools are installed" in page


def test_of_a_silent_host_nothing_is_asked(as_admin):
    make.host("beta", last_seen=timezone.now() - timedelta(hours=1))
    page = text(as_admin.get("/hosts/beta/doctor/"))
    assert "beta is not responding" in page
    assert "diagnose/" not in page


@pytest.mark.parametrize(
    ("skew", "said"),
    [(None, ""), (0.4, "Clocks of host and panel agree"), (-90.2, "The host's clock is 90 s behind the panel's"),
     (300.0, "The host's clock is 300 s ahead of the panel's")],
)  # fmt: skip
def test_how_the_clock_stands_now_is_said_whenever_the_rest_was_looked_at(as_admin, alpha, skew, said):
    alpha.clock_skew = skew
    alpha.save()
    examined(alpha, [{"code": "tools-there"}], finished_at=timezone.now() - timedelta(days=2))
    page = text(as_admin.get(HOST)).replace("&#x27;", "'")
    assert said in page
    assert ("clock is" in page or "Clocks of host and panel agree" in page) == bool(said)


def test_the_live_part_answers_nothing_when_nothing_changed(as_admin, alpha):
    first = as_admin.get(HOST, headers=HTMX)
    assert as_admin.get(f"{HOST}?v={first.context['seen']}", headers=HTMX).status_code == 204


def test_the_live_part_follows_the_clock(as_admin, alpha):
    examined(alpha, [{"code": "tools-there"}])
    first = as_admin.get(HOST, headers=HTMX)
    alpha.clock_skew = -90.0
    alpha.save()
    assert "90 s behind" in text(as_admin.get(f"{HOST}?v={first.context['seen']}", headers=HTMX))


def test_it_costs_few_queries(as_viewer, web, django_assert_max_num_queries):
    examined(web.host, [{"code": "tools-there"}], "web")
    with django_assert_max_num_queries(5):
        as_viewer.get(MACHINE)


def test_a_machine_without_an_address_leads_here(as_viewer, alpha):
    make.machine("lost", on=alpha, state="running")
    assert 'href="/hosts/alpha/machines/lost/doctor/">Why?' in text(as_viewer.get("/hosts/alpha/machines/lost/"))


@pytest.mark.parametrize(("order", "leads"), [(orders.Diagnose(), HOST), (orders.Diagnose(name="web"), MACHINE),
                                              (orders.LimitTest(name="web"), "/hosts/alpha/machines/web/limit-test/")])  # fmt: skip
def test_the_job_leads_to_what_it_found(as_viewer, web, order, leads):
    job = make.job(order, on=web.host, state="succeeded")
    assert f'href="{leads}"' in text(as_viewer.get(f"/jobs/{job.pk}/"))
