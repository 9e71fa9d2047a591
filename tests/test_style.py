"""The formatter and the checkers are tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = {
    "checker": ["ruff", "check", "."],
    "formatter": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "templates": ["djlint", "--lint", "--quiet", "templates"],
}


@pytest.mark.parametrize("argv", TOOLS.values(), ids=TOOLS.keys())
def test_the_tree_is_clean(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
