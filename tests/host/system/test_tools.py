"""Which tools are here, and what is said before work that needs one begins."""

import pytest

from machines.contract import tools as table
from machines.contract.problems import Problem
from machines.host.doctor import host_checks
from machines.host.system import tools


@pytest.fixture
def bare(programs, monkeypatch):
    """A host on which nothing is installed but what the test puts there."""
    monkeypatch.setenv("NSPAWNPANEL_PATH", str(programs.folder))
    monkeypatch.setattr(tools, "_INSIDE", str(programs.folder))
    return programs


def test_work_is_refused_before_it_begins_with_everything_that_is_missing(bare):
    bare.says("apt-get")
    bare.says("tar")
    with pytest.raises(Problem, match=r"^zstd is not installed on this host\.") as caught:
        tools.need("export")
    assert (caught.value.code, caught.value.hint) == ("tool-missing", "Install what is missing there: apt install zstd")
    bare.says("zstd")
    tools.need("export")
    with pytest.raises(Problem, match=r"mkfs\.btrfs and btrfs are not installed") as both:
        tools.need("pool")
    assert both.value.hint.endswith("apt install btrfs-progs")


def test_packages_have_the_names_of_the_host_s_own_manager(bare):
    bare.says("dnf")
    with pytest.raises(Problem) as caught:
        tools.need("signatures", "unpack-xz")
    assert caught.value.hint.endswith("dnf install gnupg2 xz")


def test_either_of_two_will_do(bare):
    bare.says("debootstrap")
    assert "mmdebstrap" not in tools.missing()


def test_the_doctor_names_every_tool_that_is_missing_with_what_it_is_for(bare):
    for group in (group for work in table.EXPECTED for group in table.WORKS[work].needs):
        bare.says(group[0])
    assert [finding.code for finding in host_checks.tools(None)] == ["tools-there"]
    (bare.folder / "zstd").unlink()
    (bare.folder / "mmdebstrap").unlink()
    [finding] = host_checks.tools(None)
    assert finding.code == "tools-missing"
    assert finding.facts["tools"] == (
        "mmdebstrap (building Debian and Ubuntu), zstd (exporting machines, importing zstd archives)"
    )
    assert finding.facts["packages"] == "mmdebstrap zstd"
