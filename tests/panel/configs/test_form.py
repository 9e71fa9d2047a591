"""The configuration form and its rows: what is taken, what is refused, and where the sentence stands."""

import pytest
from django.template.loader import render_to_string

from machines.models import BindMount, PortForward, Revision
from machines.panel.forms.configs import Configurator
from tests import make
from tests.panel.configs.posts import post

pytestmark = pytest.mark.django_db


def configurator(host=None, instance=None, named=None, **changes):
    return Configurator(post(**changes), host=host, instance=instance, named=named)


def errors(host=None, instance=None, named=None, **changes) -> str:
    given = configurator(host, instance, named, **changes)
    assert not given.is_valid()
    return " · ".join(f"{label}: {text}" for _, label, text in given.errors())


def test_it_takes_a_plain_configuration(web, admin):
    given = configurator(
        memory_max="512M", cpu_quota="150%", ports=[("tcp", 8080, 80), ("udp", 53, "")],
        binds=[("/srv/www", "", "", False), ("/srv/keys", "/etc/keys", "rootidmap", True)],
    )  # fmt: skip
    assert given.is_valid(), given.errors()
    revision = given.save(machine=web, author=admin, author_name="ada")
    text = revision.render_nspawn()
    assert sorted(line for line in text.splitlines() if line.startswith(("Port", "Bind"))) == [
        "Bind=/srv/www", "BindReadOnly=/srv/keys:/etc/keys:rootidmap", "Port=tcp:8080:80", "Port=udp:53",
    ]  # fmt: skip
    assert revision.render_limits() == "[Service]\nMemoryMax=512M\nCPUQuota=150%\n"


def test_it_keeps_the_rows_in_the_order_given(web):
    given = Configurator(post(ports=[("tcp", 1, 1), ("tcp", 2, 2)]) | {"ports-0-ORDER": "2", "ports-1-ORDER": "1"})
    assert given.is_valid(), given.errors()
    assert [str(port) for port in given.save(machine=web).ports.all()] == ["tcp:2:2", "tcp:1:1"]


def test_it_leaves_out_removed_and_untouched_rows(web):
    data = post(ports=[("tcp", 1, 1), ("tcp", "", ""), ("tcp", 3, 3)]) | {"ports-0-DELETE": "on"}
    given = Configurator(data)
    assert given.is_valid(), given.errors()
    assert [str(port) for port in given.save(machine=web).ports.all()] == ["tcp:3:3"]


def test_a_second_save_replaces_the_rows(web):
    draft = configurator(ports=[("tcp", 1, 1)], binds=[("/a", "", "", False)])
    assert draft.is_valid()
    revision = draft.save(machine=web)
    again = configurator(instance=revision, ports=[("tcp", 2, 2)])
    assert again.is_valid()
    again.save()
    assert [str(port) for port in revision.ports.all()] == ["tcp:2:2"]
    assert not BindMount.objects.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network_mode": "bridge"}, "Bridge= needs a name"),
        ({"network_mode": "zone", "network_target": "a-zone-too-long"}, "a zone name has at most 12"),
        ({"network_mode": "macvlan", "network_target": "an-interface-too-long"}, "an interface name has at most 15"),
        ({"network_mode": "nonsense"}, "Network mode: Select a valid choice"),
        ({"cpu_quota": "half"}, "Give a percentage of one CPU"),
        ({"memory_max": "512Q"}, "not a size"),
        ({"memory_max": "TasksMax=512"}, "not a size"),
        ({"memory_max": "12"}, "less than 1 MiB"),
        ({"memory_max": "1G", "memory_high": "2G"}, "The soft limit is above the hard one"),
        ({"memory_max": "20%", "memory_high": "30%"}, "The soft limit is above the hard one"),
        ({"tasks_max": "many"}, "whole number"),
        ({"private_users": "other"}, "Give the first ID of the range"),
        ({"private_users": "other", "private_users_range": "root"}, "First ID and count: Give pick"),
        ({"ports": [("tcp", 80, 80), ("tcp", 80, 81)]}, "Port 2, Host port: Port 80 (TCP) of the host is forwarded "
        "twice"),
        ({"ports": [("tcp", 70000, 80)]}, "A port is a number from 1 to 65535"),
        ({"ports": [("tcp", "", 80)]}, "Port 1, Host port: This field is required"),
        ({"ports": [("tcp", 80, 80)], "network_mode": "host"}, "has no veth link to the host"),
        ({"ports": [("tcp", 80, 80)], "network_mode": "none"}, "has no veth link to the host"),
        ({"binds": [("/a", "/x", "", False), ("/b", "/x/", "", False)]}, "/x/ is already the target of another bind"),
        ({"binds": [("srv", "", "", False)]}, "not an absolute path"),
        ({"binds": [("/srv/../etc", "", "", False)]}, "contains “..”"),
        ({"binds": [("/srv", "/x\\", "", False)]}, "ends in a backslash"),
        ({"binds": [("/srv", "", "upsidedown", False)]}, "Select a valid choice"),
    ],
)  # fmt: skip
def test_it_refuses(changes, said):
    assert said in errors(**changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"cpu_quota": "150"}, "CPUQuota=150%"),
        ({"memory_max": "512 MB"}, "MemoryMax=512M"),
        ({"memory_max": "MemoryMax=1g"}, "MemoryMax=1G"),
        ({"MemorySwapMax": "256m"}, "MemorySwapMax=256M"),
        ({"binds": [("BindReadOnly=/srv/a:/b:rootidmap", "", "", False)]}, "BindReadOnly=/srv/a:/b:rootidmap"),
    ],
)
def test_what_people_type_or_paste_becomes_what_systemd_takes(changes, line):
    given = configurator(**changes)
    assert given.is_valid(), given.errors()
    assert f"{line}\n" in "".join(given.preview())


