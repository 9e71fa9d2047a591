"""What a unit is doing, as a list and a page tell it, and what they offer then."""

from datetime import timedelta

import pytest
from django.utils import timezone

from machines.contract import orders
from machines.models import Job
from machines.panel.pages import unit_activity
from tests import make

PAGE = "/hosts/alpha/machines/odd/"
RESTARTING = {
    "sub": "auto-restart",
    "restarts": 4,
    "ended": "exit status 1",
    "policy": "always",
    "part": "waiting for the next start",
}


@pytest.fixture
def odd(alpha):
    return lambda state, **activity: make.machine(
        "odd", on=alpha, state=state, activity=activity, unit="systemd-nspawn@odd.service", image_type="directory"
    )


def words(client, path: str) -> str:
    """The page without line breaks."""
    return " ".join(client.get(path).content.decode().split())


@pytest.mark.parametrize(
    ("number", "said"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (5, "5th"), (11, "11th"), (112, "112th"), (21, "21st")]
)
def test_numbers_as_people_say_them(number, said):
    assert unit_activity.nth(number) == said


def test_a_restarting_machine_says_which_attempt_and_why_in_the_list_and_can_be_stopped(as_admin, odd):
    odd("restarting", **RESTARTING)
    listed = words(as_admin, "/machines/")
    assert "5th attempt: exit status 1" in listed
    assert 'aria-label="Stop odd"' in listed


def test_its_page_says_so_too_with_the_next_start_and_a_stop(as_admin, odd):
    soon = timezone.now() + timedelta(seconds=40)
    machine = odd("restarting", **RESTARTING, next_start=soon.timestamp())
    type(machine).objects.update(why="Failed to stat /nowhere")
    page = words(as_admin, PAGE)
    assert "Restarting, 5th attempt" in page
    assert "Its last run ended with exit status 1. Its unit has Restart=always, so systemd restarts it." in page
    assert "Next start <relative-time" in page
    assert "Failed to stat /nowhere" in page
    assert f'href="{PAGE}confirm/poweroff/"' in page
    assert "Start at boot" not in page
    asked = words(as_admin, f"{PAGE}confirm/poweroff/")
    assert "Stop odd" in asked
    assert "so systemd does not restart it" in asked


def test_a_start_says_what_it_waits_for_and_how_long_it_may_take(as_admin, odd):
    odd("starting", says="waiting for slow.service to start (1 of 2)", part="ExecStart", start_limit=90.0)
    page = words(as_admin, PAGE)
    assert "Waiting for slow.service to start (1 of 2). Start timeout: 1 m 30 s." in page.replace("\u00a0", " ")
    assert "slow.service" in words(as_admin, "/machines/")
    assert "Stop odd" in words(as_admin, f"{PAGE}confirm/poweroff/")


def test_a_start_without_limit_says_that_nothing_limits_it(as_admin, odd):
    odd("starting", part="ExecStartPre")
    assert "ExecStartPre. No start timeout" in words(as_admin, PAGE)


def test_a_start_that_was_ordered_here_is_stopped_by_cancelling_its_job(as_admin, odd):
    machine = odd("starting", part="ExecStart")
    job = make.job(orders.Start(name="odd"), on=machine.host, state="running")
    assert f'href="/jobs/{job.pk}/cancel/confirm/"' in words(as_admin, PAGE)


def test_after_the_start_limit_reset_and_start_is_offered_and_old_words_are_told_as_old(as_admin, odd):
    odd("failed", refused=True, ended="exit status 1")
    page = words(as_admin, PAGE)
    assert "Start limit hit" in page
    assert f'action="{PAGE}reset/"' in page
    assert f'action="{PAGE}start/"' not in page
    listed = words(as_admin, "/machines/")
    assert "start limit hit" in listed
    assert 'aria-label="Reset and start odd"' in listed
    as_admin.post(f"{PAGE}reset/")
    assert Job.objects.get().order == {"op": "start", "name": "odd", "reset": True}


def test_what_cannot_work_is_said_and_not_offered(as_admin, odd):
    odd("running", cannot={"reboot": "Nothing would restart run-1.service."})
    page = words(as_admin, PAGE)
    assert "Nothing would restart run-1.service." in page
    assert "confirm/reboot/" not in page
    assert "confirm/poweroff/" in page
    answer = as_admin.post(f"{PAGE}reboot/")
    assert answer.status_code == 409
    assert not Job.objects.exists()


def test_a_virtual_machine_of_the_name_offers_no_way_to_end_it(as_admin, odd):
    odd("running", cannot=dict.fromkeys(("start", "poweroff", "reboot", "terminate"), "It is a virtual machine here."))
    page = words(as_admin, PAGE)
    assert "It is a virtual machine here." in page
    assert not any(f"confirm/{verb}/" in page for verb in ("poweroff", "reboot", "terminate"))
    assert 'aria-label="Power off odd"' not in words(as_admin, "/machines/")


def test_another_init_than_systemd_is_named_and_what_power_off_does_with_it(as_admin, odd):
    odd("running", init="bash")
    assert "not systemd: power off stops its unit" in words(as_admin, PAGE)
    assert "Its init is bash, not systemd" in words(as_admin, f"{PAGE}confirm/poweroff/")
    assert "stopped and started" in words(as_admin, f"{PAGE}confirm/reboot/")


def test_of_a_silent_hosts_machine_nothing_of_that_is_claimed(as_admin, odd, alpha):
    odd("restarting", **RESTARTING)
    type(alpha).objects.update(last_seen=timezone.now() - timedelta(hours=1))
    assert "attempt" not in words(as_admin, "/machines/")
    assert "Restarting" not in words(as_admin, PAGE)


def test_a_degraded_machine_names_the_units_that_failed_inside_and_counts_as_running(as_admin, odd):
    odd("degraded", failed=["shop.service", "x.mount"])
    page = words(as_admin, PAGE)
    assert "Degraded: units inside have failed" in page
    assert "shop.service, x.mount." in page
    assert "2 units failed" in words(as_admin, "/machines/")
    assert "1 running" in words(as_admin, "/hosts/alpha/")
