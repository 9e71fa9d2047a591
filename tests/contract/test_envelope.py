"""Envelopes: only what our key sealed, for this host, now; and reports only from the host that signed them."""

import json
from base64 import urlsafe_b64encode
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey
from nacl.signing import SigningKey

from machines.contract import envelope, orders, reports
from machines.contract.envelope import Actor, Envelope, SignedReport, key_id, read_report, seal, sign_report, unseal
from machines.contract.problems import EnvelopeRefused, ReportUnreadable

PANEL, OTHER, HOST = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
TRUSTED = {key_id(PANEL.verify_key): PANEL.verify_key}
ALPHA = uuid4()
NOW = 1_760_000_000.0


def letter(**changes) -> Envelope:
    fields = {
        "host": ALPHA, "generation": 2, "job": uuid4(), "order": orders.to_wire(orders.Start(name="web")),
        "issued": NOW - 1, "expires": NOW + 60, "actor": Actor(name="ada", role="administrator"),
    }  # fmt: skip
    return Envelope(**fields | changes)


def opened(message: str, *, now: float = NOW, host=ALPHA, generation: int = 2):
    return unseal(message, TRUSTED, host=host, generation=generation, now=now)


def refusal(message: str, **where) -> str:
    with pytest.raises(EnvelopeRefused) as refused:
        opened(message, **where)
    return refused.value.code


def test_what_is_sealed_is_opened_as_it_was():
    sent = letter()
    got, order = opened(seal(sent, PANEL))
    assert got == sent
    assert order == orders.Start(name="web")


def test_another_key_is_forged():
    assert refusal(seal(letter(), OTHER)) == "envelope-forged"


def test_another_key_under_our_name_is_forged():
    signature, _, payload = seal(letter(), OTHER).split(".")
    assert refusal(".".join((signature, key_id(PANEL.verify_key), payload))) == "envelope-forged"


def test_a_changed_payload_is_forged():
    signature, kid, _ = seal(letter(), PANEL).split(".")
    _, _, payload = seal(letter(order=orders.to_wire(orders.Terminate(name="web"))), PANEL).split(".")
    assert refusal(".".join((signature, kid, payload))) == "envelope-forged"


def test_a_signed_report_is_no_order():
    """The same key over the same bytes, in the other domain."""
    report = SignedReport(host=ALPHA, generation=2, number=1, at=NOW, report=reports.to_wire(reports.Heartbeat()))
    assert refusal(sign_report(report, PANEL)) == "envelope-forged"


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_noise_is_refused_and_never_crashes(noise):
    for message in (noise, f"{noise}.{key_id(PANEL.verify_key)}.{noise}", f"..{noise}"):
        assert refusal(message) == "envelope-forged"


@given(st.integers(0, 10_000), st.sampled_from("Aa0_-=.!"))
def test_no_changed_character_gets_another_meaning_through(place, letter_):
    """Base64 has spare bits and tolerates noise; what opens is then still exactly what was sealed."""
    sent = letter()
    message = seal(sent, PANEL)
    place %= len(message)
    try:
        got, _ = opened(message[:place] + letter_ + message[place + 1 :])
    except EnvelopeRefused:
        return
    assert got == sent


def test_another_host_and_another_generation_are_foreign():
    message = seal(letter(), PANEL)
    assert refusal(message, host=uuid4()) == "envelope-foreign"
    assert refusal(message, generation=3) == "envelope-foreign"


def test_clocks_may_differ_by_a_minute_and_no_more():
    message = seal(letter(issued=NOW, expires=NOW + 60), PANEL)
    opened(message, now=NOW - 59)
    opened(message, now=NOW + 119)
    assert refusal(message, now=NOW - 61) == "envelope-early"
    assert refusal(message, now=NOW + 121) == "envelope-expired"


def test_a_refusal_names_its_job_once_the_signature_held():
    sent = letter()
    with pytest.raises(EnvelopeRefused) as refused:
        opened(seal(sent, PANEL), now=NOW + 1000)
    assert refused.value.job == sent.job
    with pytest.raises(EnvelopeRefused) as refused:
        opened(seal(sent, OTHER))
    assert refused.value.job is None