def test_a_volatile_root_is_fine_with_known_ids():
    assert configurator(volatile="yes", private_users="identity").is_valid()


def test_an_own_range_of_ids_comes_back_as_it_was_typed(web):
    given = configurator(private_users="other", private_users_range="524288:65536")
    assert given.is_valid(), given.errors()
    revision = given.save(machine=web)
    assert revision.private_users == "524288:65536"
    shown = Configurator(instance=revision).form
    assert (shown["private_users"].value(), shown["private_users_range"].value()) == ("other", "524288:65536")


def test_the_name_of_another_mode_is_not_kept(web):
    given = configurator(network_mode="veth", network_target="br0")
    assert given.is_valid()
    assert given.save(machine=web).network_target == ""


def test_a_bridge_the_host_does_not_have_is_refused():
    host = make.host(facts={"systemd": 252, "bridges": ["br0"], "interfaces": ["lo", "eth0", "br0"]})
    said = errors(host, network_mode="bridge", network_target="br9")
    assert "alpha has no bridge “br9”; it has br0." in said
    assert "alpha has no NIC “eth1”" in errors(host, network_mode="macvlan", network_target="eth1")
    assert configurator(host, network_mode="bridge", network_target="br0").is_valid()
    assert Configurator(host=host).targets == [("br0", "bridge"), ("eth0", "NIC")]


def test_what_the_host_has_not_reported_is_not_held_against_anybody():
    host = make.host(facts={})
    bind = [("/a", "", "owneridmap", False)]
    assert configurator(host, network_mode="bridge", network_target="br9", binds=bind).is_valid()


def test_owner_mapping_needs_a_new_enough_systemd(alpha):
    assert "owneridmap needs systemd 256; alpha has 252" in errors(alpha, binds=[("/a", "", "owneridmap", False)])


def test_a_port_of_another_machine_is_refused(alpha, web):
    other = make.machine("mail", on=alpha)
    other.applied = Revision.objects.create(machine=other, number=1, state="applied")
    other.save()
    PortForward.objects.create(revision=other.applied, protocol="tcp", host_port=25)
    draft = Revision(machine=web)
    assert "Port 25 of alpha already leads to mail" in errors(alpha, draft, ports=[("tcp", 25, 25)])
    assert configurator(alpha, Revision(machine=web), ports=[("udp", 25, 25)]).is_valid()
    assert configurator(alpha, Revision(machine=other), ports=[("tcp", 25, 25)]).is_valid()


def test_nothing_typed_is_lost_on_an_error():
    given = configurator(memory_max="a lot", ports=[("tcp", "x", 80)], binds=[("/srv/a b", "", "", True)])
    assert not given.is_valid()
    page = render_to_string("configs/_limits.html", {"form": given.form})
    page += render_to_string("configs/_ports.html", {"formset": given.ports})
    page += render_to_string("configs/_binds.html", {"formset": given.binds})
    for typed in ('value="a lot"', 'value="x"', 'value="80"', 'value="/srv/a b"'):
        assert typed in page


def test_every_field_shows_the_name_systemd_has_for_it():
    form = Configurator().form
    page = render_to_string("configs/_limits.html", {"form": form}) + render_to_string(
        "configs/_boot.html", {"form": form}
    )
    for key in form.keys().values():
        assert f">{key}</code>" in page


def test_hostile_text_is_escaped():
    given = configurator(memory_max='"><script>', network_mode="zone", network_target="<b>")
    given.is_valid()
    page = render_to_string("configs/_limits.html", {"form": given.form})
    page += render_to_string("configs/_network.html", {"form": given.form, "targets": [("<i>", "<u>")]})
    page += render_to_string("_errors.html", {"errors": given.errors()})
    assert not any(tag in page for tag in ("<script>", '<b>"', "<i>", "<u>", "“<b>"))
