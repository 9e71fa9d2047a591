import json
from base64 import b64encode
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from nacl.public import PrivateKey

from machines.contract import envelope, orders
from machines.contract.configuration import nspawn
from machines.contract.permissions import Role
from machines.models import Job, Machine, Revision
from machines.panel.images.passwords import crypt
from tests import make
from tests.pages import text

URL = "/machines/new/"
PREVIEW = "/machines/new/preview/"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG0000000000000000000000000000000000000000 ada@laptop"


def form(**fields):
    """What a browser sends for the page as it comes, and what is given."""
    given = {
        "key": str(uuid4()), "host": "alpha", "name": "web", "release": "trixie", "packages": "", "mirror": "",
        "hostname": "", "root_password": "", "ssh_keys": "", "locale": "C.UTF-8", "timezone": "UTC", "start": "on",
        "network_mode": "veth", "network_target": "", "boot": "on", "notify_ready": "on", "volatile": "", "private_users": "",
        "binds-TOTAL_FORMS": "0", "binds-INITIAL_FORMS": "0", "ports-TOTAL_FORMS": "0", "ports-INITIAL_FORMS": "0",
    }  # fmt: skip
    return {name: value for name, value in (given | fields).items() if value is not None}


@pytest.fixture
def alpha(db):
    facts = {"systemd": 257, "mirror": "http://mirror.example/debian", "bridges": ["br0"], "interfaces": ["eno1", "br0"], "networkd": True}  # fmt: skip
    return make.host("alpha", facts=facts)


# --- the page


def test_it_shows_the_form_with_defaults(as_admin, alpha):
    page = text(as_admin.get(URL))
    for shown in ("Debian 13 trixie", "Private, NAT", "http://mirror.example/debian", 'value="C.UTF-8"', "alpha"):
        assert shown in page


def test_the_address_fills_the_form(as_admin, alpha):
    make.host("beta")
    page = text(
        as_admin.get(f"{URL}?host=beta&name=db-1&memory_max=512M&network_mode=zone&network_target=back&packages=curl")
    )
    for shown in ('value="beta" checked', 'value="db-1"', 'value="512M"', 'value="back"', "\ncurl</textarea>"):
        assert shown in page


@pytest.mark.parametrize(
    "query", ["network_mode=nonsense", "host=nowhere", "release=potato", "name=%00", "volatile=%3Cscript%3E"]
)
def test_nonsense_in_the_address_is_harmless(query, as_admin, alpha):
    answer = as_admin.get(f"{URL}?{query}")
    assert answer.status_code == 200
    assert "<script>" not in text(answer).replace("<script src", "")


def test_another_host_brings_its_mirror_and_bridges(as_admin, alpha):
    page = text(as_admin.post(URL, form(choose="1", packages="htop BAD!", name=""), headers={"HX-Request": "true"}))
    for shown in ('id="host-notes"', 'hx-swap-oob="true"', 'value="br0"', "htop BAD!"):
        assert shown in page
    for absent in ("<form", "field-error", "is not a Debian package name"):
        assert absent not in page


def test_many_hosts_are_a_select_and_silent_ones_will_wait(as_admin, alpha):
    for n in range(9):
        make.host(f"h{n}", last_seen=timezone.now() - timedelta(hours=n))
    page = text(as_admin.get(URL))
    assert '<select class="form-select" name="host"' in page
    assert "h8: offline, will wait" in page


def test_without_a_host_it_says_how_to_join_one(as_admin, db):
    assert "No host yet" in text(as_admin.get(URL))


# --- the order


def test_it_orders_the_build(as_admin, admin, alpha):
    answer = as_admin.post(URL, form(packages="curl, vim\nopenssh-server curl", ssh_keys=f"# mine\n{KEY}\n", memory_max="512M", enable="on"))  # fmt: skip
    job = Job.objects.get()
    assert answer.url == f"/jobs/{job.pk}/"
    order = orders.from_wire(job.order)
    assert (order.op, order.name, order.start, order.enable) == ("build", "web", True, True)
    assert order.recipe.release == "trixie"
    assert order.recipe.packages == ("curl", "vim", "openssh-server")
    assert order.first_boot.hostname == "web"
    assert order.first_boot.ssh_keys == (KEY,)
    assert order.configuration.revision == 1
    assert "MemoryMax=512M" in order.configuration.limits
    assert order.configuration.replaces_nspawn == "absent"
    assert (job.actor, job.sealed) == (admin, "")


def test_it_keeps_the_machine_and_its_first_revision(as_admin, alpha):
    as_admin.post(URL, form(**{
        "network_mode": "bridge", "network_target": "br0", "ports-TOTAL_FORMS": "1", "ports-0-protocol": "tcp", "ports-0-host_port": "8080",
        "ports-0-machine_port": "80", "binds-TOTAL_FORMS": "1", "binds-0-source": "/srv/www", "binds-0-read_only": "on",
    }))  # fmt: skip
    machine = Machine.objects.get()
    revision = machine.revisions.get()
    job = Job.objects.get()
    assert (machine.state, machine.removed_at, machine.applied) == ("missing", None, None)
    assert (revision.number, revision.state, revision.author_name) == (1, "applying", "ada")
    assert job.revision == revision
    assert revision.nspawn_text == job.order["configuration"]["nspawn"]
    document = nspawn.parse(revision.nspawn_text)
    assert document.last("Network", "Bridge") == "br0"
    assert document.last("Network", "Port") == "tcp:8080:80"
    assert document.last("Files", "BindReadOnly") == "/srv/www"


