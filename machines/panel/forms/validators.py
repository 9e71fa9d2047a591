"""The contract's own checks in the words of a form, and fields whose text is code."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from django import forms

from machines.contract.problems import BadValue, Problem

CODE = {"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}
SAID_AT_MOST = 5


def code_field(label: str, *, placeholder: str = "", rows: int = 0, **more: Any) -> forms.CharField:
    """An optional field for names, addresses and keys: nothing corrects them while one types. `rows` makes it larger."""
    attrs = {**CODE, "placeholder": placeholder} | ({"rows": rows} if rows else {})
    widget = forms.Textarea(attrs=attrs) if rows else forms.TextInput(attrs=attrs)
    return forms.CharField(**{"label": label, "required": False, "max_length": 500, "widget": widget, **more})


def checked(check: Callable[[str], str], text: str) -> str:
    """The contract's own check. Raises ValidationError."""
    try:
        return check(text)
    except Problem as problem:
        raise forms.ValidationError(f"{problem.message} {problem.hint}".strip()) from None


def each(check: Callable[[str], str], words: Iterable[str], *, at_most: int) -> tuple[str, ...]:
    """Each word once and checked; all that is wrong is said at once. Raises ValidationError."""
    kept, wrong, hints = dict.fromkeys(word for word in words if word), [], set()
    for word in kept:
        try:
            check(word)
        except BadValue as problem:
            said = problem.message if problem.hint in hints else f"{problem.message} {problem.hint}".strip()
            wrong.append(said)
            hints.add(problem.hint)
    if len(kept) > at_most:
        wrong.append(f"At most {at_most}; you entered {len(kept)}.")
    if wrong:
        raise forms.ValidationError(wrong[:SAID_AT_MOST])
    return tuple(kept)


def words(text: str) -> list[str]:
    """What is separated by spaces, commas or lines."""
    return re.split(r"[\s,]+", text)


def errors_of(form: forms.BaseForm, prefix: str = "") -> list[tuple[str, str, str]]:
    """(id of the control, label, sentence) for everything that is wrong with a form, in the order of the page."""
    found = [("", prefix, str(text)) for text in form.non_field_errors()]
    for field in form:
        at = f"{field.auto_id}_field" if field.use_fieldset else field.id_for_label
        found += [(at, f"{prefix}{field.label}", str(text)) for text in field.errors]
    return found
