"""Who may import whom, read from the imports themselves."""

import ast
import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STRANGERS = {
    "machines/contract": {"django", "celery", "redis", "subprocess", "machines.models", "machines.panel", "machines.host", "nspawnpanel"},
    "machines/models": {"celery", "redis", "subprocess", "machines.panel", "machines.host", "nspawnpanel"},
    "machines/panel": {"subprocess", "machines.host", "nspawnpanel"},
    "machines/management": {"subprocess", "machines.host", "nspawnpanel"},
    "machines/host": {"django", "machines.models", "machines.panel", "nspawnpanel"},
    "nspawnpanel": {"machines.host"},
}  # fmt: skip
# The doors: who alone may have what is otherwise forbidden in its room.
DOORS = {
    "celery": {"machines/host/agent/worker.py", "machines/host/agent/tasks.py", "machines/panel/courier/mailbox.py"},
    "subprocess": {
        "machines/host/system/run.py",
        "nspawnpanel/stack.py",
        "nspawnpanel/demo.py",
        "nspawnpanel/valkey.py",
        *(str(p.relative_to(ROOT)) for p in (ROOT / "nspawnpanel/sandbox").glob("*.py")),
    },
}
# What stands on what, the lowest first: a folder imports only folders that are named before it. README's map is this table.
FLOORS = {
    "machines/host": (
        "system", "network", "policy", "context", "files", "storage", "reports", "observe", "limits", "machine", "doctor",
        "rootfs/steps", "rootfs/systems", "rootfs", "agent", ".",
    ),
    "machines/panel": (
        "audit", "teams", "hosts", "orders", "configs", "images", "courier", "web", "people", "logs", "forms", "pages", "pages/teams", "views/teams", "views", ".",
    ),
}  # fmt: skip
MOST_MODULES = 20  # of one folder, beside its subfolders
FILES = sorted(
    p
    for room in ("machines", "nspawnpanel")
    for p in (ROOT / room).rglob("*.py")
    if "migrations" not in p.parts
)  # fmt: skip

OF_PAGES = {
    "machines.panel.pages",
    "machines.panel.views",
    "machines.panel.urls",
    "machines.templatetags",
    "django.shortcuts",
}
WITHOUT_PAGES = [
    p
    for room in ("audit", "teams", "hosts", "orders", "configs", "images", "courier", "logs")
    for p in (ROOT / "machines/panel" / room).rglob("*.py")
]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_of(name: str, stranger: str) -> bool:
    return name == stranger or name.startswith(f"{stranger}.")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_imports_only_what_its_room_may(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    names = list(imported(ast.parse(path.read_text())))
    strangers = next((s for room, s in STRANGERS.items() if relative.startswith(room)), set())
    wrong = [name for name in names for stranger in strangers if is_of(name, stranger)]
    wrong += [name for name in names for tool, doors in DOORS.items() if is_of(name, tool) and relative not in doors]
    assert not wrong, f"{relative} imports {wrong}"


@pytest.mark.parametrize("path", WITHOUT_PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_needs_no_page_imports_none(path: Path) -> None:
    """The courier takes reports and sends orders; what people see of them is composed by pages."""
    names = list(imported(ast.parse(path.read_text())))
    wrong = [name for name in names for page in OF_PAGES if is_of(name, page)]
    assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_hides_no_import_in_a_function(path: Path) -> None:
    hidden = [
        ast.unparse(inner)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]
    assert not hidden, f"{path.relative_to(ROOT)}: {hidden}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_uses_no_shell(path: Path) -> None:
    source = path.read_text()
    assert "shell=True" not in source
    assert "os.system" not in source
    assert "pickle" not in source
    if path.name not in {"ansi.py", "panel_tags.py"}:
        assert "mark_safe" not in source


# --- floors


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


@cache
def arrows() -> dict[str, set[str]]:
    """Which module imports which others of ours."""
    return {name: set(_known(path)) - {name} for name, path in MODULES.items()}


def _known(path: Path) -> Iterator[str]:
    for name in imported(ast.parse(path.read_text())):
        found = name if name in MODULES else name.rpartition(".")[0]
        if found in MODULES and MODULES[found].name != "__init__.py":
            yield found


def floor(name: str, house: str) -> int | None:
    """On which floor of a house a module stands; None outside it."""
    path = MODULES[name].relative_to(ROOT)
    if not path.is_relative_to(house):
        return None
    return FLOORS[house].index(path.parent.relative_to(house).as_posix())


@pytest.mark.parametrize("house", FLOORS)
def test_imports_go_downward(house: str) -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        if (here := floor(name, house)) is not None
        for other in others
        if (there := floor(other, house)) is not None and there > here
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others() -> None:
    graphlib.TopologicalSorter(arrows()).prepare()


def test_no_folder_holds_more_than_can_be_looked_over() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("house", FLOORS)
def test_each_folder_says_what_is_in_it(house: str) -> None:
    for folder in FLOORS[house]:
        said = ast.get_docstring(ast.parse((ROOT / house / folder / "__init__.py").read_text())) or ""
        assert said, f"{house}/{folder}/__init__.py"
        assert "\n\n" not in said, f"{house}/{folder}/__init__.py says more than a paragraph"


@pytest.mark.parametrize("house", FLOORS)
def test_the_readme_s_map_is_the_house_as_it_is(house: str) -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [line.split("`")[1] for line in lines if line.startswith(f"| `{house}/")]
    assert rows == [f"{house}/{folder}" for folder in FLOORS[house] if folder != "."]


# --- what is said of files

NAMED = re.compile(r"[\w/]*\w\.py\b")
OURS = {f"/{path.relative_to(ROOT)}" for path in (*FILES, *ROOT.glob("*.py"), *(ROOT / "tests").rglob("*.py"))}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_that_it_names_is_there(path: Path) -> None:
    named = set(NAMED.findall(path.read_text()))
    assert not {name for name in named if not any(ours.endswith(f"/{name}") for ours in OURS)}
