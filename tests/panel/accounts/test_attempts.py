"""Wrong passwords: strangers slow themselves, and nobody else."""

import re
from datetime import timedelta

import pytest
import time_machine
from django.db import connection
from django.test import Client, RequestFactory
from django.utils import timezone

from machines.models import Attempts
from machines.panel.web import attempts, devices
from tests import make

PASSWORD, WRONG = "correct horse battery", "staple staple 9"
HOME, CAFE = "192.0.2.7", "198.51.100.9"


@pytest.fixture(autouse=True)
def _no_time_passes(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    with time_machine.travel(timezone.now(), tick=False):
        yield


@pytest.fixture
def eve(db):
    return make.user("eve", password=PASSWORD)


def sign_in(password: str, *, at: str = HOME, name: str = "eve", browser: Client | None = None):
    return (browser or Client()).post("/accounts/login/", {"login": name, "password": password}, REMOTE_ADDR=at)


def fail(times: int, **how) -> list[int]:
    return [sign_in(WRONG, **how).status_code for _ in range(times)]


def test_after_five_wrong_passwords_the_page_says_how_many_seconds_to_wait(eve):
    assert fail(5) == [200] * 5
    answer = sign_in(PASSWORD)
    assert answer.status_code == 429
    seconds = re.search(r"Too many wrong passwords\. Try again in (\d+) seconds?\.", answer.content.decode())
    assert seconds
    assert 1 <= int(seconds[1]) <= attempts.FIRST
    assert int(answer.headers["Retry-After"]) == int(seconds[1])


def test_whoever_tries_while_another_attempt_is_being_booked_waits_for_nothing(eve):
    asked = RequestFactory().post("/", REMOTE_ADDR=HOME)
    attempts.book(asked, "eve")
    others = iter([True])

    def after_another(execute, sql, params, many, context):
        if next(others, False):
            clock.shift(0.01)
            attempts.book(asked, "eve")
        return execute(sql, params, many, context)

    with time_machine.travel(timezone.now(), tick=False) as clock, connection.execute_wrapper(after_another):
        attempts.book(asked, "eve")
    assert {row.count for row in Attempts.objects.all()} == {3}


def test_strangers_lock_nobody_out_who_comes_from_elsewhere(eve):
    fail(40, at=CAFE)
    assert sign_in(PASSWORD, at=HOME).status_code == 302


def test_a_browser_that_signed_in_before_gets_in_from_the_address_of_strangers(eve):
    browser = Client()
    sign_in(PASSWORD, browser=browser)
    browser.post("/accounts/logout/")
    fail(40)
    assert sign_in(PASSWORD).status_code == 429
    assert sign_in(PASSWORD, browser=browser).status_code == 302


def test_each_sign_in_gives_the_browser_a_new_mark(eve):
    browser = Client()
    marks = set()
    for _ in range(2):
        sign_in(PASSWORD, browser=browser)
        marks.add(browser.cookies["device"].value)
        browser.post("/accounts/logout/")
    assert len(marks) == 2
    assert browser.cookies["device"]["httponly"]


def test_a_marked_browser_that_guesses_waits_too(eve):
    browser = Client()
    sign_in(PASSWORD, browser=browser)
    browser.post("/accounts/logout/")
    assert fail(6, browser=browser)[-1] == 429


@pytest.mark.parametrize("how", ["of another person", "older than the password", "made up", "far too long"])
def test_a_mark_that_is_not_of_this_person_and_password_is_none(eve, how):
    mark = {"made up": "x:y:z", "far too long": "x" * 100_000}.get(how) or devices.cookie(eve)
    if how == "of another person":
        mark = devices.cookie(make.user("mallory", password=PASSWORD))
    if how == "older than the password":
        eve.set_password("another horse battery")
        eve.save()
    request = RequestFactory().get("/")
    request.COOKIES["device"] = mark
    assert devices.known(request, "eve") == ""


def test_a_new_password_keeps_only_the_browser_where_it_was_chosen(eve):
    here, there = Client(), Client()
    for browser in (here, there):
        sign_in(PASSWORD, browser=browser)
    fields = {"oldpassword": PASSWORD, "password1": WRONG, "password2": WRONG}
    assert here.post("/accounts/password/change/", fields).status_code == 302
    for browser, kept in ((here, True), (there, False)):
        request = RequestFactory().get("/")
        request.COOKIES["device"] = browser.cookies["device"].value
        assert bool(devices.known(request, "eve")) is kept


def test_names_that_are_nobodys_wait_in_the_same_words(eve):
    fail(5, name="eve")
    fail(5, name="nobody", at=CAFE)
    said = [sign_in(WRONG, name=name, at=at) for name, at in (("eve", HOME), ("nobody", CAFE))]
    assert [each.status_code for each in said] == [429, 429]
    assert all("Too many wrong passwords" in each.content.decode() for each in said)


def test_one_address_that_tries_many_names_waits_for_all_of_them(eve):
    answers = [sign_in(WRONG, name=f"name{n}").status_code for n in range(attempts.ADDRESS)]
    assert answers == [200] * attempts.ADDRESS
    assert sign_in(WRONG, name="yet-another").status_code == 429


def test_what_a_sender_claims_to_be_forwarded_for_is_not_its_address(eve):
    for n in range(5):
        Client().post(
            "/accounts/login/", {"login": "eve", "password": WRONG}, REMOTE_ADDR=HOME, HTTP_X_FORWARDED_FOR=f"203.0.113.{n}"
        )  # fmt: skip
    assert sign_in(PASSWORD).status_code == 429


@pytest.mark.parametrize(
    ("address", "stands_for"),
    [
        ("192.0.2.7", ["192.0.2.7"]),
        ("::ffff:192.0.2.7", ["192.0.2.7"]),
        ("2001:db8:1:2:3:4:5:6", ["2001:db8:1:2::/64", "2001:db8:1::/48"]),
        ("fe80::1%eth0", ["fe80::/64", "fe80::/48"]),
        ("", ["unknown"]),
    ],
)
def test_what_stands_for_an_address(address, stands_for):
    assert attempts.network(address) == stands_for


def test_the_wait_doubles_up_to_five_minutes_and_is_forgotten_after_an_hour(eve):
    waits = [attempts.wait_after(n, 5) for n in range(4, 13)]
    assert waits == [0, 5, 10, 20, 40, 80, 160, 300, 300]
    fail(5)
    Attempts.objects.update(last=timezone.now() - timedelta(hours=2), until=timezone.now() - timedelta(hours=2))
    assert fail(5) == [200] * 5


def test_attempts_while_one_has_to_wait_do_not_make_the_wait_longer(eve):
    fail(5)
    before = list(Attempts.objects.order_by("pk").values_list("count", "until"))
    fail(3)
    assert list(Attempts.objects.order_by("pk").values_list("count", "until")) == before


def test_the_right_password_costs_nothing(eve):
    for _ in range(8):
        assert sign_in(PASSWORD).status_code == 302
    assert set(Attempts.objects.values_list("count", flat=True)) == {0}


def test_no_count_of_a_clock_that_was_put_back_holds_anybody(eve):
    fail(5)
    Attempts.objects.update(until=timezone.now() + timedelta(days=2))
    assert sign_in(PASSWORD).status_code == 302


def test_the_counts_are_bounded_whoever_tries(eve, monkeypatch):
    monkeypatch.setattr(attempts, "MOST", 20)
    for n in range(30):
        sign_in(WRONG, name=f"n{n}", at=f"198.51.100.{n}")
    assert Attempts.objects.count() <= 20


@pytest.mark.parametrize(("path", "field"), [("password/change/", "oldpassword"), ("reauthenticate/", "password")])
def test_whoever_sits_at_a_signed_in_browser_cannot_guess_the_password_for_long(eve, path, field):
    browser = Client()
    browser.force_login(eve)
    fields = {field: WRONG, "password1": "another horse 9", "password2": "another horse 9"}
    answers = [browser.post(f"/accounts/{path}", fields).status_code for _ in range(6)]
    assert answers == [200] * 5 + [429]
    assert sign_in(PASSWORD).status_code == 302
