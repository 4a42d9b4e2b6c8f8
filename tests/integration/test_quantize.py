"""``milpq quantize`` as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import Milpq

Models = Callable[[str], Path]
SEARCH = ("--tolerance", "0.1", "--region", "region.toml")


@pytest.fixture
def states(tmp_path: Path) -> Path:
    """Return the path of calibration data for the controller."""
    path = tmp_path / "states.npy"
    np.save(path, np.random.default_rng(0).uniform(-1, 1, (300, 3)))
    return path


@pytest.mark.parametrize("ending", [".json", ".tflite"])
def test_what_is_written_is_bounded(
    milpq: Milpq, model_path: Models, states: Path, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"out{ending}"
    done = milpq("quantize", model_path("controller.onnx"), "--calibration", states, "-o", out)
    assert done.code == 0
    assert "3 layers" in done.out and "16×16 weights" in done.out
    bounded = milpq(
        "bound", model_path("controller.onnx"), out, "--region", model_path("controller_small.toml"),
        "--target", "tflm", "--method", "differential",
    )  # fmt: skip
    assert bounded.code == 0 and bounded.out.startswith("BOUNDED")


def test_a_stated_target_needs_no_naming(
    milpq: Milpq, model_path: Models, states: Path, tmp_path: Path
) -> None:
    out, onnx = tmp_path / "out.json", tmp_path / "out.onnx"
    options = ["--calibration", states, "--target", "ort", "--per-channel", "--range", "mse"]
    assert milpq("quantize", model_path("controller.onnx"), *options, "--bits", "4,6,5", "-o", out).code == 0
    assert milpq("quantize", model_path("controller.onnx"), *options, "-o", onnx).code == 0
    np.save(tmp_path / "codes.npy", np.zeros((2, 3), np.int64))
    done = milpq("simulate", out, tmp_path / "codes.npy", "-o", tmp_path / "result.npy")
    assert done.code == 0 and "2 results of 1 codes" in done.out


def test_fixed_point_needs_no_data(milpq: Milpq, model_path: Models, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert milpq("quantize", model_path("controller.onnx"), "--fixed-point", 10, "-o", out).code == 0
    assert (
        "accumulators" in milpq("quantize", model_path("controller.onnx"), "--fixed-point", 8, "-o", out).out
    )


def test_the_cheapest_bits_within_a_tolerance(
    milpq: Milpq, model_path: Models, states: Path, tmp_path: Path
) -> None:
    region = tmp_path / "region.toml"
    region.write_text("lower = [-0.03, -0.03, -0.03]\nupper = [0.03, 0.03, 0.03]\n")
    out, front = tmp_path / "best.json", tmp_path / "front.json"
    question = ["--calibration", states, "--target", "tflm", "--input-domain", "codes", "--region", region]
    done = milpq(
        "quantize", model_path("controller.onnx"), *question, "--tolerance", 0.05, "--widths", "3-5",
        "-o", out, "--report", front, "--report", tmp_path / "front.svg", "--progress", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.startswith("OPTIMAL: bits ") and "verifier calls: " in done.out
    assert json.loads(done.err.splitlines()[-1])["examined"] <= 27
    report = json.loads(front.read_text(encoding="utf-8"))
    bounded = milpq(
        "bound", model_path("controller.onnx"), out, "--region", region, "--input-domain", "codes",
        "--tolerance", 0.05,
    )  # fmt: skip
    assert bounded.code == 0 and bounded.out.startswith("CERTIFIED")
    assert report["best"]["upper"] <= 0.05
    out.unlink()
    hopeless = milpq(
        "quantize", model_path("controller.onnx"), *question, "--tolerance", 1e-5, "--widths", "3,4",
        "--no-front", "-o", out,
    )  # fmt: skip
    assert hopeless.code == 1 and hopeless.out.startswith("INFEASIBLE") and not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "out.txt"], "quantized models end in"),
        (["-o", "missing/out.json"], "no directory"),
        (["-o", "out.json", "--fixed-point", 8], "either --calibration DATA or --fixed-point N"),
        (["-o", "out.json", "--bits", "8,x"], "--bits 8,x: give a number of bits"),
        (["-o", "out.json", "--bits", "8,8"], "2 widths for weights, but the network has 3 layers"),
        (["-o", "out.json", "--range", "best"], "unknown range method 'best'"),
        (["-o", "out.json", "--target", "pow2-floor"], "use power-of-two scales"),
        (["-o", "out.tflite", "--bits", "12"], "its weights are not int8"),
        (["-o", "out.json", "--bits", "16", "--activation-bits", "16"], "overflows int32"),
        (["-o", "out.json", "--tolerance", "0.1"], "needs both --tolerance T and --region REGION"),
        (["-o", "out.json", "--report", "front.json"], "--report writes the front of a search"),
        (["-o", "out.json", *SEARCH], "a search needs a target"),
        (["-o", "out.json", *SEARCH, "--target", "tflm", "--bits", "4"], "give --widths to limit it"),
        (["-o", "out.json", *SEARCH, "--target", "tflm", "--widths", "all"], "give a range such as 2-8"),
        (["-o", "out.json", *SEARCH, "--target", "tflm", "--cost", "money"], "unknown cost 'money'"),
        (["-o", "out.onnx", *SEARCH, "--target", "tflm"], "rounds as tflm, but .onnx runs on ort"),
        (["-o", "out.tflite", *SEARCH, "--target", "tflm", "--widths", "8-9"], "its weights are not int8"),
        (["-o", "out.json", *SEARCH, "--target", "tflm", "--report", "x.xml"], "unknown ending '.xml'"),
    ],
)
def test_what_is_refused(
    milpq: Milpq,
    model_path: Models,
    states: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = milpq("quantize", model_path("controller.onnx"), "--calibration", states, *map(str, options))
    assert done.code == 2
    assert message in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
