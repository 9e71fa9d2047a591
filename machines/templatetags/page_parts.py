"""What many pages have alike, as tags: live parts, filters of lists, dialogs, menus of rows, facts, alerts."""

from collections.abc import Iterable
from typing import Any

from django import template
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from machines.templatetags.panel_tags import icon

register = template.Library()


@register.simple_tag
def live(url: str, version: str, query: str = "") -> SafeString:
    """Attributes of a part that keeps itself true: `<div id="jobs" {% live url version "q=web" %}>`.

    Every tick it asks for itself; while `version` is still the newest the answer is 204 and nothing is drawn.
    """
    return format_html(
        'hx-get="{}?{}v={}" hx-trigger="panel:tick from:body" hx-swap="morph:outerHTML" hx-sync="this:drop" '
        'hx-disinherit="*"',
        url, f"{query}&" if query else "", version,
    )  # fmt: skip


@register.simple_tag
def live_filter(url: str, target: str, field: str) -> SafeString:
    """Attributes of a list's filter form: it acts as one types in `field`, and the address of the page follows."""
    return format_html(
        'role="search" action="{}" hx-get="{}" hx-trigger="submit, input changed delay:250ms from:{}" hx-target="{}" '
        'hx-swap="morph:outerHTML" hx-push-url="true" hx-sync="this:replace"',
        url, url, field, target,
    )  # fmt: skip


@register.simple_tag
def opens_dialog(*address: str) -> SafeString:
    """Attributes of a link to a question that has a page of its own: with htmx it comes as a dialog over this one."""
    url = "".join(map(str, address))
    return format_html('href="{}" hx-get="{}" hx-target="#dialog-slot"', url, url)


@register.simple_block_tag
def row_menu(content: str, prefix: str, number: int, *label: Any) -> SafeString:
    """The three dots at the end of a row; its <li>s stand between the tags. `label` is said by screen readers."""
    return format_html(
        '<div class="dropdown">{}<ul class="dropdown-menu dropdown-menu-end">{}</ul></div>',
        _dots(f"{prefix}-{number}", label, SafeString("")), content,
    )  # fmt: skip


@register.simple_tag
def fetched_row_menu(url: str, prefix: str, number: int, *label: Any) -> SafeString:
    """The same with entries that are fetched when it is opened, so that they are never out of date."""
    fetches = format_html(' hx-get="{}" hx-target="next .dropdown-menu"', url)
    return format_html(
        '<div class="dropdown">{}<div class="dropdown-menu dropdown-menu-end" data-keep></div></div>',
        _dots(f"{prefix}-{number}", label, fetches),
    )  # fmt: skip


def _dots(identifier: str, label: tuple[Any, ...], fetches: SafeString) -> SafeString:
    return format_html(
        '<button type="button" id="{}" class="btn btn-plain" data-bs-toggle="dropdown" aria-expanded="false" '
        'aria-label="{}"{}>{}</button>',
        identifier, " ".join(map(str, label)), fetches, icon("three-dots"),
    )  # fmt: skip


@register.simple_block_tag
def fact(content: str, word: str, css: str = "", mono: bool = False) -> SafeString:
    """One line of a <dl class="facts">: the word, and between the tags what there is to know. `mono` is the word's."""
    return format_html(
        "<dt{}>{}</dt><dd{}>{}</dd>", _class("mono" if mono else ""), word, _class(css), SafeString(content)
    )


def _class(names: str) -> SafeString:
    return format_html(' class="{}"', names) if names else SafeString("")


@register.simple_block_tag
def alert(content: str, colour: str, drawing: str, id: str = "") -> SafeString:  # noqa: A002  # HTML's word
    """A note across the page in one of Bootstrap's colours: an icon and what stands between the tags."""
    named = format_html(' id="{}"', id) if id else SafeString("")
    return format_html(
        '<div class="alert alert-{}"{}>{}<div>{}</div></div>', colour, named, icon(drawing), SafeString(content)
    )


@register.simple_block_tag
def empty_state(content: str, drawing: str, title: str, **ways_out: str) -> SafeString:
    """Nothing to show: why, and the ways out (url and action, url2 and action2); a sentence stands between the tags."""
    return render_to_string(
        "_empty.html", {"drawing": drawing, "title": title, "text": SafeString(content.strip()), **ways_out}
    )


@register.simple_tag
def crumb(text: object, to: str = "", *args: Any) -> SafeString:
    """One step of the way to a page: by the name of a URL and its arguments, or by an address; the page itself has none."""
    if not to:
        return format_html('<li aria-current="page">{}</li>', text)
    return format_html('<li><a href="{}">{}</a></li>', to if to.startswith("/") else reverse(to, args=args), text)


# How a line of a unified diff looks, by its sign.
DIFF_LINES = {"+": "diff-add", "-": "diff-del", "@": "diff-at"}


@register.simple_tag
def diff_lines(lines: Iterable[Any]) -> SafeString:
    """Lines of a unified diff (machines.panel's diffs.Line) for a <pre>, where white space of a template would show; differing words are marked."""
    return format_html_join("", '<span class="{}">{} {}\n</span>', ((*_signed(line), _words(line)) for line in lines))


def _signed(line: Any) -> tuple[str, str]:
    return DIFF_LINES.get(line.sign, "diff-same"), "⋯" if line.sign == "@" else line.sign


def _words(line: Any) -> SafeString:
    """Each part of it escaped, and marked where it differs."""
    marked = ((format_html("<mark>{}</mark>" if differs else "{}", text),) for text, differs in line.parts)
    return format_html_join("", "{}", marked)
