"""Each kind's form: what is typed becomes the recipe, the recipe becomes what stands in the form, nonsense is named."""

import pytest
from django.http import QueryDict

from machines.contract import recipes
from machines.panel.forms.recipes import SYSTEMS, filled, form_for, system_of

KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQENBF\n-----END PGP PUBLIC KEY BLOCK-----"
APT = recipes.AptRepository(
    uri="https://packages.example/debian", suite="stable", components=("main", "contrib"), key=KEY
)
RPM = recipes.RpmRepository(id="base", url="https://mirror.example/$releasever/os/", key=KEY)
EVERYTHING = [
    recipes.DebianRecipe(
        release="bookworm", variant="important", components=("main", "contrib"), repositories=(APT,), packages=("curl", "vim"),
        mirror="http://mirror.example/debian", tool="debootstrap", proxy="http://proxy.example:3128", prime=True, trim=True,
    ),
    recipes.DebianRecipe(distribution="ubuntu", release="noble", components=("main", "universe")),
    recipes.DnfRecipe(release="43", repositories=(RPM,), packages=("@core", "vim-minimal"), prime=True),
    recipes.DnfRecipe(distribution="centos", release="10-stream"),
    recipes.DnfRecipe(distribution="almalinux", release="10"),
    recipes.DnfRecipe(distribution="rocky", release="9"),
    recipes.ArchRecipe(packages=("nginx",), mirror="https://mirror.example/arch", trim=True),
    recipes.SuseRecipe(release="tumbleweed", repositories=(RPM,)),
    recipes.PullRecipe(url="https://images.example/x.tar.xz", format="raw", verify="sha256", sha256="a" * 64),
    recipes.PullRecipe(url="https://images.example/x.tar.xz"),
]  # fmt: skip


def sent(form) -> QueryDict:
    """What a browser sends of a form as it stands."""
    data = QueryDict(mutable=True)
    parts = [form, *(form.repositories.forms if form.repositories else [])]
    for part in parts:
        for field in part:
            value = field.value()
            if value not in (None, "", False):
                data[field.html_name] = "on" if value is True else value
    if form.repositories is not None:
        data["repositories-TOTAL_FORMS"] = data["repositories-INITIAL_FORMS"] = str(len(form.repositories.forms))
    return data


@pytest.mark.parametrize("recipe", EVERYTHING, ids=lambda r: f"{system_of(r)}-{len(str(r))}")
def test_what_stands_in_the_form_is_the_recipe_again(recipe):
    data = sent(filled(recipe, may_skip=True))
    data["repositories-INITIAL_FORMS"] = "0"
    form = form_for(system_of(recipe), data, may_skip=True)
    assert form.is_valid(), form.trouble()
    assert form.to_recipe() == recipe


def test_every_system_is_tried_above():
    assert {system_of(recipe) for recipe in EVERYTHING} == set(SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_new_form_sent_as_it_is_says_only_what_is_missing(system):
    form = form_for(system, sent(form_for(system)))
    missing = {"pull": ["url"], "debian": ["release"], "ubuntu": ["release"]}.get(system, [])
    form.is_valid()
    assert list(form.errors) == missing


ROW = {"repositories-TOTAL_FORMS": "1", "repositories-INITIAL_FORMS": "0"}


@pytest.mark.parametrize(
    ("system", "fields", "field", "said"),
    [
        ("debian", {"release": "potato"}, "Release", "potato is not one of the available choices"),
        ("ubuntu", {"release": "trixie"}, "Release", "trixie is not one of the available choices"),
        ("debian", {"components": "main ../x"}, "Components", "“../x” is not a component"),
        ("debian", {"packages": "curl BAD!"}, "Additional packages", "“BAD!” is not a Debian package name"),
        ("debian", {"mirror": "ftp://x"}, "Mirror", "A mirror is a URL"),
        ("debian", {"mirror": "http://x/a/../b"}, "Mirror", "contains “..”"),
        ("debian", {"proxy": "http://u:p@x:1"}, "Proxy", "A password does not belong in a recipe"),
        ("debian", {"tool": "yum"}, "Built by", "not one of the available choices"),
        ("debian", {"variant": "huge"}, "Variant", "not one of the available choices"),
        ("debian", ROW | {"repositories-0-uri": "ftp://x", "repositories-0-suite": "x"},
         "Repository 1, Address", "A mirror is a"),
        ("debian", ROW | {"repositories-0-uri": "http://x.example/", "repositories-0-suite": "-x"},
         "Repository 1, Suite", "A suite looks like"),
        ("debian", ROW | {"repositories-0-suite": "x"}, "Repository 1, Address", "or remove the row"),
        ("debian", ROW | {"repositories-0-uri": "http://x.example/", "repositories-0-suite": "x", "repositories-0-key": "key"},
         "Repository 1, Signing key", "OpenPGP public key"),
        ("fedora", {"release": "trixie"}, "Release", "is not a release such as 43"),
        ("fedora", {"release": "--rpm"}, "Release", "is not a release such as 43"),
        ("fedora", {"packages": "-y"}, "Additional packages", "“-y” is not a package name"),
        ("rocky", ROW | {"repositories-0-id": "base", "repositories-0-url": "http://x.example/"},
         "Repository 1, Signing key", "without a valid signature"),
        ("rocky", ROW | {"repositories-0-id": "a b", "repositories-0-url": "http://x.example/", "repositories-0-key": KEY},
         "Repository 1, Short name", "The short name"),
        ("arch", {"mirror": "nowhere"}, "Mirror", "A mirror is a URL"),
        ("opensuse", {"release": "leap"}, "Release", "is not a release such as"),
        ("pull", {"url": ""}, "Image URL", "Give the URL of the image"),
        ("pull", {"url": "file:///etc/passwd"}, "Image URL", "Give the URL of the image"),
        ("pull", {"url": "https://x.example/i.tar", "verify": "sha256"}, "SHA-256 checksum", "Give the checksum"),
        ("pull", {"url": "https://x.example/i.tar", "verify": "sha256", "sha256": "abc"},
         "SHA-256 checksum", "64 characters"),
        ("pull", {"url": "https://x.example/i.tar", "verify": "none"}, "Verified", "none is not one of"),
    ],
)  # fmt: skip
def test_bad_input_is_named_on_its_field(system, fields, field, said):
    given = QueryDict(mutable=True)
    given.update({"release": {"ubuntu": "noble", "debian": "trixie"}.get(system, "10")} | fields)
    form = form_for(system, given)
    assert not form.is_valid()
    assert [(label, text) for _, label, text in form.trouble() if label == field and said in text]


def test_a_row_that_was_taken_away_counts_no_more():
    given = QueryDict(mutable=True)
    given.update({"release": "trixie", **ROW, "repositories-0-uri": "nonsense", "repositories-0-DELETE": "on"})
    form = form_for("debian", given)
    assert form.is_valid(), form.trouble()
    assert form.to_recipe().repositories == ()


def test_another_systems_release_is_not_carried_over():
    given = QueryDict(mutable=True)
    given.update({"release": "trixie", "packages": "vim", "system": "fedora"})
    form = form_for("fedora", given)
    form.clear_errors()
    assert (form["release"].value(), form["packages"].value(), form.errors) == ("44", "vim", {})


def test_what_is_folded_away_opens_when_it_says_something():
    assert not form_for("debian").unusual
    assert not form_for("debian", sent(form_for("debian"))).unusual
    for recipe in EVERYTHING[:3]:
        assert filled(recipe).unusual
    wrong = QueryDict(mutable=True)
    wrong.update({"release": "trixie", "proxy": "nonsense"})
    assert form_for("debian", wrong).unusual
