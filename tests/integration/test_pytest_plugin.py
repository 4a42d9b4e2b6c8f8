"""The assertion and the plugin, in a test run of somebody else's project."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import milpq
from milpq.errors import TargetError

ModelPath = Callable[[str], Path]
ROOT = Path(__file__).parent.parent.parent

TESTS = """
MODELS = {models!r}
PAIR = [f"{{MODELS}}/{{name}}" for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml")]


def test_certified(assert_quantization_error):
    result = assert_quantization_error(*PAIR, 0.05, target="tflm")
    assert result.upper <= 0.05


def test_violated(assert_quantization_error):
    assert_quantization_error(*PAIR, 0.001, target="tflm")


def test_undecided(assert_quantization_error):
    assert_quantization_error(*PAIR, 0.03, target="tflm", method="differential")
"""


@pytest.fixture
def files(model_path: ModelPath) -> list[Path]:
    return [
        model_path(name) for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml")
    ]


def test_the_assertion_certifies(files: list[Path]) -> None:
    result = milpq.assert_quantization_error(*files, 0.05, target="tflm")
    assert result.status == "certified"


def test_a_violation_shows_the_input(files: list[Path]) -> None:
    with pytest.raises(AssertionError, match=r"VIOLATED.*\n.*input \[.*\n.*output 0: float"):
        milpq.assert_quantization_error(*files, 0.001, target="tflm")


def test_undecided_fails_with_the_bracket(files: list[Path]) -> None:
    with pytest.raises(AssertionError, match=r"UNDECIDED.*bracket \[0\.02\d+, 0\.03\d+\]"):
        milpq.assert_quantization_error(*files, 0.03, target="tflm", method="differential")


def test_bad_input_is_no_failed_assertion(files: list[Path]) -> None:
    with pytest.raises(TargetError):
        milpq.assert_quantization_error(*files, 0.03)


def test_an_interrupted_run_stops_the_tests(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("milpq.verify.stages.sample_inputs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        milpq.assert_quantization_error(*files, 1e-9, target="tflm")


def test_the_fixture_in_a_project_of_its_own(tmp_path: Path, model_path: ModelPath) -> None:
    models = str(model_path("controller.onnx").parent)
    (tmp_path / "test_models.py").write_text(TESTS.format(models=models), encoding="utf-8")
    # An installed milpq registers itself; a checkout on the path does not.
    registered = subprocess.run(
        [
            sys.executable, "-c",
            "from importlib.metadata import entry_points as e; print(*(p.name for p in e(group='pytest11')))",
        ],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout.split()  # fmt: skip
    plugin = [] if "milpq" in registered else ["-p", "milpq.pytest_plugin"]
    report = tmp_path / "junit.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *plugin, f"--junitxml={report}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "2 failed" in done.stdout
    assert re.search(r"UNDECIDED: the tolerance 0\.03 lies in the bracket \[0\.0\d+, 0\.0\d+\]", done.stdout)
    assert "test_certified: CERTIFIED" in done.stdout
    assert 'name="milpq.upper"' in report.read_text()


def test_the_hook_runs_a_command_that_exists() -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    entry = re.search(r"^  entry: milpq (\w+)$", text, re.MULTILINE)
    assert entry is not None
    done = subprocess.run(
        [sys.executable, "-m", "milpq", entry[1], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--tolerance" in done.stdout
