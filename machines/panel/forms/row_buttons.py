"""Rows that are added, taken away and moved by buttons which send the form, where no script does it in the page."""

from django.http import QueryDict

ADD, ROW = "add", "row"
MOST_ROWS = 1000
# what a new row says before anybody has typed in it
FRESH = {"ports": {"protocol": "tcp"}}


def asked(data: QueryDict) -> bool:
    """Whether a button of the rows was pressed, and not one that saves."""
    return ADD in data or ROW in data


def shaped(data: QueryDict) -> QueryDict:
    """The data as the pressed button wants the rows: one more, one less, or two of them the other way round."""
    if ADD in data:
        return _with_one_more(data, data.get(ADD, ""))
    verb, _, where = data.get(ROW, "").partition(" ")
    prefix, _, number = where.rpartition("-")
    if verb not in {"up", "down", "remove"} or not number.isdecimal() or not int(number) < _total(data, prefix):
        return data
    rows = list(range(_total(data, prefix)))
    at = int(number)
    if verb == "remove":
        rows.remove(at)
    else:
        other = at - 1 if verb == "up" else at + 1
        if 0 <= other < len(rows):
            rows[at], rows[other] = rows[other], rows[at]
    return _in_order(data, prefix, rows)


def _total(data: QueryDict, prefix: str) -> int:
    total = data.get(f"{prefix}-TOTAL_FORMS", "")
    return min(int(total), MOST_ROWS) if total.isdecimal() and len(total) < 6 else 0


def _with_one_more(data: QueryDict, prefix: str) -> QueryDict:
    if f"{prefix}-TOTAL_FORMS" not in data:
        return data
    made, number = data.copy(), _total(data, prefix)
    made[f"{prefix}-TOTAL_FORMS"] = str(number + 1)
    for name, text in FRESH.get(prefix, {}).items():
        made[f"{prefix}-{number}-{name}"] = text
    return made


def _in_order(data: QueryDict, prefix: str, rows: list[int]) -> QueryDict:
    """The data with these rows in this order; their numbers for sorting go, for the order says it."""
    made = data.copy()
    begins = f"{prefix}-"
    for name in list(made):
        if name.startswith(begins) and name.removeprefix(begins).split("-")[0].isdecimal():
            del made[name]
    for place, number in enumerate(rows):
        for name in data:
            if name.startswith(f"{prefix}-{number}-") and not name.endswith("-ORDER"):
                made.setlist(name.replace(f"-{number}-", f"-{place}-", 1), data.getlist(name))
    made[f"{prefix}-TOTAL_FORMS"] = str(len(rows))
    initial = made.get(f"{prefix}-INITIAL_FORMS", "")
    if initial.isdecimal() and len(initial) < 6 and int(initial) > len(rows):
        made[f"{prefix}-INITIAL_FORMS"] = str(len(rows))
    return made
