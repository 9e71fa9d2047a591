"""The words pages are made of: states, icons, sizes, times, fields. Nothing here asks the database."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import NamedTuple
from uuid import uuid4

from django import template
from django.conf import settings
from django.forms import BoundField, CheckboxInput, Select, Widget
from django.template import Context
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from machines.contract.quantities import NBSP, NOTHING, duration, roughly, size
from machines.panel.forms.validators import errors_of

register = template.Library()

ICONS = "img/icons.svg"
register.filter("duration", duration)
register.filter("size", size)
register.filter("faults", errors_of)


class Look(NamedTuple):
    """How a state shows itself. Shape and word carry the meaning, colour only helps."""

    icon: str
    colour: str
    moving: bool = False


# One vocabulary everywhere: filters, badges, favicons and logs use exactly these words.
LOOKS = {
    "machine": {
        "running": Look("circle-fill", "success"),
        "starting": Look("arrow-repeat", "info", moving=True),
        "restarting": Look("arrow-repeat", "warning", moving=True),
        "degraded": Look("exclamation-triangle-fill", "warning"),
        "stopping": Look("arrow-repeat", "info", moving=True),
        "stopped": Look("circle", "secondary"),
        "failed": Look("x-circle-fill", "danger"),
        "building": Look("hammer", "info"),
        "missing": Look("slash-circle", "secondary"),
        "unknown": Look("question-circle", "dark"),
    },
    "job": {
        "queued": Look("hourglass-top", "secondary"),
        "sent": Look("send", "secondary"),
        "accepted": Look("inbox", "info"),
        "running": Look("arrow-repeat", "info", moving=True),
        "succeeded": Look("check-circle-fill", "success"),
        "failed": Look("x-circle-fill", "danger"),
        "cancelled": Look("slash-circle", "secondary"),
        "timed_out": Look("alarm", "danger"),
        "expired": Look("hourglass-bottom", "warning"),
        "lost": Look("question-circle", "dark"),
    },
    "archive": {
        "arriving": Look("arrow-repeat", "info", moving=True),
        "ready": Look("check-circle-fill", "success"),
        "failed": Look("x-circle-fill", "danger"),
    },
    "host": {
        "online": Look("circle-fill", "success"),
        "late": Look("clock-history", "warning"),
        "offline": Look("x-circle-fill", "danger"),
        "joining": Look("arrow-repeat", "info", moving=True),
    },
}
UNHEARD_OF = Look("question-circle", "dark")


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """A Bootstrap icon by its name. With a label it speaks for itself, without one it is decoration."""
    return _drawing(name, label)


@register.simple_tag
def press_key() -> SafeString:
    """In the form of each button that makes a job: by it a second press finds the job of the first (panel/web/press.py)."""
    return format_html('<input type="hidden" name="key" value="{}">', uuid4())


@register.simple_tag
def spinner(label: str = "") -> SafeString:
    return _drawing("arrow-repeat", label, "spin")


@lru_cache(maxsize=1024)
def _drawing(name: str, label: str = "", extra: str = "") -> SafeString:
    """A reference into the sprite, which browsers keep: the drawing itself would be in a long page hundreds of times."""
    if name not in _names():
        raise LookupError(f"No icon {name!r}: static/icons.txt names those there are")
    speaks = format_html('role="img" aria-label="{}"', label) if label else mark_safe('aria-hidden="true"')
    css = f"bi {extra}".strip()
    return format_html('<svg class="{}" {}><use href="{}#{}"/></svg>', css, speaks, static(ICONS), name)


@cache
def _names() -> frozenset[str]:
    """The icons there are; a name that is not one of them is a mistake and says so."""
    return frozenset((settings.BASE_DIR / "static/icons.txt").read_text().split())


@register.simple_tag
def state_badge(state: str, kind: str = "machine", note: str = "") -> SafeString:
    """Icon and word of a machine's, a job's or a host's state; the note stands behind it ("12 min ago", "2 units")."""
    look = LOOKS[kind].get(str(state), UNHEARD_OF)
    drawing = _drawing(look.icon, extra="spin" if look.moving else "")
    word = str(state).replace("_", " ")
    tail = format_html(' <span class="state-note">{}</span>', note) if note else ""
    return format_html(
        '<span class="state state-{}" data-state="{}">{}<span>{}</span></span>{}',
        look.colour, state, drawing, word, tail,
    )  # fmt: skip


@register.simple_tag
def pending_badge(verb: str) -> SafeString:
    """What somebody asked for and what has not happened yet: the verb, never the hoped-for result."""
    return format_html('<span class="state state-info state-pending">{}<em>{}</em></span>', spinner(), verb)


@register.simple_tag(takes_context=True)
def remarks(context: Context, field: "BoundField | str") -> list[str]:
    """What is to be said at a field, or at a part of the page by its id: `marks` of the page has it by such ids."""
    marks: Mapping[str, list[str]] = context.get("marks") or {}
    if not field or not marks:
        return []
    places = [field] if isinstance(field, str) else [field.id_for_label, f"{field.auto_id}_field"]
    return [text for place in places for text in marks.get(place, [])]


VALUES_SHOWN, VALUE_SHOWN = 50, 500


