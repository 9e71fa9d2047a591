"""What a host may do with an archive is in its token alone."""

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from machines.contract.problems import Problem
from machines.contract.recipes import BuildSecrets
from machines.models import Host
from machines.panel.images import archives
from tests import make
from tests.panel.archives import cast

pytestmark = pytest.mark.django_db


def test_a_token_is_good_for_its_archive_and_purpose(alpha):
    archive = cast.archive()
    token = archives.token_for(archive, alpha, "get")
    assert archives.bearer(token, archive.pk) == (alpha, "get")
    assert BuildSecrets(token=token).token == token


def test_it_is_not_good_for_another_archive(alpha):
    token = archives.token_for(cast.archive(), alpha, "get")
    assert archives.bearer(token, cast.archive().pk) is None


@pytest.mark.parametrize("spoil", [lambda t: t[:-1], lambda t: "", lambda t: "x" + t, lambda t: t.swapcase()])
def test_a_spoilt_token_is_none(alpha, spoil):
    archive = cast.archive()
    assert archives.bearer(spoil(archives.token_for(archive, alpha, "get")), archive.pk) is None


def test_a_host_that_joined_anew_or_is_gone_has_none(alpha):
    archive = cast.archive()
    token = archives.token_for(archive, alpha, "put")
    Host.objects.filter(pk=alpha.pk).update(generation=2)
    assert archives.bearer(token, archive.pk) is None
    beta = make.host("beta")
    token = archives.token_for(archive, beta, "put")
    beta.delete()
    assert archives.bearer(token, archive.pk) is None


def test_it_ends(alpha):
    archive = cast.archive()
    token = archives.token_for(archive, alpha, "get")
    with time_machine.travel(timezone.now() + archives.TOKEN_LASTS - timedelta(minutes=1)):
        assert archives.bearer(token, archive.pk) == (alpha, "get")
    with time_machine.travel(timezone.now() + archives.TOKEN_LASTS + timedelta(minutes=1)):
        assert archives.bearer(token, archive.pk) is None


def test_a_recipe_says_where_and_what(settings):
    settings.PANEL_URL = "https://panel.example"
    archive = cast.archive(b"tree")
    recipe = archives.recipe_for(archive)
    assert recipe.url == f"https://panel.example/transfer/{archive.pk}/"
    assert (recipe.size, recipe.sha256, recipe.format) == (4, archive.sha256, "tar")


def test_there_is_none_of_what_is_not_complete(settings):
    settings.PANEL_URL = "https://panel.example"
    with pytest.raises(Problem, match="not fully uploaded"):
        archives.recipe_for(cast.archive(state="arriving"))


def test_without_an_address_of_the_panel_it_says_what_to_set(settings):
    settings.PANEL_URL = ""
    with pytest.raises(Problem) as caught:
        archives.recipe_for(cast.archive())
    assert "NSPAWNPANEL_URL" in caught.value.hint
