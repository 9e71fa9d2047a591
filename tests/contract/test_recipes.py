"""Recipes and first-boot answers: nothing in them can become an option, a second line or a path."""

import pytest
from pydantic import TypeAdapter, ValidationError

from machines.contract import recipes
from machines.contract.problems import BadValue
from machines.contract.recipes import BuildSecrets, DebianRecipe, FirstBoot

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx+/= ada@desk"


@pytest.mark.parametrize(
    ("check", "texts"),
    [
        (recipes.package, ["nginx", "libstdc++6", "0ad", "python3.11-venv"]),
        (recipes.release, ["bookworm", "trixie", "sid", "bookworm-backports"]),
        (recipes.mirror, ["", "http://mirror.example/debian", "https://[2001:db8::1]:8080/x/", "file:///srv/mirror"]),
        (recipes.mirror, ["https://ours/~ada/x@1"]),
        (recipes.ssh_key, [KEY, "ssh-rsa AAAA", "sk-ssh-ed25519@openssh.com AAAA= me"]),
        (recipes.hostname, ["", "web", "web-1.example"]),
        (recipes.locale, ["", "C.UTF-8", "en_GB.UTF-8", "de_DE@euro"]),
        (recipes.timezone, ["", "UTC", "Europe/Berlin", "America/Argentina/Ushuaia"]),
        (recipes.password_hash, ["", "$y$j9T$abcdefgh$ijklmnop", "$6$saltsalt$hashhash"]),
    ],
)
def test_it_takes(check, texts):
    for text in texts:
        assert check(text) == text


@pytest.mark.parametrize(
    ("check", "texts"),
    [
        (recipes.package, ["", "a", "-rf", "Nginx", "a b", "nginx;id", "nginx\n", "a" * 101, "--include=x"]),
        (recipes.release, ["", "Bookworm", "-x", "a/b", "bookworm\n", "../x"]),
        (recipes.mirror, ["ftp://x", "http://", "http://a b", "deb http://x", "http://x\n", "http://" + "a" * 500,
                           "file:///srv/mirror/../../etc", "https://ours/debian/..", "https://ours/%2e%2E/x",
                           "https://ada:secret@ours/debian", "https://ours@evil", "https://ours?@evil/x", "https://ours#@evil"]),
        (recipes.ssh_key, ["", "ssh-dss AAAA", "AAAA", KEY + "\nssh-rsa AAAA", 'command="id" ' + KEY, "-----BEGIN", "ssh-rsa " + "A" * 8192]),
        (recipes.hostname, ["-web", "web-", "a_b", "Web", "a" * 65, "web\n", "a..b"]),
        (recipes.locale, ["-x", "en GB", "C.UTF-8\n", "../x"]),
        (recipes.timezone, ["../etc/passwd", "/etc", "Europe/Berlin/x/y", "UTC\n", "Europe//Berlin"]),
        (recipes.password_hash, ["secret", "$1$salt$hash1234", "$5$salt$hash12345", "$y$j9T$abc\n", "$6$a:b$cdefghij"]),
    ],
)  # fmt: skip
def test_it_refuses(check, texts):
    for text in texts:
        with pytest.raises(BadValue):
            check(text)


def test_a_field_too_many_is_refused():
    for model in (DebianRecipe, FirstBoot, BuildSecrets):
        with pytest.raises(ValidationError):
            model(**{"release": "bookworm"} if model is DebianRecipe else {}, surprise=1)


def test_lists_are_bounded():
    with pytest.raises(ValidationError):
        DebianRecipe(release="bookworm", packages=("nginx",) * 501)
    with pytest.raises(ValidationError):
        FirstBoot(ssh_keys=(KEY,) * 51)


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.DebianRecipe(release="trixie", prime=True), recipes.DnfRecipe(release="43", packages=("@core",)),
        recipes.ArchRecipe(), recipes.SuseRecipe(release="tumbleweed"), recipes.CloneRecipe(source="web"),
        recipes.PullRecipe(url="https://images.example/x.tar.xz"),
        recipes.ArchiveRecipe(url="https://panel.example/archives/1/", sha256="a" * 64, size=1),
    ],
    ids=lambda recipe: recipe.kind,
)  # fmt: skip
def test_every_kind_goes_there_and_back_and_has_a_title(recipe):
    read = TypeAdapter(recipes.Recipe).validate_python(recipe.model_dump(mode="json"))
    assert read == recipe
    assert recipes.title_of(read)
    assert recipes.key_of(read) == recipes.key_of(recipe)


def test_a_recipe_without_a_kind_is_of_debian():
    assert TypeAdapter(recipes.Recipe).validate_python({"release": "sid"}) == recipes.DebianRecipe(release="sid")


def test_what_decides_the_tree_decides_the_key():
    recipe = recipes.DebianRecipe(release="trixie")
    keys = {recipes.key_of(recipe), recipes.key_of(recipe, ("locales",)),
            recipes.key_of(recipe.model_copy(update={"trim": True}))}  # fmt: skip
    assert len(keys) == 3
    assert recipes.key_of(recipe, ("a", "b")) == recipes.key_of(recipe, ("b", "a"))


@pytest.mark.parametrize("name", ["root", "www-data", "systemd-oom", "Ada", "9x", "a b", "a:b", "-x"])
def test_who_cannot_be_a_user(name):
    with pytest.raises(BadValue):
        recipes.login(name)


@pytest.mark.parametrize(
    "text", ["", "file:///etc/shadow", "ftp://x/y", "https://x/../y", "https://me:secret@x/y", "http://me@x"]
)
def test_what_cannot_be_pulled(text):
    with pytest.raises(BadValue):
        recipes.address(text)


@pytest.mark.parametrize("name", ["-y", "--installroot=/", "a b", "", "@"])
def test_no_package_is_an_option(name):
    with pytest.raises(BadValue):
        recipes.other_package(name)


@pytest.mark.parametrize(
    "url",
    ["https://a.example/,https://b.example/", "https://a.example/?credentials=/root/x", "https://a.example/;x", "https://a.example/#x"],
)  # fmt: skip
def test_an_rpm_repository_is_one_address_without_options(url):
    with pytest.raises(BadValue):
        recipes.one_address(url)


@pytest.mark.parametrize("suite", ["x/../../evil", "a/.."])
def test_a_suite_leads_nowhere_else(suite):
    with pytest.raises(BadValue):
        recipes.suite(suite)
    assert recipes.suite("stable/updates") == "stable/updates"
