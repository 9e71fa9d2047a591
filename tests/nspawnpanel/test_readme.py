"""What the README says to type is there. That a host can be installed by it is shown in tests/vm."""

import re
import shlex
from base64 import b64encode
from html import unescape

import pytest
from django.core.management import get_commands, load_command_class
from nacl.signing import SigningKey

from machines.contract import tools
from machines.models import PanelKey
from nspawnpanel.stack import REPOSITORY
from tests.vm import readme

ON_THE_PANEL = [line for block in readme.blocks() if block.place.startswith("on the panel") for line in block.lines]
MANAGE = [words[2:] for line in ON_THE_PANEL if (words := shlex.split(line, comments=True))[1] == "manage.py"]


@pytest.mark.parametrize("words", MANAGE, ids=lambda words: words[0])
def test_each_command_of_the_panel_takes_the_words_the_readme_gives_it(words):
    name, *rest = words
    command = load_command_class(get_commands()[name], name)
    command.create_parser("manage.py", name).parse_args(rest)


def test_every_command_says_where_it_is_given():
    assert {block.place for block in readme.blocks()} == {"on the host", "on the panel, in the checkout"}


def test_files_that_the_commands_name_are_in_this_checkout():
    words = [word for block in readme.host() for line in block.lines for word in shlex.split(line, comments=True)]
    named = [word.removeprefix("/opt/nspawnpanel/src/") for word in words if word.startswith("/opt/nspawnpanel/src/")]
    assert named == ["machines/host/requirements.txt"]
    assert all((REPOSITORY / name).is_file() for name in named)


def test_every_tool_a_host_is_expected_to_have_is_installed():
    installed = {word for line in readme.host()[0].lines if line.startswith("apt-get") for word in line.split()}
    for work in map(tools.WORKS.get, tools.EXPECTED):
        for tool, *_ in work.needs:
            assert tools.package(tool) in {*installed, "systemd", "tar", "gzip"}, f"{tool} is for {work.title}"


def test_the_page_says_what_the_readme_says(as_admin, settings):
    settings.PANEL_URL, settings.HOSTS_REDIS_URL = "https://panel.example", "rediss://panel.example:6379/0"
    PanelKey.objects.create(public=b64encode(bytes(SigningKey.generate().verify_key)).decode())
    page = unescape(as_admin.post("/enrolments/new/", {"name": "alpha"}, follow=True).content.decode())
    shown = re.search(r'<code id="join-host">(.*?)</code>', page)
    assert shown
    assert re.sub(r"np1\.\S+", "np1.…", shown[1]) == readme.joining()


def test_every_test_that_the_page_on_security_names_is_there():
    page = (REPOSITORY / "docs/security.md").read_text()
    named = set(re.findall(r"`((?:\w+/)?\w+/\w+\.py)", page)) - {"panel/protected.py"}
    assert len(named) > 30
    assert [name for name in sorted(named) if not (REPOSITORY / "tests" / name).is_file()] == []
