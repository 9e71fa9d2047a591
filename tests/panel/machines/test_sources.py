"""A new machine from each source: what is ordered, what is known before, what is refused."""

import json
from base64 import b64encode
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from nacl.public import PrivateKey

from machines.contract import envelope, orders, recipes
from machines.models import Archive, Event, Job, Machine, Revision
from machines.panel.images import saved_recipes
from machines.panel.images.passwords import crypt
from tests import make
from tests.panel.machines.test_new import URL, form, text

HTMX = {"HX-Request": "true"}
SUM = "a" * 64

TOOLS = dict.fromkeys(("mmdebstrap", "rpm", "pacman", "gpg", "systemd-pull", "systemd-dissect", "tar", "zstd"), "1")


@pytest.fixture
def alpha(db):
    own = PrivateKey.generate()
    host = make.host("alpha", facts={"systemd": 257, "tools": TOOLS, "policy": {"unverified_pulls": "never"}})
    host.box_key = b64encode(bytes(own.public_key)).decode()
    host.save()
    host.own = own
    return host


@pytest.fixture
def small(admin):
    return saved_recipes.create(
        "Small", "", recipes.DebianRecipe(release="trixie", packages=("curl",)), by=admin, team=make.team()
    )


def ordered() -> orders.Build:
    return orders.from_wire(Job.objects.get().order)


def with_base(host, recipe, *, days: int = 3, **first_boot):
    """A host that has built this recipe before, in 42 seconds, and once more from the base in one."""
    end = timezone.now() - timedelta(days=days)
    order = make.build_order().model_copy(update={"recipe": recipe, "first_boot": recipes.FirstBoot(**first_boot)})
    ids = {"host": host, "recipe_key": recipes.key_of(recipe), "state": "succeeded", "finished_at": end}
    jobs = [
        make.job(order, on=ids["host"], recipe_key=ids["recipe_key"], state="succeeded", finished_at=end,
                 started_at=end - timedelta(seconds=seconds), result={"base": {"fresh": fresh}})
        for seconds, fresh in ((42, True), (1, False))
    ]  # fmt: skip
    host.facts["bases"] = [{"id": "0123456789abcdef", "key": "k", "built": end.timestamp(), "job": str(jobs[0].uuid)}]
    host.save()


# --- a saved recipe


def test_a_saved_recipe_is_what_comes_first(as_admin, alpha, small):
    page = text(as_admin.get(URL))
    assert 'value="recipe" checked' in page
    assert "Small" in page
    assert "First build on alpha. The next machine" in page


def test_of_several_recipes_the_first_the_host_can_build_is_offered(as_admin, alpha, small, admin):
    saved_recipes.create("Arch", "", recipes.ArchRecipe(), by=admin, team=make.team())
    page = as_admin.get(f"{URL}?host=alpha")
    assert f'<option value="{small.pk}" selected>' in text(page)
    assert "pacstrap" not in text(page)


def test_it_orders_the_recipe_and_keeps_which_version(as_admin, alpha, small):
    as_admin.post(URL, form(source="recipe", recipe=small.pk))
    job = Job.objects.get()
    assert ordered().recipe == small.current.content
    assert (job.recipe_version, job.recipe_key) == (small.current, recipes.key_of(small.current.content))
    assert (ordered().fresh, ordered().first_boot.new_identity) == (False, True)


def test_an_archived_recipe_is_not_built(as_admin, alpha, small):
    saved_recipes.set_archived(small, archived=True)
    answer = as_admin.post(URL, form(source="recipe", recipe=small.pk))
    assert answer.status_code == 422
    assert "There is no such recipe." in text(answer)


def test_without_a_recipe_it_leads_to_the_starters(as_admin, alpha):
    page = text(as_admin.get(f"{URL}?source=recipe"))
    assert "There are no recipes yet." in page
    assert "Add a starter recipe" in page


def test_it_says_how_long_it_takes_from_the_base(as_admin, alpha, small):
    with_base(alpha, small.current.content)
    page = text(as_admin.get(f"{URL}?recipe={small.pk}&host=alpha"))
    assert "Ready in about 1\u00a0s: alpha has its base image, built" in page
    assert "3\u00a0d ago" in page
    assert 'name="fresh"' in page
    as_admin.post(URL, form(source="recipe", recipe=small.pk, fresh="on"))
    assert orders.from_wire(Job.objects.first().order).fresh