def test_what_is_too_large_is_neither_sealed_nor_read():
    big = letter(order={"op": "start", "name": "a" * envelope.ORDER_LIMIT})
    with pytest.raises(EnvelopeRefused) as refused:
        seal(big, PANEL)
    assert refused.value.code == "envelope-oversized"
    assert refusal("a" * (envelope.ORDER_LIMIT * 2)) == "envelope-oversized"


def test_a_signed_message_that_is_no_envelope_is_unreadable():
    for payload in (b"", b"null", b"[]", b"{}", b"\xff", json.dumps({"host": 1}).encode()):
        message = envelope.sign(envelope._ORDER_DOMAIN, payload, PANEL)
        assert refusal(message) == "envelope-unreadable"


def test_an_order_nobody_knows_is_unreadable():
    for order in (
        {},
        {"op": "shell", "name": "web"},
        {"op": "start", "name": "../etc"},
        {"op": "start", "name": "web", "x": 1},
    ):
        assert refusal(seal(letter(order=order), PANEL)) == "envelope-unreadable"


def test_an_old_key_can_still_be_trusted_while_keys_change():
    keys = TRUSTED | {key_id(OTHER.verify_key): OTHER.verify_key}
    got, _ = unseal(seal(letter(), OTHER), keys, host=ALPHA, generation=2, now=NOW)
    assert got.host == ALPHA


# --- reports


def signed(report: reports.AnyReport | dict, **changes) -> str:
    body = report if isinstance(report, dict) else reports.to_wire(report)
    fields = {"host": ALPHA, "generation": 2, "number": 7, "at": NOW, "report": body}
    return sign_report(SignedReport(**fields | changes), HOST)


def read(message: str, **where):
    return read_report(message, HOST.verify_key, **({"host": ALPHA, "generation": 2} | where))


def test_a_report_is_read_as_it_was_signed():
    job = uuid4()
    envelope_, report = read(signed(reports.Accepted(job=job)))
    assert (envelope_.number, report) == (7, reports.Accepted(job=job))


def test_a_report_of_another_host_or_key_is_refused():
    message = signed(reports.Heartbeat())
    for where in ({"host": uuid4()}, {"generation": 1}):
        with pytest.raises(EnvelopeRefused, match="another host"):
            read(message, **where)
    with pytest.raises(EnvelopeRefused, match="not trusted"):
        read_report(message, OTHER.verify_key, host=ALPHA, generation=2)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999", b'"\\ud800"', b"[" * 5000])
def test_a_report_no_database_could_keep_is_refused(number):
    """Signed by the host all the same: a hostile host has its own key."""
    report = b'{"kind":"outcome","job":"%s","state":"failed","at":1,"result":{"x":%s}}' % (
        str(uuid4()).encode(),
        number,
    )
    payload = b'{"host":"%s","generation":2,"number":7,"at":1,"report":%s}' % (str(ALPHA).encode(), report)
    with pytest.raises(EnvelopeRefused):
        read(envelope.sign(envelope._REPORT_DOMAIN, payload, HOST))


# --- secrets


def test_a_secret_opens_for_its_host_alone():
    mine, theirs = PrivateKey.generate(), PrivateKey.generate()
    sealed = envelope.seal_secret("geheim", mine.public_key)
    assert "geheim" not in sealed
    assert envelope.unseal_secret(sealed, mine) == "geheim"
    for key, text in ((theirs, sealed), (mine, "nonsense"), (mine, ""), (mine, sealed[:-8])):
        with pytest.raises(EnvelopeRefused):
            envelope.unseal_secret(text, key)


def test_half_a_character_in_a_report_is_no_reason_not_to_read_it():
    """A name on the host's disk that is no UTF-8 reads so in Python."""
    problem = {"code": "x", "message": "File name too long: /var/lib/machines/web/\udcff\udcff"}
    _, report = read(signed(reports.Outcome(job=uuid4(), state="failed", at=1.0, problem=problem)))
    assert report.problem["message"].endswith("/web/??")


def test_of_a_report_that_cannot_be_read_the_number_can_be_told():
    with pytest.raises(ReportUnreadable) as caught:
        read(signed({"kind": "tomorrow"}))
    assert caught.value.number == 7
    with pytest.raises(EnvelopeRefused, match="another host"):
        read(signed({"kind": "tomorrow"}, host=uuid4()))
