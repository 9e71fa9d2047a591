"""The courier's connections to Redis over TLS, and what hosts are told of its certificate."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from machines.contract.problems import BadValue
from machines.panel.courier import bounded
from machines.panel.courier.mailbox import Mailbox
from machines.panel.hosts import redis_tls
from nspawnpanel.valkey import Valkey
from tests.tls import Certificate, Front


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def url(valkey: Valkey, certificate: Certificate) -> Iterator[str]:
    with Front(certificate, valkey.port) as front:
        yield valkey.admin_url.replace("redis://", "rediss://").replace(f":{valkey.port}", f":{front.port}")


def test_the_courier_takes_its_own_certificate_to_read_and_to_send(url, certificate, settings):
    settings.REDIS_CERTIFICATE = str(certificate.file)
    assert bounded.client(url).ping()
    Mailbox(url).send(uuid4(), "sealed")


def test_the_courier_takes_no_other_certificate(url, settings, tmp_path):
    for other in ("", str(Certificate(tmp_path).file)):
        settings.REDIS_CERTIFICATE = other
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            bounded.client(url, retry=Retry(NoBackoff(), 0)).ping()
        with pytest.raises((redis.ConnectionError, OperationalError), match="certificate verify failed"):
            Mailbox(url).send(uuid4(), "sealed")


def test_hosts_are_told_of_every_certificate_in_the_file(certificate, settings, tmp_path):
    following = Certificate(tmp_path, "next")
    both = tmp_path / "both.pem"
    both.write_text(certificate.file.read_text() + following.file.read_text())
    settings.REDIS_CERTIFICATE = str(both)
    assert redis_tls.pins() == [certificate.pin, following.pin]
    settings.REDIS_CERTIFICATE = ""
    assert redis_tls.pins() == []


@pytest.mark.parametrize(
    "content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", None]
)
def test_a_file_without_a_certificate_is_named(settings, tmp_path, content):
    file = tmp_path / "redis.pem"
    if content is not None:
        file.write_text(content)
    settings.REDIS_CERTIFICATE = str(file)
    with pytest.raises(BadValue, match="NSPAWNPANEL_REDIS_CERTIFICATE"):
        redis_tls.pins()