def test_another_first_boot_needs_another_base(as_admin, alpha, small):
    with_base(alpha, small.current.content)
    chosen = {"source": "recipe", "recipe": small.pk, "choose": "1"}
    page = text(as_admin.post(URL, form(**chosen, locale="de_DE.UTF-8"), headers=HTMX))
    assert "First build on alpha, usually 42\u00a0s." in page
    assert "Ready in about" in text(as_admin.post(URL, form(**chosen), headers=HTMX))


def test_a_host_without_the_base_says_what_it_took_elsewhere(as_admin, alpha, small):
    with_base(alpha, small.current.content)
    make.host("beta")
    page = text(as_admin.get(f"{URL}?recipe={small.pk}&host=beta"))
    assert "First build on beta, usually 42\u00a0s elsewhere." in page


# --- a distribution


@pytest.mark.parametrize(
    ("distribution", "fields", "recipe"),
    [
        ("ubuntu", {"release": "noble", "components": "main universe"}, recipes.DebianRecipe(distribution="ubuntu", release="noble", components=("main", "universe"))),
        ("debian", {"release": "bookworm", "variant": "standard", "prime": "on", "repositories-TOTAL_FORMS": "1", "repositories-INITIAL_FORMS": "0",
                    "repositories-0-uri": "http://x.example/d", "repositories-0-suite": "s"},
         recipes.DebianRecipe(release="bookworm", variant="standard", prime=True, repositories=(recipes.AptRepository(uri="http://x.example/d", suite="s"),))),
    ],
)  # fmt: skip
def test_a_distribution_is_built_as_chosen(distribution, fields, recipe, as_admin, alpha):
    as_admin.post(URL, form(source="distribution", distribution=distribution, **fields))
    assert ordered().recipe == recipe


def test_another_distribution_brings_its_own_fields(as_admin, alpha):
    page = text(as_admin.post(URL, form(source="distribution", distribution="rocky", choose="1"), headers=HTMX))
    assert 'value="10"' in page
    assert "Short name" in page  # rows of rpm repositories, not of apt
    assert "Suite" not in page


@pytest.mark.parametrize(
    ("distribution", "tool", "package"),
    [("fedora", "dnf or dnf5", "dnf"), ("arch", "pacstrap", "arch-install-scripts"), ("opensuse", "zypper", "zypper")],
)
def test_a_missing_tool_is_named_before_anything_is_ordered(distribution, tool, package, as_admin, alpha):
    said = f"This needs {tool}, which alpha does not have. Install it there: apt install {package}."
    given = form(
        source="distribution", distribution=distribution, release="10" if distribution != "opensuse" else "16.0"
    )
    assert said in text(as_admin.post(URL, given | {"choose": "1"}, headers=HTMX))
    answer = as_admin.post(URL, given)
    assert answer.status_code == 422
    assert said in text(answer)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("tool", "fields", "package"),
    [
        ("systemd-pull", {"source": "pull", "url": "https://x.example/i.tar.xz"}, "systemd-container"),
        ("gpg", {"source": "pull", "url": "https://x.example/i.tar.xz", "verify": "signature"}, "gnupg2"),
        ("systemd-dissect", {"source": "pull", "url": "https://x.example/i.raw", "format": "raw"}, "systemd-container"),
    ],
)
def test_what_a_pull_needs_is_named_by_the_host_s_own_package(tool, fields, package, as_admin, alpha):
    alpha.facts |= {"tools": {name: "1" for name in TOOLS if name != tool}, "package_manager": "dnf"}
    alpha.save()
    answer = as_admin.post(URL, form(**fields))
    assert answer.status_code == 422
    assert f"This needs {tool}, which alpha does not have. Install it there: dnf install {package}." in text(answer)


def test_what_an_archive_is_packed_with_must_be_there(as_admin, alpha, settings):
    settings.PANEL_URL = "https://panel.example"
    archive = Archive.objects.create(title="web.tar.xz", state="ready", size=9, received=9, sha256=SUM)
    page = text(as_admin.post(URL, form(source="archive", archive=archive.pk, choose="1"), headers=HTMX))
    assert "This needs xz, which alpha does not have. Install it there: apt install xz-utils." in page


def test_a_chosen_tool_must_be_there_too(as_admin, alpha):
    assert "apt install debootstrap" in text(as_admin.post(URL, form(tool="debootstrap")))


