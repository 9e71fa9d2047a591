"""What several web processes count together holds when they ask at the same moment, on both databases."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from machines.panel.logs import log_stream
from machines.panel.web import attempts
from tests import postgres

ROOT = Path(__file__).parent.parent
MAKE_EVE = "from machines.models import *; User.objects.create(username='eve', is_administrator=True); Host.objects.create(name='alpha')"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of processes with one database, where Eve is the only user, with one host."""
    kept = {"SECRET_KEY": "of this test", "NSPAWNPANEL_ENV": "/nonexistent", "PATH": os.environ["PATH"]}
    if request.param == "sqlite":
        yield prepared(kept | {"DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('web')}/panel.sqlite3"})
        return
    if reason := postgres.cannot_run():
        pytest.skip(reason)
    with postgres.cluster() as address:
        yield prepared(kept | {"DATABASE_URL": address})


def prepared(environment: dict[str, str]) -> dict[str, str]:
    for words in (["migrate", "-v0"], ["shell", "-v0", "-c", MAKE_EVE]):
        subprocess.run([sys.executable, "manage.py", *words], cwd=ROOT, env=environment, check=True)
    return environment


def winners(what: str, environment: dict[str, str]) -> int:
    """Of two processes with twenty takers each."""
    argv = [sys.executable, "-m", "tests.takers", what]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(argv, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for each in both:
        assert each.stdout
        assert each.stdout.readline() == "ready\n"
    for each in both:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()
    return sum(int(each.communicate(timeout=120)[0]) for each in both)


def test_of_forty_streams_asked_for_at_once_five_are_given(environment):
    assert winners("streams", environment) == log_stream.PER_USER


def test_of_forty_passwords_tried_at_once_no_more_are_looked_at_than_are_free(environment):
    assert winners("passwords", environment) == attempts.PAIR


@pytest.mark.parametrize("what", ["machine", "host"])
def test_forty_presses_of_one_button_at_once_make_one_job_and_all_lead_to_it(environment, what):
    subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", "from machines.models import Job; Job.objects.all().delete()"],
        cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    assert winners(what, environment) == 40


def test_entries_of_the_history_written_at_once_stand_in_one_chain(environment):
    assert winners("history", environment) == 40
    done = subprocess.run(
        [sys.executable, "manage.py", "verify_audit"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    whole = re.search(r"The history is whole: (\d+) entries \(1 to (\d+)\)", done.stdout)
    assert whole, done.stdout
    assert int(whole[1]) == int(whole[2]) >= 120


TWO = """
from machines.models import *
User.objects.filter(username__in=["one", "two"]).delete()
User.objects.update(is_administrator=False)
for name in ("one", "two"): User.objects.create(username=name, is_administrator=True)
"""
LEFT = "from machines.models import *; print(User.objects.filter(is_administrator=True, is_active=True).count())"
LINK = "from machines.panel.people import invitations; print(invitations.setup_link().split('/')[-2])"


def shell(words: str, environment: dict[str, str]) -> str:
    argv = [sys.executable, "manage.py", "shell", "-v0", "-c", words]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("what", ["unmake", "disable"])
def test_of_two_administrators_who_remove_each_other_at_once_one_is_left(environment, what):
    shell(TWO, environment)
    assert winners(what, environment) == 1
    assert shell(LEFT, environment) == "1"


def test_an_invitation_that_forty_open_at_once_lets_one_in(environment):
    shell("from machines.models import *; User.objects.update(is_administrator=False)", environment)
    token = shell(LINK, environment)
    assert winners("invitation", {**environment, "TOKEN": token}) == 1
    assert shell(LEFT, environment) == "1"


def test_a_code_that_is_typed_forty_times_at_once_counts_once(environment):
    assert winners("code", environment) == 1
