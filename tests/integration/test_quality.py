"""The linters, run as tests, so that one command checks everything."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "pyright": ["pyright", "--pythonpath", sys.executable],
    "import-linter": ["lint-imports", "--no-cache"],
}


@pytest.mark.quality
@pytest.mark.parametrize("name", CHECKS)
def test_the_sources_pass(name: str) -> None:
    program, *arguments = CHECKS[name]
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is not installed; pip install '.[test]'")
    done = subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_has_outgrown_its_subject() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / "milpq").rglob("*.py")}
    assert {str(path): size for path, size in sizes.items() if size > 420} == {}
