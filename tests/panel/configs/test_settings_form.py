"""Fields made from the tables: what each kind takes, what an older host cannot, and where it stands on the page."""

import pytest

from machines.models import Revision
from machines.panel.forms.configs import Configurator
from machines.panel.forms.setting_sections import sections
from tests import make
from tests.panel.configs import cast
from tests.panel.configs.posts import post

URL = "/hosts/alpha/machines/web/config/"
pytestmark = pytest.mark.django_db


def given(host=None, instance=None, **changes) -> Configurator:
    return Configurator(post() | changes, host=host, instance=instance)


def rows(name: str, *values: tuple[str, ...]) -> dict[str, str]:
    data = {f"{name}-TOTAL_FORMS": str(len(values)), f"{name}-INITIAL_FORMS": "0"}
    for number, parts in enumerate(values):
        data |= {f"{name}-{number}-part{at}": part for at, part in enumerate(parts)}
    return data


def test_each_kind_of_field_says_what_was_typed():
    typed = given(
        **{"Exec.Hostname": "shop", "Exec.NoNewPrivileges": "yes", "Exec.Timezone": "off", "Exec.OOMScoreAdjust": "-500",
           "Exec.Capability": " CAP_NET_ADMIN\r\n\r\nCAP_NET_RAW ", "RestartSec": "5s", "After": "srv.mount"},
        **rows("Exec.Environment", ("GREETING", 'two "words"'), ("EMPTY", "")),
        **rows("Files.TemporaryFileSystem", ("/var/cache", "size=10%"), ("/run/x", "")),
        **rows("Files.Overlay", ("/a:/b", "/data")),
        **rows("IOReadBandwidthMax", ("/dev/sda", "5M")),
    )  # fmt: skip
    assert typed.is_valid(), typed.errors()
    text, unit = typed.preview()
    for line in (
        "Hostname=shop", "NoNewPrivileges=yes", "Timezone=off", "OOMScoreAdjust=-500", "Capability=CAP_NET_ADMIN\nCapability=CAP_NET_RAW",
        """Environment="GREETING=two "'"'"words"'"'""" , "Environment=EMPTY=", "TemporaryFileSystem=/var/cache:size=10%",
        "TemporaryFileSystem=/run/x", "Overlay=/a:/b:/data",
    ):  # fmt: skip
        assert line in text, text
    assert "[Unit]\nAfter=srv.mount" in unit
    assert "RestartSec=5s" in unit
    assert "IOReadBandwidthMax=/dev/sda 5M" in unit


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Exec.Hostname": "a b"}, "Hostname: A hostname has letters"),
        ({"Exec.OOMScoreAdjust": "5000"}, "from -1000 to 1000"),
        ({"Exec.Capability": "CAP_NOPE"}, "“CAP_NOPE” is not a capability"),
        ({"Exec.Timezone": "Europe/Berlin"}, "Time zone: Select a valid choice"),
        ({"Exec.LimitNOFILE": "20:10"}, "The soft limit (the first) is above the hard one"),
        ({"CPUQuotaPeriodSec": "soon"}, "Give a time such as"),
        (rows("Exec.Environment", ("1A", "x")), "Environment of PID 1 1, Name: Write NAME=VALUE"),
        (rows("Files.Inaccessible", ("srv",)), "not an absolute path"),
        (rows("DeviceAllow", ("/etc/passwd", "r")), "neither below /dev"),
    ],
)
def test_it_refuses_on_the_field(changes, said):
    typed = given(**changes)
    assert not typed.is_valid()
    assert said in " · ".join(f"{label}: {text}" for _, label, text in typed.errors())


def test_what_the_page_did_not_send_stays_as_it_was(web):
    draft = Revision(machine=web)
    draft.take_files("[Exec]\nHostname=shop\nEnvironment=A=b\n", "")
    typed = Configurator(post(network_mode="unsaid", notify_ready=None), instance=draft)
    assert typed.is_valid(), typed.errors()
    assert typed.preview()[0] == "[Exec]\nHostname=shop\nEnvironment=A=b\n"


def test_an_older_host_shows_what_it_needs_and_takes_it_not(as_admin, web):
    page = as_admin.get(URL).content.decode()
    assert "Needs systemd 259; alpha has 252." in page
    assert 'name="Network.NamespacePath"' in page
    field = page.split('name="Network.NamespacePath"')[1].split(">")[0]
    assert "disabled" in field
    alpha = web.host
    for changes, said in (
        ({"Network.NamespacePath": "/run/netns/x"}, "NamespacePath= needs systemd 259; alpha has 252."),
        ({"private_users": "managed"}, "managed needs systemd 258; alpha has 252."),
        ({"Files.PrivateUsersOwnership": "foreign"}, "foreign needs systemd 258"),
        ({"MemoryZSwapMax": "1G"}, "MemoryZSwapMax= needs systemd 253"),
    ):
        typed = given(alpha, **changes)
        assert not typed.is_valid()
        assert said in str(typed.errors())
    assert given(make.host("new", facts={"systemd": 260}), **{"Network.NamespacePath": "/run/netns/x"}).is_valid()


def test_what_an_older_host_has_already_can_stay_and_go(web):
    draft = Revision(machine=web)
    draft.take_files("[Network]\nNamespacePath=/run/netns/x\n", "")
    shown = Configurator(instance=draft, host=web.host).form
    assert "disabled" not in shown.fields["Network.NamespacePath"].widget.attrs
    for path in ("/run/netns/x", ""):
        typed = Configurator(
            post(network_mode="unsaid") | {"Network.NamespacePath": path}, instance=draft, host=web.host
        )
        assert typed.is_valid(), typed.errors()


def test_a_rare_setting_that_says_something_stands_among_the_usual_ones(web):
    draft = Revision(machine=web)
    draft.take_files("[Exec]\nLimitNOFILE=1024\nPersonality=x86\n", "")
    found = {section.group: section for section in sections(Configurator(instance=draft))}
    usual = {one.setting.key for section in found.values() for one in section.usual}
    rare = {one.setting.key for section in found.values() for one in section.rare}
    assert {"LimitNOFILE", "Personality", "MemoryMax"} <= usual
    assert "LimitCPU" in rare
    assert not usual & rare


def test_every_field_of_the_page_has_its_name_help_and_manual(as_admin, web):
    page = as_admin.get(URL).content.decode()
    form = Configurator()
    for section in sections(form):
        for one in (*section.usual, *section.rare):
            assert f">{one.setting.key}=</a>" in page
            assert f'href="{one.setting.manual.replace("&", "&amp;")}"' in page, one.setting.manual


def test_it_costs_few_queries(as_admin, admin, web, django_assert_max_num_queries):
    made = cast.draft(web, admin)
    made.take("Exec.Environment", "A=b\nC=d")
    made.save()
    with django_assert_max_num_queries(9):
        as_admin.get(URL)
