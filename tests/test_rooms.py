"""Who may import whom, read from the imports themselves."""

import ast
from collections.abc import Iterator
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
FILES = sorted(
    p
    for room in ("machines", "nspawnpanel")
    for p in (ROOT / room).rglob("*.py")
    if "migrations" not in p.parts
)  # fmt: skip


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
