"""Every setting of the tables through a revision: from text to fields and back, byte for byte where nothing changed."""

import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from machines.contract.configuration import limits, nspawn, validate
from machines.models import Revision
from machines.models.revision import PLAIN, as_settings, bind_rows, port_rows
from machines.panel.forms.configs import Configurator
from tests.documents import documents, dropins

pytestmark = pytest.mark.django_db
ROUND = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
# lines a person might have left there
NOISE = st.sampled_from(
    ["# note", "; old", "", "X-Later=1", "[Later]", "This is garbage", "Boot = on", "Boot=perhaps", "Bind=relative", "Bind=/a:",
     "Bind=/a:/a:norbind,idmap", "Port=nonsense", "Port=80", "[Network]", "[Exec]", "[Files]", "Private=no", "MACVLAN=eth0 eth1",
     "VirtualEthernet=1", "Zone=a", "Bridge=b", "Volatile=true", "PrivateUsers=0", "Environment=A=b\\", "NotifyReady=no",
     "TemporaryFileSystem=/tmp:", "Environment=", "Hostname=a b", "  Timezone = off  ", "Interface=eth0"]
)  # fmt: skip


def through_fields(nspawn_text: str, limits_text: str) -> tuple[str, str]:
    draft = Revision()
    draft.take_files(nspawn_text, limits_text)
    return draft.render_nspawn(bind_rows(nspawn_text), port_rows(nspawn_text)), draft.render_limits()


@given(documents(), dropins())
@ROUND
def test_what_is_written_comes_back_byte_for_byte(text, unit):
    assert through_fields(text, unit) == (text, unit)


@given(st.lists(NOISE, max_size=12).map("\n".join))
@ROUND
def test_what_was_written_by_hand_comes_back_byte_for_byte(text):
    assert through_fields(text, "") == (text, "")
    unit = text.replace("[Exec]", "[Service]").replace("[Files]", "[Unit]")
    assert through_fields("", unit)[1].strip() == unit.strip()


@given(documents(), dropins(), st.data())
@ROUND
def test_a_changed_setting_changes_nothing_else(text, unit, data):
    draft = Revision()
    draft.take_files(text, unit)
    name = data.draw(st.sampled_from(sorted(PLAIN)))
    draft.take(name, "")
    after = (draft.render_nspawn(bind_rows(text), port_rows(text)), draft.render_limits())
    kept = {key: value for key, value in as_settings(text, unit).items() if key != name}
    owners = {f"Files.{key}" for key in validate.OWNERS}
    if name in owners & as_settings(text, unit).keys() and not {"Exec.PrivateUsers", *owners} & kept.keys():
        kept["Exec.PrivateUsers"] = "no"  # which is what that line alone had meant
    assert as_settings(*after) == kept


def posted(given: Configurator) -> dict[str, str]:
    """What a browser would send of the page as it is shown."""
    sent: dict[str, str] = {}
    rows = [given.binds, given.ports, *given.rows.values()]
    for form in (given.form, *(part for each in rows for part in (each.management_form, *each.forms))):
        for field in form:
            value = field.value()
            if not field.field.widget.attrs.get("disabled") and value is not False:
                sent[field.html_name] = "on" if value is True else "" if value is None else str(value)
    return sent


@given(documents(), dropins())
@settings(ROUND, max_examples=100)
def test_the_form_saved_as_it_came_changes_not_a_byte(text, unit):
    draft = Revision()
    draft.take_files(text, unit)
    shown = Configurator(instance=draft, bind_rows=bind_rows(text), port_rows=port_rows(text))
    again = Revision()
    again.take_files(text, unit)
    given = Configurator(posted(shown), instance=again)
    valid = given.is_valid()
    assume(
        not any(
            word in text
            for _, _, text in given.errors()
            for word in ("twice", "of another bind", "the hard one", "has no veth link")
        )
    )
    assert valid, given.errors()
    assert given.preview() == (text, unit)


def test_every_setting_of_the_manual_has_a_field_of_its_own():
    """Of systemd.nspawn(5) and of the properties of the unit: all of them, by the pages' own names."""
    form = Configurator().form
    mode = {"Private", "VirtualEthernet", "Zone", "Bridge", "MACVLAN", "IPVLAN"}
    typed = {name.rpartition(".")[2] for name in (*form.fields, *Configurator().rows)}
    typed |= set(form.keys().values()) and {key.rstrip("=") for key in form.keys().values()}
    typed |= mode | {"Bind", "BindReadOnly", "Port"}
    assert MANUAL - typed == set()
    assert PROPERTIES - typed == set()
    assert {setting.key for setting in nspawn.SETTINGS.values()} | set(limits.PROPERTIES) <= typed


# systemd.nspawn(5) of systemd 260, and RestrictAddressFamilies= of 261
MANUAL = set(
    re.findall(
        r"\S+",
        """
    Boot Ephemeral ProcessTwo Parameters Environment User WorkingDirectory PivotRoot Capability DropCapability AmbientCapability
    NoNewPrivileges KillSignal Personality MachineID PrivateUsers PrivateUsersDelegate NotifyReady SystemCallFilter
    RestrictAddressFamilies LimitCPU LimitFSIZE LimitDATA LimitSTACK LimitCORE LimitRSS LimitNOFILE LimitAS LimitNPROC LimitMEMLOCK
    LimitLOCKS LimitSIGPENDING LimitMSGQUEUE LimitNICE LimitRTPRIO LimitRTTIME OOMScoreAdjust CPUAffinity Hostname ResolvConf Timezone
    LinkJournal SuppressSync
    ReadOnly Volatile Bind BindReadOnly BindUser BindUserShell TemporaryFileSystem Inaccessible Overlay OverlayReadOnly
    PrivateUsersOwnership
    Private NamespacePath VirtualEthernet VirtualEthernetExtra Interface MACVLAN IPVLAN Bridge Zone Port
    """,
    )
)
# systemd.resource-control(5), and what of systemd.service(5) a machine has use for
PROPERTIES = set(
    re.findall(
        r"\S+",
        """
    CPUWeight CPUQuota CPUQuotaPeriodSec AllowedCPUs AllowedMemoryNodes MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax
    MemoryZSwapMax TasksMax IOWeight IOReadBandwidthMax IOWriteBandwidthMax IOReadIOPSMax IOWriteIOPSMax IODeviceLatencyTargetSec
    IPAccounting IPAddressAllow IPAddressDeny SocketBindAllow SocketBindDeny RestrictNetworkInterfaces DeviceAllow DevicePolicy Slice
    ManagedOOMSwap ManagedOOMMemoryPressure ManagedOOMPreference MemoryPressureWatch NFTSet CPUSetPartition OOMRules
    BindNetworkInterface CoredumpReceive Restart RestartSec TimeoutStartSec TimeoutStopSec After CPUAccounting MemoryAccounting
    TasksAccounting IOAccounting
    """,
    )
)