def test_a_host_that_has_told_nothing_is_not_accused(as_admin, alpha):
    alpha.facts = {}
    alpha.save()
    assert as_admin.post(URL, form(source="distribution", distribution="arch")).status_code == 302


# --- an address


def test_an_image_is_pulled_and_verified(as_admin, alpha):
    as_admin.post(
        URL,
        form(
            source="pull",
            url="https://x.example/i.tar.xz",
            verify="sha256",
            sha256=SUM.upper(),
            copied="1",
            new_identity="on",
        ),
    )
    assert ordered().recipe == recipes.PullRecipe(url="https://x.example/i.tar.xz", verify="sha256", sha256=SUM)
    boot = ordered().first_boot
    assert (boot.new_identity, boot.locale, boot.timezone) == (True, "", "")


def test_no_verification_is_only_for_hosts_that_allow_it(as_admin, alpha):
    fields = form(source="pull", url="https://x.example/i.tar.xz", verify="none")
    assert "No verification" not in text(as_admin.get(f"{URL}?source=pull"))
    assert as_admin.post(URL, fields).status_code == 422
    alpha.facts["policy"]["unverified_pulls"] = "allowed"
    alpha.save()
    assert 'class="text-risk"' in text(as_admin.get(f"{URL}?source=pull"))
    as_admin.post(URL, fields)
    event = Event.objects.get(kind="unverified-pull")
    assert (event.actor_name, event.host) == ("ada", alpha)
    assert "https://x.example/i.tar.xz without verification" in event.text
    job = Job.objects.get()
    for page in (f"/jobs/{job.pk}/", "/jobs/"):
        assert "tag-danger" in text(as_admin.get(page)), page
    assert 'tag-danger">unverified-pull<' in text(as_admin.get("/events/"))
    assert "such images are not verified" in text(as_admin.get("/hosts/alpha/"))
    Job.objects.update(state="failed")
    Revision.objects.update(state="draft", number=None)
    as_admin.post(f"/jobs/{job.pk}/retry/", {"key": uuid4()})
    assert f"as job {job.pk} had (job {job.pk + 1})" in Event.objects.first().text


def test_an_address_the_host_would_not_connect_to_is_told_before_it_is_asked(as_admin, alpha):
    given = form(source="pull", url="http://169.254.169.254/i.tar.xz", verify="sha256", sha256=SUM)
    for rules, status in ((["public", "private"], 422), (["169.254.0.0/16"], 302), (["nonsense"], 302), ("x", 302)):
        alpha.facts["policy"]["pull_addresses"] = rules
        alpha.save()
        answer = as_admin.post(URL, given | {"key": str(uuid4()), "name": f"web{status}{len(rules)}{rules[0][0]}"})
        assert answer.status_code == status, rules
        if status == 422:
            assert "169.254.169.254 is a link-local address" in text(answer)
            assert "pull_addresses" in text(answer)


def test_a_verified_pull_is_shown_like_any_other_job(as_admin, alpha):
    as_admin.post(URL, form(source="pull", url="https://x.example/i.tar.xz", verify="sha256", sha256=SUM))
    job = Job.objects.get()
    for page in (f"/jobs/{job.pk}/", "/jobs/", "/hosts/alpha/"):
        assert "tag-danger" not in text(as_admin.get(page)), page
    assert [event.kind for event in Event.objects.all()] == ["job-requested"]


def test_a_saved_pull_nobody_verifies_is_refused_where_the_policy_says_so(as_admin, admin, alpha):
    pull = saved_recipes.create(
        "Wild", "", recipes.PullRecipe(url="https://x.example/i.tar", verify="none"), by=admin, team=make.team()
    )
    answer = as_admin.post(URL, form(source="recipe", recipe=pull.pk))
    assert answer.status_code == 422
    assert "The policy of alpha does not allow" in text(answer)
    assert not Event.objects.exists()


# --- an archive


def test_an_archive_travels_with_a_token_for_this_host(as_admin, alpha, settings):
    settings.PANEL_URL = "https://panel.example"
    archive = Archive.objects.create(title="web.tar.zst", state="ready", size=9, received=9, sha256=SUM)
    assert "web.tar.zst" in text(as_admin.get(f"{URL}?archive={archive.pk}"))
    as_admin.post(URL, form(source="archive", archive=archive.pk, copied="1"))
    assert ordered().recipe.sha256 == SUM
    assert ordered().first_boot.new_identity is False
    sealed = json.loads(envelope.unseal_secret(Job.objects.get().sealed, alpha.own))
    assert sealed["token"]


