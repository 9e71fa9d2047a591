"""The one table of tools: every work can be done with tools whose package is known, and what is lacking is a sentence."""

from pathlib import Path

import pytest

from machines.contract import recipes, tools

SUM = "a" * 64


def test_every_tool_has_a_package():
    assert {tool for work in tools.WORKS.values() for group in work.needs for tool in group} <= set(tools.PACKAGES)


@pytest.mark.parametrize(
    ("recipe", "works"),
    [
        (recipes.DebianRecipe(release="trixie"), ["debian"]),
        (recipes.DnfRecipe(release="43"), ["dnf"]),
        (recipes.CloneRecipe(source="web"), []),
        (recipes.PullRecipe(url="https://x.example/i.raw", format="raw"), ["pull", "signatures", "disk-images"]),
        (recipes.PullRecipe(url="https://x.example/i.tar", verify="sha256", sha256=SUM), ["pull"]),
        (recipes.ArchiveRecipe(title="x.TAR.ZST", url="https://x.example/a", sha256=SUM, size=1), ["unpack-zst"]),
        (recipes.ArchiveRecipe(title="x.tar", url="https://x.example/a", sha256=SUM, size=1), []),
    ],
)
def test_a_recipe_needs_what_its_builder_runs(recipe, works):
    assert list(tools.of_recipe(recipe)) == works


def test_of_several_that_will_do_one_is_enough():
    assert tools.lacking(["debian"], {"debootstrap"}) == []
    assert tools.lacking(["debian", "export"], {"tar"}) == [("mmdebstrap", "debootstrap"), ("zstd",)]


def test_a_recipe_that_names_its_tool_takes_no_other():
    wanted = recipes.DebianRecipe(release="trixie", tool="debootstrap")
    assert tools.groups_of(wanted, {"mmdebstrap"}) == [("debootstrap",)]


def test_what_is_lacking_is_a_sentence_with_the_command():
    groups = [("mmdebstrap", "debootstrap"), ("xz",)]
    assert tools.sentence(groups, "alpha", "zypper") == (
        "This needs mmdebstrap or debootstrap and xz, which alpha does not have. "
        "Install it there: zypper install mmdebstrap xz."
    )
    assert tools.sentence([], "alpha") == ""


def test_the_readme_installs_what_every_host_should_have():
    lines = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    installed = {word for line in lines if line.startswith("apt-get install") for word in line.split("#")[0].split()}
    wanted = {tools.package(group[0]) for work in tools.EXPECTED for group in tools.WORKS[work].needs}
    assert wanted - {"systemd", "tar"} <= installed  # those two are in every Debian that runs systemd
