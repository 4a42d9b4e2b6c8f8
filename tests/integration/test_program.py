"""The program around ``bound``: help, lists, simulate, demo, and the package's lazy face."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import Milpq

import milpq as package
from milpq.formats import load_quantized
from milpq.rounding.targets import get_target, list_targets

ModelPath = Callable[[str], Path]


def test_help_is_quick_and_lists_what_is_built(milpq_process: Milpq) -> None:
    outcome = milpq_process("--help")
    assert outcome.code == 0
    for command in ("bound", "explain", "simulate", "targets", "solvers", "demo"):
        assert command in outcome.out


@pytest.mark.parametrize("statement", ["import milpq", "import milpq.cli"])
def test_importing_loads_nothing_heavy(statement: str) -> None:
    heavy = ("numpy", "scipy", "torch", "onnx", "tflite", "highspy", "gurobipy", "pulp")
    program = f"import sys; {statement}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018


def test_version(milpq: Milpq) -> None:
    assert milpq("--version").out == f"milpq {package.__version__}\n"


def test_every_target_is_listed(milpq: Milpq) -> None:
    outcome = milpq("targets")
    assert outcome.code == 0
    for target in list_targets():
        assert target.name in outcome.out


def test_the_solver_milpq_comes_with_is_listed(milpq: Milpq) -> None:
    outcome = milpq("solvers")
    assert outcome.code == 0
    assert "highs" in outcome.out


def test_simulate_runs_codes(milpq: Milpq, model_path: ModelPath, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (50, 3), dtype=np.int8)
    np.save(tmp_path / "in.npy", codes)
    model, out = model_path("controller_int8.tflite"), tmp_path / "out.npy"
    outcome = milpq("simulate", model, tmp_path / "in.npy", "--target", "tflm", "-o", out)
    assert outcome.code == 0, outcome.err
    results = np.load(out)
    assert results.dtype == np.int8
    expected = load_quantized(model).on_target(get_target("tflm")).execute_codes(codes.astype(np.int64))
    assert (results == expected).all()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3)), "not integer codes"),
        (np.zeros((2, 4), dtype=np.int8), "3 codes a point"),
        (np.full((1, 3), 200, dtype=np.int64), "input codes must lie in"),
    ],
)
def test_simulate_refuses_what_are_no_codes(
    array: np.ndarray, said: str, milpq: Milpq, model_path: ModelPath, tmp_path: Path
) -> None:
    np.save(tmp_path / "in.npy", array)
    model = model_path("controller_int8.tflite")
    outcome = milpq("simulate", model, tmp_path / "in.npy", "--target", "tflm", "-o", tmp_path / "out.npy")
    assert outcome.code == 2
    assert said in outcome.err
    assert not (tmp_path / "out.npy").exists()


def test_demo_answers_two_questions(milpq: Milpq) -> None:
    outcome = milpq("demo", "--time-limit", "4")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("max |f_q − f|") == 2
    assert "Witness" in outcome.out
