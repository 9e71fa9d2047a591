"""Settings files that are links: shown with where they lead, and what an apply would do is said before."""

import pytest

from machines.models import Host, Machine, ObservedFiles, Revision
from tests import make

ETC = "/etc/systemd/nspawn/web.nspawn"
MANAGED = "/srv/git/web.nspawn"
HOLDS, EDIT = "/hosts/alpha/machines/web/effective/", "/hosts/alpha/machines/web/config/"
REVIEW = f"{EDIT}review/"


@pytest.fixture
def web(alpha):
    machine = make.machine("web", on=alpha)
    Revision.objects.create(machine=machine, state="draft", memory_max="1G")
    return machine


def link(machine: Machine, target: str, **told: object) -> None:
    file = {"path": ETC, "kind": "nspawn", "form": "text", "text": "[Exec]\n", "sha256": "a" * 64, "target": target}
    ObservedFiles.objects.create(machine=machine, told=[file | told])


def test_a_link_is_shown_with_where_it_leads_and_the_refusal_is_said_before(as_admin, web):
    link(web, MANAGED)
    for address in (HOLDS, EDIT, f"{EDIT}raw/", REVIEW):
        page = as_admin.get(address).content.decode()
        assert f"<code>{ETC}</code> is a symlink to <code>{MANAGED}</code>" in page
        assert "an apply is rejected" in page
    assert 'class="btn btn-primary" disabled' in page
    assert f"<code>{ETC}</code> → <code>{MANAGED}</code>" in as_admin.get(HOLDS).content.decode()


def test_where_the_host_writes_what_a_link_leads_to_that_is_said(as_admin, web):
    Host.objects.update(facts={"policy": {"linked_files": "follow"}})
    link(web, MANAGED)
    page = as_admin.get(REVIEW).content.decode()
    assert "An apply writes the target file; the symlink stays." in page
    assert 'class="btn btn-primary" disabled' not in page


def test_a_link_to_dev_null_is_called_what_it_is(as_admin, web):
    """It is read as an empty file, whose text is not waited for."""
    Host.objects.update(facts={"policy": {"linked_files": "follow"}})
    link(web, "/dev/null", text="", sha256="absent")
    page = as_admin.get(HOLDS).content.decode()
    assert "That masks it: systemd reads nothing from it" in page
    assert "have not arrived" not in page
    assert "Import as revision 1" not in page
    assert 'class="btn btn-primary" disabled' in as_admin.get(REVIEW).content.decode()
