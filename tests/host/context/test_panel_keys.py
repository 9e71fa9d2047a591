from base64 import b64encode
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from machines.contract.envelope import key_id
from machines.contract.problems import NotAllowed
from machines.host.context import settings
from machines.host.context.panel_keys import PanelKeys
from machines.host.system.faults import Misconfigured

OLD, NEW = SigningKey.generate(), SigningKey.generate()
FILE = """NSPAWNPANEL_HOST_ID=12345678-1234-1234-1234-123456789012
NSPAWNPANEL_GENERATION=1
NSPAWNPANEL_PANEL_KEYS={}
NSPAWNPANEL_REDIS_URL=redis://u:p@panel:6379/0
# by hand
"""


def public(key: SigningKey) -> str:
    return b64encode(bytes(key.verify_key)).decode()


def number(key: SigningKey) -> str:
    return key_id(key.verify_key)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "host.env"
    made.write_text(FILE.format(public(OLD)))
    return made


@pytest.fixture
def keys(file: Path) -> PanelKeys:
    return PanelKeys({number(OLD): OLD.verify_key}, file)


def test_the_next_key_is_trusted_and_written_down(keys, file):
    keys.trust([public(OLD), public(NEW)], signed_by=number(OLD))
    assert keys.ids() == sorted([number(OLD), number(NEW)])
    assert keys[number(NEW)] == NEW.verify_key
    assert settings.read(settings._from_file(file)).panel_keys == dict(keys)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "# by hand" in file.read_text()
    assert "redis://u:p@panel" in file.read_text()


def test_the_old_key_goes_when_the_new_one_says_so(keys, file):
    keys.trust([public(OLD), public(NEW)], signed_by=number(OLD))
    keys.trust([public(NEW)], signed_by=number(NEW))
    assert keys.ids() == [number(NEW)]
    assert number(OLD) not in keys


def test_no_order_leaves_the_host_with_keys_that_nobody_may_have(keys, file):
    before = file.read_text()
    with pytest.raises(NotAllowed, match="leaves out the key that signed it"):
        keys.trust([public(NEW)], signed_by=number(OLD))
    assert file.read_text() == before
    assert keys.ids() == [number(OLD)]


def test_what_cannot_be_written_is_not_trusted(keys, file):
    file.write_text("nothing\n")
    with pytest.raises(Misconfigured, match="NSPAWNPANEL_PANEL_KEYS"):
        keys.trust([public(OLD), public(NEW)], signed_by=number(OLD))
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        keys.trust([public(OLD), public(NEW)], signed_by=number(OLD))
    assert keys.ids() == [number(OLD)]


def test_the_same_keys_again_write_nothing(keys, file):
    before = file.stat().st_ino
    keys.trust([public(OLD)], signed_by=number(OLD))
    assert file.stat().st_ino == before
