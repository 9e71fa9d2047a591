"""Recipes: the list, one, its versions, and what is done with them."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from machines.contract import orders, recipes
from machines.models import Job, Recipe, RecipeVersion
from machines.panel.images import recipe_runs, saved_recipes
from tests import make
from tests.pages import text

URL = "/recipes/"


def form(**fields):
    given = {
        "name": "Small", "description": "", "reason": "", "system": "debian", "release": "trixie", "packages": "curl",
        "repositories-TOTAL_FORMS": "0", "repositories-INITIAL_FORMS": "0",
    }  # fmt: skip
    return given | fields


@pytest.fixture
def small(admin) -> Recipe:
    return saved_recipes.create(
        "Small", "for trying", recipes.DebianRecipe(release="trixie"), by=admin, team=make.team()
    )


def run(recipe: Recipe, host, *, seconds: float = 40, state: str = "succeeded", fresh=True, **fields) -> Job:
    end = timezone.now()
    base = {"base": {"id": "0123456789abcdef", "fresh": fresh, "job": str(uuid4())}} if fresh is not None else {}
    order = make.build_order()
    return make.job(
        order, on=host, state=state, recipe_version=recipe.current, recipe_key=recipes.key_of(order.recipe),
        started_at=end - timedelta(seconds=seconds), finished_at=end, accepted_at=end, result=base, **fields,
    )  # fmt: skip


# --- the list


def test_an_empty_list_offers_starters(as_admin):
    page = text(as_admin.get(URL))
    for name, _, _ in saved_recipes.STARTERS.values():
        assert name in page
    assert "No recipes yet" in page


def test_a_viewer_sees_recipes_and_no_buttons(as_viewer, small):
    page = text(as_viewer.get(URL)) + text(as_viewer.get(f"{URL}{small.pk}/"))
    assert "Small" in page
    for absent in ("New recipe", "Build…", ">Archive<", "Starter", ">Edit<", "starter recipe"):
        assert absent not in page


@pytest.mark.parametrize("word", saved_recipes.STARTERS)
def test_a_starter_is_one_click(word, as_admin):
    assert as_admin.post(f"{URL}starters/", {"starter": word}).url == URL
    recipe = Recipe.objects.get()
    assert recipe.current.number == 1
    assert recipe.current.content == saved_recipes.STARTERS[word][2]
    assert as_admin.post(f"{URL}starters/", {"starter": word}).status_code == 409
    page = text(as_admin.get(URL))
    assert f'value="{word}"' not in page


def test_a_starter_nobody_knows_is_refused(as_admin):
    assert as_admin.post(f"{URL}starters/", {"starter": "x"}).status_code == 409


def test_the_list_tells_how_runs_went(as_viewer, small, alpha):
    for seconds, state, fresh in (
        (40, "succeeded", True),
        (50, "succeeded", True),
        (1, "succeeded", False),
        (9, "failed", None),
    ):
        run(small, alpha, seconds=seconds, state=state, fresh=fresh)
    page = text(as_viewer.get(URL))
    for shown in (
        "75 %",
        "45\u00a0s",
        "1\u00a0s from its base",
        "3 of the last 4 builds succeeded",
        'class="run-failed"',
    ):
        assert shown in page


def test_it_shows_thirty_bars_at_most(as_viewer, small, alpha):
    for _ in range(33):
        run(small, alpha)
    assert text(as_viewer.get(URL)).count("<rect") == 30


@pytest.fixture
def many(admin, alpha) -> list[Recipe]:
    """Twelve recipes with forty runs, two versions and a base on each of twelve hosts, and jobs under way."""
    found = []
    hosts = [make.host(f"host{number}") for number in range(12)]
    for number in range(12):
        recipe = saved_recipes.create(f"r{number}", "", recipes.ArchRecipe(), by=admin, team=make.team())
        saved_recipes.change(recipe, recipes.ArchRecipe(packages=("nano",)), by=admin, seen=1)
        found.append(recipe)
        for host in hosts if number else hosts * 4:
            run(recipe, host)
    for host in hosts:
        made = Job.objects.filter(host=host)
        host.facts["bases"] = [
            {"id": f"{place:016x}", "key": "k", "built": 1.7e9, "job": str(job.uuid), "bytes": 5 << 20, "packages": 7}
            for place, job in enumerate(made)
        ]
        host.save()
        make.job(orders.Start(name="web"), on=host, state="running")
    return found


def test_the_list_costs_five_queries_however_many(as_viewer, many, django_assert_max_num_queries):
    with django_assert_max_num_queries(5):
        page = text(as_viewer.get(URL))
    assert page.count('id="r-') == 12
    assert "12 jobs running" in page


def test_a_recipe_s_page_costs_five_queries_however_many(as_admin, many, django_assert_max_num_queries):
    with django_assert_max_num_queries(5):
        page = text(as_admin.get(f"{URL}{many[0].pk}/"))
    assert page.count("<rect") == recipe_runs.SHOWN
    assert page.count('id="base-') == 48, "every base that a run of it has made, those of old runs too"
    assert "version 2" in page


def test_a_base_is_shown_with_its_age(as_viewer, small, alpha):
    old = (timezone.now() - timedelta(days=3)).timestamp()
    job = run(small, alpha)
    alpha.facts["bases"] = [
        {"id": "0123456789abcdef", "key": "k", "built": old, "job": str(job.uuid), "bytes": 5 << 20, "packages": 7}
    ]
    alpha.save()
    assert "3\u00a0d ago" in text(as_viewer.get(URL))
    page = text(as_viewer.get(f"{URL}{small.pk}/"))
    assert "0123456789abcdef" in page
    assert "5\u00a0MiB" in page


def test_a_recipe_without_runs_beside_a_base_that_fits_it_says_where_that_is_from(as_viewer, small, alpha):
    assert "Not built yet. The first build on a host creates its base" in text(as_viewer.get(f"{URL}{small.pk}/"))
    key = recipes.key_of(recipes.DebianRecipe(release="trixie"))
    job = make.job(make.build_order(), on=alpha, state="succeeded", recipe_key=key)
    base = {"id": "0123456789abcdef", "key": key, "built": timezone.now().timestamp(), "job": str(job.uuid)}
    alpha.facts["bases"] = [base | {"bytes": 5 << 20, "packages": 7}]
    alpha.save()
    page = text(as_viewer.get(f"{URL}{small.pk}/"))
    assert "0123456789abcdef" in page
    assert "Not built yet. A matching base image already exists" in page


def test_hostile_bases_break_nothing(as_viewer, small, alpha):
    for bases in ("x", [1, {"id": "../x"}, {"id": "0123456789abcdef", "key": "k", "built": 1e300}], {"a": 1}):
        alpha.facts["bases"] = bases
        alpha.save()
        for page in (URL, f"{URL}{small.pk}/", "/hosts/alpha/", "/machines/"):
            assert as_viewer.get(page).status_code == 200


# --- the editor


def test_a_recipe_is_saved_with_its_first_version(as_admin):
    answer = as_admin.post(f"{URL}new/", form(name="  Web   server ", packages="nginx", prime="on"))
    recipe = Recipe.objects.get()
    assert answer.url == f"{URL}{recipe.pk}/"
    assert (recipe.name, recipe.author_name, recipe.current.number) == ("Web server", "ada", 1)
    assert recipe.current.content == recipes.DebianRecipe(release="trixie", packages=("nginx",), prime=True)


@pytest.mark.parametrize(
    "system", ["debian", "ubuntu", "fedora", "centos", "almalinux", "rocky", "arch", "opensuse", "pull"]
)
def test_every_system_has_its_page(system, as_admin):
    page = text(as_admin.get(f"{URL}new/?of={system}"))
    assert f'<option value="{system}" selected>' in page


def test_another_system_brings_its_fields_and_keeps_what_fits(as_admin):
    fields = form(system="fedora", name="Kept", packages="vim", choose="1")
    page = text(as_admin.post(f"{URL}new/", fields, headers={"HX-Request": "true"}))
    assert "<html" not in page
    assert 'value="44"' in page
    assert "\nvim</textarea>" in page
    whole = text(as_admin.post(f"{URL}new/", fields))
    assert 'value="Kept"' in whole
    assert "needs your attention" not in whole
    assert not Recipe.objects.exists()


def test_a_repository_row_is_added_without_javascript(as_admin):
    page = text(as_admin.post(f"{URL}new/", form(add="repositories")))
    assert 'name="repositories-0-uri"' in page


def test_bad_input_keeps_what_was_typed(as_admin):
    answer = as_admin.post(f"{URL}new/", form(packages="curl BAD!", name=""))
    page = text(answer)
    assert answer.status_code == 422
    for shown in ("Give the recipe a name.", "“BAD!” is not a Debian package name", "curl BAD!"):
        assert shown in page
    assert not Recipe.objects.exists()


def test_a_taken_name_is_refused_on_its_field(as_admin, small):
    answer = as_admin.post(f"{URL}new/", form(name="Small", team="ops"))
    assert answer.status_code == 422
    assert "There is a recipe “Small” already" in text(answer)


def test_a_change_is_a_new_version_and_the_old_one_stays(as_admin, small):
    as_admin.post(f"{URL}{small.pk}/edit/", form(packages="nginx", reason="serve", seen="1"))
    small.refresh_from_db()
    versions = {v.number: v.content.packages for v in small.versions.all()}
    assert versions == {1: (), 2: ("nginx",)}
    assert (small.current.number, small.current.reason) == (2, "serve")
    page = text(as_admin.get(f"{URL}{small.pk}/versions/2/"))
    assert "Version 1 → version 2" in page
    assert "+ " in page
    assert "nginx" in page


def test_saving_the_same_makes_no_version_but_renames(as_admin, small):
    as_admin.post(f"{URL}{small.pk}/edit/", form(name="Other", description="new words", packages="", seen="1"))
    small.refresh_from_db()
    assert (small.name, small.description, small.versions.count()) == ("Other", "new words", 1)


def test_two_people_do_not_overwrite_each_other(as_admin, small):
    as_admin.post(f"{URL}{small.pk}/edit/", form(packages="nginx", seen="1"))
    answer = as_admin.post(f"{URL}{small.pk}/edit/", form(packages="apache2", seen="1"))
    assert answer.status_code == 409
    assert "saved version 2" in text(answer)
    assert "apache2" in text(answer)
    assert 'name="seen" value="2"' in text(answer)
    assert RecipeVersion.objects.count() == 2


def test_an_old_version_is_restored_as_a_new_one(as_admin, small):
    as_admin.post(f"{URL}{small.pk}/edit/", form(packages="nginx", seen="1"))
    as_admin.post(f"{URL}{small.pk}/versions/1/restore/")
    small.refresh_from_db()
    assert (small.current.number, small.current.content.packages) == (3, ())
    as_admin.post(f"{URL}{small.pk}/versions/1/restore/")
    assert small.versions.count() == 3


def test_it_is_archived_and_back(as_admin, small):
    as_admin.post(f"{URL}{small.pk}/archive/")
    assert "No recipes yet" in text(as_admin.get(URL))
    assert "Small" in text(as_admin.get(f"{URL}?archived=1"))
    as_admin.post(f"{URL}{small.pk}/unarchive/")
    assert "No recipes yet" not in text(as_admin.get(URL))


def test_a_version_of_a_later_panel_is_shown_as_unreadable(as_admin, small):
    RecipeVersion.objects.update(spec={"kind": "quantum"})
    for page in (URL, f"{URL}{small.pk}/", f"{URL}{small.pk}/edit/", f"{URL}{small.pk}/versions/1/"):
        assert as_admin.get(page).status_code == 200
    assert as_admin.post(f"{URL}{small.pk}/versions/1/restore/").status_code == 409


@pytest.mark.parametrize(
    "address", ["9/", "9/edit/", "{pk}/versions/7/", "{pk}/versions/1/?against=x", "{pk}/versions/1/?against=9"]
)
def test_what_is_not_there_is_a_404(address, as_admin, small):
    assert as_admin.get(URL + address.format(pk=small.pk)).status_code == 404


def test_a_build_can_be_saved_as_a_recipe(as_admin, alpha):
    job = make.job(make.build_order(release="bookworm"), on=alpha, state="succeeded")
    assert '<option value="bookworm" selected>' in text(as_admin.get(f"{URL}new/?job={job.pk}&name=web"))


# --- bases


def test_its_base_is_built_on_a_host(as_admin, small, alpha):
    answer = as_admin.post(f"{URL}{small.pk}/build-base/", {"host": "alpha", "key": str(uuid4())})
    job = Job.objects.get()
    assert answer.url == f"/jobs/{job.pk}/"
    order = orders.from_wire(job.order)
    assert (order.op, order.recipe, job.recipe_version) == ("build_base", small.current.content, small.current)
    assert job.recipe_key == recipes.key_of(small.current.content)
    assert as_admin.post(f"{URL}{small.pk}/build-base/", {"host": "nowhere"}).status_code == 409


def test_a_base_is_built_anew_by_one_click(as_admin, small, alpha):
    job = run(small, alpha)
    alpha.facts["bases"] = [{"id": "0123456789abcdef", "key": "k", "job": str(job.uuid)}]
    alpha.save()
    as_admin.post("/hosts/alpha/bases/0123456789abcdef/rebuild/")
    assert (Job.objects.first().op, Job.objects.first().recipe_version) == ("build_base", small.current)
    as_admin.post(f"/jobs/{job.pk}/build-base/", {"key": "11111111-1111-4111-8111-111111111111"})
    assert Job.objects.filter(op="build_base").count() == 2


def test_a_base_of_nobody_knows_what_cannot_be_rebuilt(as_admin, alpha):
    alpha.facts["bases"] = [{"id": "0123456789abcdef", "key": "k", "job": str(uuid4())}]
    alpha.save()
    answer = as_admin.post("/hosts/alpha/bases/0123456789abcdef/rebuild/")
    assert answer.status_code == 409
    assert "does not know what base" in text(answer)


def test_a_base_is_discarded_after_saying_what_is_lost(as_admin, alpha):
    alpha.facts["bases"] = [{"id": "0123456789abcdef", "key": "k", "title": "Debian trixie"}]
    alpha.save()
    assert "Debian trixie" in text(as_admin.get("/hosts/alpha/"))
    assert "Machines made from it are not affected" in text(as_admin.get("/hosts/alpha/bases/0123456789abcdef/remove/"))
    as_admin.post("/hosts/alpha/bases/0123456789abcdef/remove/")
    assert Job.objects.get().order["base"] == "0123456789abcdef"
    assert as_admin.post("/hosts/alpha/bases/ffffffffffffffff/remove/").status_code == 404
