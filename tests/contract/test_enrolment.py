from base64 import b64encode, urlsafe_b64decode
from uuid import uuid4

import pytest
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.contract import enrolment, envelope
from machines.contract.enrolment import Token
from machines.contract.problems import BadValue, EnvelopeRefused

PANEL, SIGN, BOX = SigningKey.generate(), SigningKey.generate(), PrivateKey.generate()
SECRET = enrolment.Secret(redis_url="redis://u:p@panel:6379/0", panel_keys=["A" * 43 + "="])


@pytest.fixture
def token() -> Token:
    return Token(PANEL.verify_key, uuid4(), b"s" * 32)


def claim_of(token: Token, *, sign: SigningKey = SIGN) -> str:
    return enrolment.sign_claim(token, sign, BOX.public_key, hostname="alpha", system="Debian", at=1.0)


def read(message: str, token: Token) -> enrolment.Claim:
    return enrolment.read_claim(message, token.id, token.key.verify_key)


def welcome_to(token: Token, *, key: SigningKey = PANEL) -> str:
    claim = read(claim_of(token), token)
    return enrolment.seal_welcome(SECRET, key, claim=claim, host=uuid4(), name="alpha", generation=1, at=2.0)


def test_a_token_is_read_as_it_was_written(token):
    assert Token.parse(f" {token}\n") == token
    assert len(str(token)) < 120


@pytest.mark.parametrize("text", ["", "np1", "np1.a.b.c", "np2.{rest}", "np1.{rest}x", "np-host1:a:b", "np1.…"])
def test_what_is_no_whole_token_is_refused_with_a_sentence(token, text):
    with pytest.raises(BadValue, match="Copy the command"):
        Token.parse(text.format(rest=str(token)[4:]))


def test_a_token_does_not_show_its_seed_where_it_is_printed_for_a_programmer(token):
    assert "sss" not in repr(token)


def test_the_panel_reads_what_the_host_says(token):
    claim = read(claim_of(token), token)
    assert (claim.hostname, claim.system, claim.at, claim.token) == ("alpha", "Debian", 1.0, token.id)
    assert enrolment.fingerprint(claim.verify, claim.box) == enrolment.fingerprint(SIGN.verify_key, BOX.public_key)


def test_the_seed_never_travels(token):
    assert str(token).split(".")[3] not in claim_of(token)


def test_a_claim_of_another_token_is_refused(token):
    other = Token(PANEL.verify_key, token.id, b"o" * 32)
    with pytest.raises(EnvelopeRefused):
        read(claim_of(other), token)
    with pytest.raises(EnvelopeRefused):
        enrolment.read_claim(claim_of(token), uuid4(), token.key.verify_key)


def test_nobody_claims_keys_of_somebody_else(token):
    """Somebody has the token, and names the public keys of another host, which he does not hold."""
    theirs = b64encode(bytes(SigningKey.generate().verify_key)).decode()
    claim = read(claim_of(token), token).model_copy(update={"verify": theirs})
    forged = envelope.sign(enrolment._CLAIM_DOMAIN, claim.model_dump_json().encode(), token.key)
    with pytest.raises(EnvelopeRefused, match="does not hold the keys"):
        read(forged, token)


@pytest.mark.parametrize("message", ["", "a.b.c", "x" * 100_000, "\ud800.a.b"])
def test_what_is_no_claim_is_refused(token, message):
    with pytest.raises(EnvelopeRefused):
        read(message, token)


def test_the_host_reads_the_panels_answer(token):
    welcome, secret = enrolment.read_welcome(welcome_to(token), token, SIGN.verify_key, BOX)
    assert (welcome.name, secret) == ("alpha", SECRET)


def test_an_answer_of_another_panel_for_other_keys_or_sealed_to_others_is_refused(token):
    impostor = SigningKey.generate()
    with pytest.raises(EnvelopeRefused):
        enrolment.read_welcome(welcome_to(token, key=impostor), token, SIGN.verify_key, BOX)
    with pytest.raises(EnvelopeRefused, match="another host"):
        enrolment.read_welcome(welcome_to(token), token, impostor.verify_key, BOX)
    with pytest.raises(EnvelopeRefused, match="another host"):
        enrolment.read_welcome(welcome_to(token), Token(PANEL.verify_key, uuid4(), b"s" * 32), SIGN.verify_key, BOX)
    with pytest.raises(EnvelopeRefused, match="cannot be read"):
        enrolment.read_welcome(welcome_to(token), token, SIGN.verify_key, PrivateKey.generate())


def test_the_answer_shows_no_password_to_those_who_carry_it(token):
    payload = urlsafe_b64decode(welcome_to(token).split(".")[2])
    assert b"alpha" in payload
    assert b"u:p" not in payload


def test_a_fingerprint_is_six_groups_of_five_digits_and_of_both_keys():
    shown = enrolment.fingerprint(SIGN.verify_key, BOX.public_key)
    assert [len(group) for group in shown.split()] == [5] * 6
    assert shown.replace(" ", "").isdigit()
    assert shown != enrolment.fingerprint(SIGN.verify_key, PrivateKey.generate().public_key)
    assert shown != enrolment.fingerprint(SigningKey.generate().verify_key, BOX.public_key)
