"""Codes of an authenticator app and recovery codes: asked for, counted, used once, and sealed where they lie."""

import json
import re
import time

import pytest
import time_machine
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, hotp_value
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.utils import timezone
from nacl.exceptions import CryptoError

from machines.panel.people.second_factor import SecondFactor
from machines.panel.web import attempts
from tests import make
from tests.pages import text

PASSWORD, SECRET = "correct horse battery", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
CODE_PAGE, SECURITY = "/settings/security/authenticate/", "/settings/security/"


@pytest.fixture(autouse=True)
def _no_time_passes(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    with time_machine.travel(timezone.now(), tick=False):
        yield
    cache.clear()


@pytest.fixture
def eve(db):
    eve = make.user("eve", password=PASSWORD)
    TOTP.activate(eve, SECRET)
    RecoveryCodes.activate(eve)
    return eve


def code(at: float = 0) -> str:
    """What the app shows, `at` seconds from now."""
    return format_hotp_value(hotp_value(SECRET, int(time.time() + at) // 30))


def wrong() -> str:
    """A code that is none of the three that hold now."""
    return next(each for each in ("000000", "111111", "222222", "333333") if each not in {code(-30), code(), code(30)})


def after_password(at: str = "192.0.2.7") -> Client:
    browser = Client(REMOTE_ADDR=at)
    answer = browser.post("/accounts/login/", {"login": "eve", "password": PASSWORD})
    assert answer.url.startswith(CODE_PAGE)
    return browser


def is_signed_in(browser: Client) -> bool:
    return browser.get("/machines/").status_code == 200


def test_a_password_alone_signs_nobody_in(eve):
    browser = after_password()
    assert not is_signed_in(browser)
    assert browser.post(CODE_PAGE, {"code": code()}).status_code == 302
    assert is_signed_in(browser)


@pytest.mark.parametrize("off", [-30, 0, 30])
def test_a_phone_s_clock_may_be_off_by_half_a_minute(eve, off):
    browser = after_password()
    browser.post(CODE_PAGE, {"code": code(off)})
    assert is_signed_in(browser)


def test_a_code_of_two_minutes_ago_is_refused(eve):
    browser = after_password()
    assert "not correct" in text(browser.post(CODE_PAGE, {"code": code(-120)}))
    assert not is_signed_in(browser)


def test_a_code_works_once_whichever_process_sees_it(eve):
    seen = code()
    after_password().post(CODE_PAGE, {"code": seen})
    cache.clear()  # that of another web process is empty
    thief = after_password()
    thief.post(CODE_PAGE, {"code": f" {seen[:3]} {seen[3:]} "})
    assert not is_signed_in(thief)


def test_a_recovery_code_signs_in_once(eve):
    spare = Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes()[0]
    first, second = after_password(), after_password()
    for browser in (first, second):
        browser.post(CODE_PAGE, {"code": spare})
    assert (is_signed_in(first), is_signed_in(second)) == (True, False)


def test_whoever_has_the_password_cannot_try_codes_for_long_from_however_many_addresses(eve):
    answers = [
        after_password(at=f"198.51.100.{n}").post(CODE_PAGE, {"code": wrong()}).status_code
        for n in range(attempts.CODE + 1)
    ]
    assert answers == [200] * attempts.CODE + [429]
    answer = after_password(at="203.0.113.1").post(CODE_PAGE, {"code": code()})
    assert answer.status_code == 429
    assert re.search(r"Too many wrong codes\. Try again in \d+ seconds?\.", text(answer))
    assert 1 <= int(answer.headers["Retry-After"]) <= attempts.FIRST


def test_a_browser_that_signed_in_before_is_not_kept_out_by_them(eve):
    mine = after_password()
    mine.post(CODE_PAGE, {"code": code()})
    mine.post("/accounts/logout/")
    for _ in range(attempts.CODE):
        after_password(at="198.51.100.9").post(CODE_PAGE, {"code": wrong()})
    mine.post("/accounts/login/", {"login": "eve", "password": PASSWORD})
    mine.post(CODE_PAGE, {"code": code(30)})
    assert is_signed_in(mine)


def test_whoever_sits_at_a_signed_in_browser_cannot_guess_codes_to_confirm_it_is_them(eve):
    browser = make.client(eve, minutes_ago=20)
    answers = [browser.post(f"{SECURITY}reauthenticate/", {"code": wrong()}).status_code for _ in range(6)]
    assert answers == [200] * 5 + [429]


def test_a_disabled_person_is_told_so_and_stays_out(eve):
    browser = after_password()
    eve.is_active = False
    eve.save()
    browser.post(CODE_PAGE, {"code": code()})
    assert not is_signed_in(browser)
    again = Client().post("/accounts/login/", {"login": "eve", "password": PASSWORD}, follow=True)
    assert "This account is disabled" in text(again)
    assert "session" not in again.client.cookies or not is_signed_in(again.client)


def test_neither_the_key_of_the_app_nor_the_seed_of_the_codes_lies_in_the_database(eve):
    with connection.cursor() as cursor:
        cursor.execute("SELECT data FROM mfa_authenticator")
        rows = " ".join(str(row[0]) for row in cursor.fetchall())
    assert SECRET not in rows
    seed = SecondFactor().decrypt(Authenticator.objects.get(type="recovery_codes").data["seed"])
    assert len(seed) == 80
    assert seed not in rows


def test_with_the_key_before_in_the_fallbacks_codes_still_work(eve, settings):
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another"
    browser = after_password()
    browser.post(CODE_PAGE, {"code": code()})
    assert is_signed_in(browser)
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(CryptoError, match="SECRET_KEY"):
        SecondFactor().decrypt(Authenticator.objects.get(type="totp").data["secret"])


def test_setting_up_an_app_shows_a_picture_and_gives_recovery_codes(db):
    person = make.client(make.user("vera", password=PASSWORD))
    page = text(person.get(f"{SECURITY}totp/activate/"))
    assert 'src="data:image/svg+xml;base64,' in page
    secret = re.search(r'<code id="totp-secret"[^>]*>([A-Z2-7]{32})</code>', page)
    assert secret
    now = format_hotp_value(hotp_value(secret[1], int(time.time()) // 30))
    answer = person.post(f"{SECURITY}totp/activate/", {"code": now}, follow=True)
    codes = re.search(r'<pre id="recovery-codes">([\d\n]+)</pre>', answer.content.decode())
    assert codes
    assert len(codes[1].split()) == 10
    assert person.get(f"{SECURITY}recovery-codes/download/").content.decode().split() == codes[1].split()


@pytest.mark.parametrize(
    "page", ["totp/activate/", "totp/deactivate/", "recovery-codes/", "recovery-codes/generate/", "webauthn/add/"]
)
def test_nothing_of_it_is_shown_or_changed_by_who_signed_in_a_while_ago(eve, page):
    Authenticator.objects.filter(type="totp").delete() if page == "totp/activate/" else None
    answer = make.client(eve, minutes_ago=16).get(SECURITY + page)
    assert answer.status_code == 302
    assert answer.url.startswith("/accounts/reauthenticate/?next=")


HOSTILE = ["", "{", "[]", "1", "null", '"x"', "{}", '{"id": 1}', '{"response": []}', '{"response": {"userHandle": 7}}',
           json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "clientExtensionResults": {},
                       "response": {"clientDataJSON": "e30", "authenticatorData": "AA", "signature": "AA", "userHandle": "MQ",
                                    "attestationObject": "oA"}}),
           json.dumps({"id": "AA", "rawId": "====", "type": "public-key", "response": {"clientDataJSON": {}, "userHandle": "\ud800"}}),
           "x" * 100_000]  # fmt: skip


@pytest.mark.parametrize("credential", HOSTILE, ids=range(len(HOSTILE)))
def test_a_passkey_that_is_none_is_refused_in_words(eve, credential):
    stranger, second, signed_in = Client(), after_password(), make.client(eve)
    stranger.get(f"{SECURITY}webauthn/login/", headers={"X-Requested-With": "XMLHttpRequest"})
    for browser in (second, signed_in):
        browser.get(CODE_PAGE if browser is second else f"{SECURITY}webauthn/add/")
    sent = {"credential": credential, "name": "x"}
    answer = stranger.post(f"{SECURITY}webauthn/login/", sent, follow=True)
    assert "passkey was not accepted" in text(answer)
    assert "passkey was not accepted" in text(second.post(CODE_PAGE, sent))
    assert "passkey was not accepted" in text(signed_in.post(f"{SECURITY}webauthn/add/", sent))
    assert not is_signed_in(stranger)
    assert not Authenticator.objects.filter(type="webauthn").exists()


def test_strangers_who_ask_for_passkeys_without_end_wait_and_are_told(db):
    ask = {"headers": {"X-Requested-With": "XMLHttpRequest"}, "REMOTE_ADDR": "198.51.100.9"}
    answers = [Client().get(f"{SECURITY}webauthn/login/", **ask) for _ in range(attempts.PASSKEYS + 1)]
    assert [each.status_code for each in answers] == [200] * attempts.PASSKEYS + [429]
    assert "Try again in" in answers[-1].json()["error"]
    assert Client().get(f"{SECURITY}webauthn/login/", headers=ask["headers"]).status_code == 200