def test_an_archive_hosts_cannot_reach_is_said_on_its_field(as_admin, alpha, settings):
    settings.PANEL_URL = ""
    archive = Archive.objects.create(title="web.tar.zst", state="ready", size=9, received=9, sha256=SUM)
    answer = as_admin.post(URL, form(source="archive", archive=archive.pk))
    assert answer.status_code == 422
    assert "does not know the URL" in text(answer)


# --- a machine


def test_a_machine_of_the_host_is_copied(as_admin, alpha):
    make.machine("golden", on=alpha, read_only=True)
    make.machine("other", on=make.host("beta"))
    page = text(as_admin.get(f"{URL}?clone=golden&host=alpha"))
    assert "golden · template" in page
    assert ">other<" not in page
    assert 'name="new_identity"' in page
    as_admin.post(URL, form(source="clone", clone="golden", copied="1", new_identity="on"))
    assert ordered().recipe == recipes.CloneRecipe(source="golden")
    assert as_admin.post(URL, form(name="web-2", source="clone", clone="other")).status_code == 422


def test_a_copy_asks_for_its_identity_when_it_is_first_chosen(as_admin, alpha):
    make.machine("golden", on=alpha)
    page = text(as_admin.post(URL, form(source="clone", choose="1"), headers=HTMX))
    assert "checked" in page.split('name="new_identity"')[1].split(">")[0]
    kept = text(as_admin.post(URL, form(source="clone", choose="1", copied="1"), headers=HTMX))
    assert "checked" not in kept.split('name="new_identity"')[1].split(">")[0]


# --- first boot


def test_a_user_gets_a_hash_and_the_hosts_seal(as_admin, alpha):
    as_admin.post(URL, form(user="ada", user_password="correct horse"))
    job = Job.objects.get()
    kept = json.loads(envelope.unseal_secret(job.sealed, alpha.own))["user_password_hash"]
    assert crypt("correct horse", kept) == kept
    assert ordered().first_boot.user == "ada"
    assert "correct horse" not in json.dumps(job.order) + job.sealed


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"user": "root"}, "is a system user"),
        ({"user": "Ada!"}, "A username has lower-case letters"),
        ({"user_password": "x y"}, "Enter a username for this password."),
        ({"user": "ada", "user_password": "x" * 201}, "at most 200 characters"),
        ({"source": "clone"}, "Choose a machine to clone."),
        ({"source": "archive"}, "Choose an archive."),
        ({"source": "archive", "archive": "x"}, "is not a valid UUID"),
        ({"source": "recipe", "recipe": "x"}, "There is no such recipe."),
        ({"source": "pull"}, "Give the URL of the image"),
    ],
)
def test_what_is_wrong_is_said(fields, said, as_admin, alpha):
    answer = as_admin.post(URL, form(**fields))
    assert answer.status_code == 422
    assert said in text(answer)
    assert "x y" not in text(answer)
    assert not Machine.objects.exists()


@pytest.mark.parametrize(
    "query",
    [
        "recipe=x",
        "recipe=99",
        "archive=x",
        "archive=%00",
        "clone=%00",
        "source=x",
        "distribution=x",
        "like=9",
        "like=x",
        "source=pull&url=%3Cb",
    ],
)
def test_nonsense_in_the_address_is_harmless(query, as_admin, alpha, small):
    assert as_admin.get(f"{URL}?{query}").status_code == 200


# --- once more


def test_like_takes_what_it_was_made_of_and_no_name(as_admin, alpha, small):
    as_admin.post(URL, form(source="distribution", distribution="debian", release="bookworm", packages="nginx"))
    page = text(as_admin.get(f"{URL}?like={Job.objects.get().pk}"))
    assert '<option value="bookworm" selected>' in page
    assert "\nnginx</textarea>" in page
    assert 'value="web"' not in page


def test_again_knows_each_source(as_admin, alpha, small):
    make.machine("golden", on=alpha)
    for number, fields in enumerate((
        {"source": "recipe", "recipe": small.pk}, {"source": "clone", "clone": "golden"},
        {"source": "pull", "url": "https://x.example/i.tar.xz"},
    )):  # fmt: skip
        as_admin.post(URL, form(name=f"m{number}", **fields))
        page = text(as_admin.get(f"{URL}?again={Job.objects.first().pk}"))
        assert f'value="{fields["source"]}" checked' in page
        assert f'value="m{number}"' in page