def test_the_list_shows_it_building(as_admin, alpha):
    as_admin.post(URL, form())
    assert 'data-state="building"' in text(as_admin.get("/machines/"))


def test_a_second_press_finds_the_first_job(as_admin, alpha):
    given = form()
    first, second = as_admin.post(URL, given), as_admin.post(URL, given)
    assert first.url == second.url
    assert Job.objects.count() == Revision.objects.count() == 1


# --- the password


def test_only_the_hash_of_the_password_leaves_sealed_to_the_host(as_admin, alpha):
    own = PrivateKey.generate()
    alpha.box_key = b64encode(bytes(own.public_key)).decode()
    alpha.save()
    as_admin.post(URL, form(root_password="correct horse"))
    job = Job.objects.get()
    kept = json.loads(envelope.unseal_secret(job.sealed, own))["root_password_hash"]
    assert crypt("correct horse", kept) == kept
    assert "correct horse" not in json.dumps(job.order)
    assert kept not in json.dumps(job.order)


def test_the_password_is_never_shown_again(as_admin, alpha):
    answer = as_admin.post(URL, form(name="Bad Name", root_password="correct horse"))
    assert answer.status_code == 422
    assert "correct horse" not in text(answer)
    preview = as_admin.post(PREVIEW, form(root_password="correct horse"))
    assert "correct horse" not in text(preview)


# --- what is wrong


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "Give the machine a name."),
        ({"name": "Web_1"}, "Use lower-case letters, digits and dashes"),
        ({"name": "localhost"}, "refers to the host itself"),
        ({"host": "nowhere"}, "There is no such host."),
        ({"host": None}, "Choose a host"),
        ({"release": "potato"}, "potato is not one of the available choices"),
        ({"packages": "curl BAD! also_bad"}, "“BAD!” is not a Debian package name"),
        ({"packages": " ".join(f"p{n}x" for n in range(501))}, "At most 500; you entered 501."),
        ({"mirror": "ftp://x"}, "A mirror is a URL"),
        ({"hostname": "-x"}, "A hostname has"),
        ({"ssh_keys": "ssh-ed25519 nope!"}, "is not a public SSH key"),
        ({"ssh_keys": "ssh-rsa nonsense"}, "is damaged: it is not a key of type ssh-rsa"),
        ({"ssh_keys": KEY.replace("ed25519 ", "rsa ")}, "is damaged"),
        ({"timezone": "Mars/Olympus"}, "There is no time zone “Mars/Olympus”"),
        ({"root_password": "x" * 201}, "at most 200 characters"),
        ({"locale": "german please"}, "A locale looks like"),
        ({"timezone": "Mars/Olympus Mons"}, "A time zone looks like"),
        ({"network_mode": "bridge", "network_target": "br9"}, "alpha has no bridge “br9”"),
        ({"network_mode": "zone"}, "needs a name"),
        ({"memory_max": "12"}, "less than 1 MiB"),
        ({"cpu_quota": "half"}, "Give a percentage of one CPU"),
        ({"key": "x"}, "valid UUID"),
        ({"binds-TOTAL_FORMS": "1", "binds-0-source": "srv"}, "must begin with /"),
        ({"ports-TOTAL_FORMS": "1", "ports-0-host_port": "70000", "ports-0-protocol": "tcp"}, "from 1 to 65535"),
    ],
)
def test_it_says_what_is_wrong_and_keeps_what_was_typed(fields, said, as_admin, alpha):
    answer = as_admin.post(URL, form(**({"packages": "htop"} | fields)))
    page = text(answer).replace("&#x27;", "'").replace("&quot;", '"')
    assert answer.status_code == 422
    assert said in page
    assert 'role="alert"' in page
    assert ("htop" in page) or "packages" in fields
    assert not Job.objects.exists()
    assert not Machine.objects.exists()


def test_what_is_wrong_with_many_words_is_explained_once(as_admin, alpha):
    page = text(as_admin.post(URL, form(packages="A! B! C!")))
    assert page.count("Such names have lower-case letters") == 2  # on top, and on the field


def test_a_failed_build_can_be_changed_and_built_again(as_admin, alpha):
    binds = {"binds-TOTAL_FORMS": "1", "binds-0-source": "/srv/www", "binds-0-ownership": ""}
    as_admin.post(URL, form(packages="ngnix curl", ssh_keys=KEY, memory_max="512M", enable="on", **binds))
    page = text(as_admin.get(f"{URL}?again={Job.objects.get().pk}"))
    for shown in ('value="web"', "\nngnix curl</textarea>", KEY, 'value="512M"', 'value="/srv/www"'):
        assert shown in page