@register.filter
def few(values: Sequence[str]) -> list[str]:
    """The first of them, each as long as a cell has room for; the last one says how many more there are."""
    shown = [value if len(value) <= VALUE_SHOWN else f"{value[:VALUE_SHOWN]}…" for value in values[:VALUES_SHOWN]]
    return [*shown, f"… {len(values) - VALUES_SHOWN:,} more"] if len(values) > VALUES_SHOWN else shown


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """The moment as people say it; the browser keeps it true and shows the exact time on hover."""
    if moment is None:
        return NOTHING
    past = timezone.now() - moment
    said = f"{roughly(past)} ago" if past >= timedelta(0) else f"in {roughly(-past)}"
    return format_html(
        '<relative-time datetime="{}" format-style="narrow" title="{}">{}</relative-time>',
        moment.astimezone(UTC).isoformat(timespec="seconds"), _exact(moment), said,
    )  # fmt: skip


@register.filter
def clock(moment: datetime | None) -> SafeString | str:
    """The exact time, 2026-11-22 10:44:03 UTC, as a machine-readable element."""
    if moment is None:
        return NOTHING
    return format_html('<time datetime="{}">{}</time>', moment.astimezone(UTC).isoformat(), _exact(moment))


def _exact(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")


@register.simple_tag
def took(started: datetime | None, ended: datetime | None = None) -> SafeString | str:
    """How long something took, or ticking, how long it has been going."""
    if started is None:
        return NOTHING
    if ended is not None:
        return duration(ended - started)
    return format_html(
        '<span class="num" data-since="{}">{}</span>',
        started.astimezone(UTC).isoformat(timespec="seconds"), duration(timezone.now() - started),
    )  # fmt: skip


@register.simple_tag
def meter(value: float | None, full: float | None, label: str, text: str = "") -> SafeString | str:
    """A bar of how much of something is used; turns amber at 75 % and red at 90 %."""
    if value is None or not full:
        return NOTHING
    said = text or f"{round(100 * value / full)}{NBSP}%"
    return format_html(
        '<span class="meter"><meter min="0" max="{}" low="{}" high="{}" optimum="0" value="{}" aria-label="{}">'
        "{}</meter><span>{}</span></span>",
        full, full * 0.75, full * 0.9, value, label, said, said,
    )  # fmt: skip


@register.simple_tag
def progress(label: str, done: float | None = None, full: float = 100) -> SafeString:
    """A job's bar: a share where one is known, otherwise only "it moves"."""
    if done is None:
        return format_html('<progress class="progress-line" max="1" aria-label="{}"></progress>', label)
    return format_html(
        '<progress class="progress-line" max="{}" value="{}" aria-label="{}"></progress>', full, done, label
    )


@register.simple_tag(takes_context=True)
def nav_link(context: Context, url_name: str, drawing: str, text: str, also: str = "") -> SafeString:
    """An entry of the sidebar; `machine-index` is current on every page whose URL name starts with `machine-`, and on
    those of the nouns in `also`."""
    match = getattr(context.get("request"), "resolver_match", None)
    nouns = {url_name.split("-", maxsplit=1)[0], *also.split()}
    here = bool(match and match.url_name and match.url_name.split("-")[0] in nouns)
    return format_html(
        '<a class="side-link" href="{}" title="{}"{}>{}<span>{}</span></a>',
        reverse(url_name), text, mark_safe(' aria-current="page"') if here else "", _drawing(drawing), text,
    )  # fmt: skip


@register.simple_tag
def sort_link(column: str, text: str, current: str, query: str = "") -> SafeString:
    """A column head that sorts: `current` is the sort in force ("name", "-name"), `query` the rest of the query string."""
    descending = current == f"-{column}"
    active = current in (column, f"-{column}")
    ordered = ("descending" if descending else "ascending") if active else "none"
    turn = column if descending or not active else f"-{column}"
    arrow = _drawing("arrow-down" if descending else "arrow-up") if active else ""
    return format_html(
        '<th scope="col" aria-sort="{}"><a href="?{}sort={}">{}{}</a></th>',
        ordered, f"{query}&" if query else "", turn, text, arrow,
    )  # fmt: skip


def _css_class(widget: Widget) -> str:
    if isinstance(widget, CheckboxInput):
        return "form-check-input"
    return "form-select" if isinstance(widget, Select) else "form-control"


@register.simple_tag
def control(field: BoundField, **attrs: str) -> SafeString:
    """The field's input with our classes; `{% control form.name data_filter="" %}` adds attributes."""
    given: dict[str, str | bool] = {name.replace("_", "-"): value for name, value in attrs.items()}
    if not field.use_fieldset:
        own = field.field.widget.attrs.get("class", "")
        invalid = " is-invalid" if field.errors else ""
        given["class"] = f"{_css_class(field.field.widget)}{invalid} {given.get('class', '')} {own}".strip()
    return field.as_widget(attrs=given)


@register.filter
def is_checkbox(field: BoundField) -> bool:
    return isinstance(field.field.widget, CheckboxInput)


@register.filter
def alert_colour(tags: str) -> str:
    """Django's message levels in Bootstrap's words."""
    level = (tags or "").rsplit(" ", maxsplit=1)[-1]
    return {"error": "danger", "debug": "secondary"}.get(level, level or "info")
