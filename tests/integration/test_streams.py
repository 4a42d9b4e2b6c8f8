"""Where the answer goes: encodings without our signs, closed streams, narrow terminals."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Milpq

ModelPath = Callable[[str], Path]

_RUN = "import sys; from milpq.cli import main; sys.argv[0] = 'milpq'; {} main()"
_CLOSED = "sys.stdout = sys.stderr = None;"


def _asked(model_path: ModelPath) -> list[str]:
    return [
        "bound", str(model_path("controller.onnx")), str(model_path("controller_int8.tflite")),
        "--region", str(model_path("controller_small.toml")), "--target", "tflm", "--method", "interval",
    ]  # fmt: skip


def _run(arguments: list[str], before: str = "", encoding: str = "utf-8") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", _RUN.format(before), *arguments],
        capture_output=True, encoding=encoding, check=False, timeout=120,
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_encoding_without_our_signs_shows_the_answer(encoding: str, model_path: ModelPath) -> None:
    code, out = _run(_asked(model_path), encoding=encoding)
    assert code == 0
    assert "BOUNDED" in out
    assert "max |f_q ? f|" in out


def test_closed_streams_leave_the_exit_code(model_path: ModelPath) -> None:
    assert _run(_asked(model_path), _CLOSED) == (0, "")
    assert _run([*_asked(model_path), "--tolerance", "0.001"], _CLOSED) == (1, "")
    assert _run(["bound", "none.onnx", *_asked(model_path)[2:]], _CLOSED) == (2, "")


@pytest.mark.parametrize("command", ["bound", "compare"])
def test_a_narrow_terminal_cuts_no_number(
    command: str, milpq: Milpq, model_path: ModelPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "48")
    outcome = milpq(command, *_asked(model_path)[1:])
    assert outcome.code == 0, outcome.err
    assert "…" not in outcome.out
    assert max(map(len, outcome.out.splitlines()[1:])) <= 48