@pytest.mark.parametrize("number", ["", "x", "0", "99", "9" * 30, "²"])
def test_a_build_that_never_was_fills_nothing(number, as_admin, alpha):
    assert "Debian 13 trixie" in text(as_admin.get(URL, {"again": number}))


def test_a_taken_name_is_refused_on_that_host_only(as_admin, alpha):
    make.machine("web", on=alpha, state="stopped")
    answer = as_admin.post(URL, form(team="ops"))
    assert answer.status_code == 422
    assert "alpha already has a machine web" in text(answer)
    make.host("beta")
    assert as_admin.post(URL, form(host="beta")).status_code == 302


def test_the_name_of_a_removed_machine_can_be_used_again(as_admin, alpha):
    old = make.machine("web", on=alpha, state="stopped", removed_at=timezone.now(), os="old", addresses=["10.0.0.1"])
    applied = Revision.objects.create(machine=old, number=4, state="applied", nspawn_text="x")
    Revision.objects.create(machine=old, state="draft", memory_max="9G")
    Machine.objects.update(applied=applied, nspawn_sha256="f" * 64)
    assert as_admin.post(URL, form(team="ops")).status_code == 302
    machine = Machine.objects.get()
    assert (machine.pk, machine.state, machine.removed_at, machine.os, machine.applied) == (
        old.pk,
        "missing",
        None,
        "",
        None,
    )
    assert [(r.number, r.state) for r in machine.revisions.all()] == [(5, "applying"), (4, "applied")]
    assert Job.objects.get().order["configuration"]["replaces_nspawn"] == "absent"


def test_a_machine_whose_image_is_gone_can_be_built_again(as_admin, alpha):
    machine = make.machine("web", on=alpha, state="missing")
    assert as_admin.post(URL, form(team="ops")).status_code == 302
    assert Machine.objects.get() == machine
    assert Machine.objects.get().team == machine.team


def test_a_build_under_way_is_a_conflict_that_links_to_it(as_admin, alpha):
    make.machine("web", on=alpha, state="missing")
    other = make.job(orders.Start(name="web"), on=alpha, by=make.user("olga", role=Role.ADMINISTRATOR))
    answer = as_admin.post(URL, form(packages="htop", team="ops"))
    assert answer.status_code == 409
    assert "olga already requested" in text(answer)
    assert f'href="/jobs/{other.pk}/"' in text(answer)
    assert "htop" in text(answer)
    assert not Revision.objects.exists()


def test_a_row_can_be_added_without_javascript(as_admin, alpha):
    answer = as_admin.post(URL, form(name="web-9", add="binds"))
    assert answer.status_code == 200
    assert 'name="binds-0-source"' in text(answer)
    assert 'value="web-9"' in text(answer)
    assert not Job.objects.exists()


# --- the files before


def test_it_shows_the_files_it_would_write(as_admin, alpha):
    fields = form(name="web", network_mode="bridge", network_target="br0", memory_max="512M")
    page = text(as_admin.post(PREVIEW, fields, headers={"HX-Request": "true"}))
    for shown in ("/etc/systemd/nspawn/web.nspawn", "Bridge=br0", "MemoryMax=512M", "50-nspawnpanel.conf"):
        assert shown in page
    assert "<html" not in page
    whole = text(as_admin.post(PREVIEW, fields))
    assert "Bridge=br0" in whole
    assert "<html" in whole
    assert not Machine.objects.exists()


def test_it_warns_of_what_will_disappoint(as_admin, alpha):
    alpha.facts["networkd"] = False
    alpha.save()
    assert "systemd-networkd is not running on alpha" in text(
        as_admin.post(PREVIEW, form(), headers={"HX-Request": "true"})
    )


def test_it_says_why_there_are_no_files_to_show(as_admin, alpha):
    page = text(as_admin.post(PREVIEW, form(memory_max="12"), headers={"HX-Request": "true"}))
    assert "less than 1 MiB" in page


# --- who may


def test_it_needs_the_right_to_build(as_viewer, client, alpha):
    assert as_viewer.get(URL).status_code == 403
    assert as_viewer.post(URL, form()).status_code == 403
    assert as_viewer.post(PREVIEW, form()).status_code == 403
    assert client.post(URL, form()).url.startswith("/accounts/login/")
    assert not Job.objects.exists()


@pytest.mark.parametrize(("zone", "said"), [("Europe/Berlin", True), ("UTC", False)])
def test_a_machine_with_a_zone_of_its_own_keeps_it(as_admin, alpha, zone, said):
    """Else systemd-nspawn gives it the host's at every start."""
    as_admin.post(URL, form(timezone=zone))
    order = orders.from_wire(Job.objects.get().order)
    assert ("Timezone=off\n" in order.configuration.nspawn) == said
    shown = text(as_admin.post(PREVIEW, form(timezone=zone, name="other"), HTTP_HX_REQUEST="true"))
    assert ("Timezone=off" in shown) == said
