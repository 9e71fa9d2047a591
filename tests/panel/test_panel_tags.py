"""The words pages are made of."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django import forms
from django.template import engines

from machines.contract.states import HostState, JobState, MachineState
from machines.templatetags import panel_tags
from tests.pages import one_line

NOW = datetime(2026, 11, 22, 10, 44, tzinfo=UTC)


def rendered(source: str, **context: object) -> str:
    return engines["django"].from_string(source).render(context)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        *(("machine", state) for state in MachineState),
        *(("job", state) for state in JobState),
        *(("host", state) for state in HostState),
    ],
)
def test_every_state_has_a_look(kind, state):
    assert state.value in panel_tags.LOOKS[kind]


@pytest.mark.parametrize("kind", panel_tags.LOOKS)
def test_every_look_has_its_drawing(kind):
    for look in panel_tags.LOOKS[kind].values():
        assert f"icons.svg#{look.icon}" in panel_tags.icon(look.icon)


def test_an_icon_that_does_not_exist_is_a_mistake():
    with pytest.raises(LookupError, match="no-such-icon"):
        panel_tags.icon("no-such-icon")


def test_a_badge_is_a_shape_and_a_word():
    html = panel_tags.state_badge("timed_out", "job", "2 < 3")
    assert '<svg class="bi"' in html
    assert "<span>timed out</span>" in html
    assert "2 &lt; 3" in html


def test_an_unheard_of_state_is_shown_as_it_is():
    assert "&lt;b&gt;" in panel_tags.state_badge("<b>")


def test_moments_are_said_and_exact():
    with time_machine.travel(NOW, tick=False):
        html = panel_tags.ago(NOW - timedelta(minutes=12))
    assert 'datetime="2026-11-22T10:32:00+00:00"' in html
    assert "12\u00a0min ago" in html


def test_what_still_goes_on_ticks():
    with time_machine.travel(NOW, tick=False):
        assert 'data-since="2026-11-22T10:40:48+00:00"' in panel_tags.took(NOW - timedelta(seconds=192))
    assert panel_tags.took(NOW, NOW + timedelta(seconds=3)) == "3\u00a0s"


class MachineForm(forms.Form):
    name = forms.CharField(help_text="Letters and digits.")
    mode = forms.ChoiceField(choices=[("host", "Host")], widget=forms.RadioSelect)
    notes = forms.CharField(required=False)


def test_a_field_names_its_help_and_its_error():
    form = MachineForm({"name": ""})
    html = rendered('{% include "_field.html" with field=form.name %}', form=form)
    assert 'aria-describedby="id_name_helptext id_name_error"' in html
    assert 'aria-invalid="true"' in html
    assert 'id="id_name_helptext"' in html
    assert 'id="id_name_error"' in html


def test_choices_are_a_group_with_a_legend():
    html = rendered('{% include "_field.html" with field=form.mode %}', form=MachineForm())
    assert "<fieldset" in html
    assert "<legend>Mode</legend>" in one_line(html)


def test_the_summary_links_to_each_field():
    html = rendered('{% include "_error_summary.html" with form=form %}', form=MachineForm({}))
    assert "2 fields need attention" in html
    assert 'href="#id_name"' in html
    assert 'href="#id_mode_field"' in html


def test_a_pager_of_one_page_is_nothing():
    assert rendered('{% include "_pager.html" %}').strip() == ""


def test_a_heavy_question_asks_for_the_name():
    html = rendered(
        '{% include "_confirm_dialog.html" with id="x" title="Delete" action="/" button="Delete" name=name %}',
        name="a&b",
    )
    assert 'data-confirm-name="a&amp;b"' in html
