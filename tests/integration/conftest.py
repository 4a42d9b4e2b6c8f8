"""Running the program as a user does, in this process or in one of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from running import Milpq, Outcome


@pytest.fixture
def milpq(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Milpq:
    """Run the program in this process."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str | Path) -> Outcome:
        from milpq.cli.app import run as main

        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def milpq_process() -> Milpq:
    """Run the program in a process of its own."""

    def run(*arguments: str | Path) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "milpq", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
