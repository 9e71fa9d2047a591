"""Rows without JavaScript: a button adds, removes or moves one, and nothing typed is lost."""

import pytest
from django.http import QueryDict

from machines.models import Revision
from machines.panel.forms import row_buttons
from machines.panel.forms.configs import Configurator
from tests.panel.configs import cast
from tests.panel.configs.posts import post

URL = "/hosts/alpha/machines/web/config/"
pytestmark = pytest.mark.django_db


def shaped(**changes) -> QueryDict:
    data = QueryDict(mutable=True)
    data.update(post(ports=[("tcp", 1, 10), ("udp", 2, 20), ("tcp", 3, 30)]) | changes)
    return row_buttons.shaped(data)


def ports(data: QueryDict) -> list[str]:
    given = Configurator(data)
    assert given.is_valid(), given.errors()
    return [str(row.instance) for row in given.ports.forms if row.has_changed()]


@pytest.mark.parametrize(
    ("button", "left"),
    [
        ("up ports-1", ["udp:2:20", "tcp:1:10", "tcp:3:30"]),
        ("down ports-1", ["tcp:1:10", "tcp:3:30", "udp:2:20"]),
        ("remove ports-1", ["tcp:1:10", "tcp:3:30"]),
        ("up ports-0", ["tcp:1:10", "udp:2:20", "tcp:3:30"]),
        ("down ports-2", ["tcp:1:10", "udp:2:20", "tcp:3:30"]),
        ("remove ports-9", ["tcp:1:10", "udp:2:20", "tcp:3:30"]),
        ("nonsense", ["tcp:1:10", "udp:2:20", "tcp:3:30"]),
        ("up ports-x", ["tcp:1:10", "udp:2:20", "tcp:3:30"]),
    ],
)
def test_a_button_moves_and_removes(button, left):
    assert ports(shaped(row=button)) == left


def test_an_added_row_is_empty_and_not_yet_wrong():
    data = shaped(add="ports")
    given = Configurator(data)
    assert len(given.ports.forms) == 4
    assert given.is_valid(), given.errors()


def test_a_row_of_a_setting_is_added_on_the_page(as_admin, web):
    data = {
        "Exec.Environment-TOTAL_FORMS": "1",
        "Exec.Environment-INITIAL_FORMS": "0",
        "Exec.Environment-0-part0": "LANG",
        "Exec.Environment-0-part1": "C",
    }
    answer = as_admin.post(URL, post(seen=cast.stamp(web), add="Exec.Environment") | data)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert 'name="Exec.Environment-1-part0"' in page
    assert 'value="LANG"' in page
    assert "required" not in page.split('id="rows_Exec.Environment"')[1].split("</fieldset>")[0]
    assert not Revision.objects.exists()


def test_the_page_has_no_button_that_enter_would_press_before_saving(as_admin, web):
    """Enter presses the first button of a form."""
    cast.applied(web)
    page = as_admin.get(URL).content.decode()
    form = page[page.index('class="config"') :]
    first = form[form.index('type="submit"') - 60 :][:160]
    assert 'name="then"' in first
