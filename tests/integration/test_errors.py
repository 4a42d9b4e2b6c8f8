"""Bad input ends in one clear line and exit code 2, never in a traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from running import Milpq

ModelPath = Callable[[str], Path]


@pytest.fixture
def files(tmp_path: Path, model_path: ModelPath) -> Path:
    """Return a folder with good and bad files."""
    for name in (
        "controller.onnx",
        "controller_int8.tflite",
        "controller.toml",
        "digits_int8.tflite",
        "digits.onnx",
    ):
        shutil.copy(model_path(name), tmp_path / name)
    for name in ("controller.onnx", "controller_int8.tflite"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"truncated_{name}").write_bytes(content[: len(content) // 2])
        (tmp_path / f"empty_{name}").write_bytes(b"")
        noise = np.random.default_rng(1).integers(0, 256, 4000, dtype=np.uint8)
        (tmp_path / f"random_{name}").write_bytes(noise.tobytes())
    _edit(tmp_path, "nan.onnx", _nan_weights)
    _edit(tmp_path, "unsupported.onnx", _unsupported_operator)
    _edit(tmp_path, "shapes.onnx", _wrong_bias)
    _edit(tmp_path, "other.onnx", _other_weights)
    _edit(tmp_path, "large.onnx", _large_weights)
    regions = {
        "between.toml": "lower = [0.001, 0.0, 0.0]\nupper = [0.002, 0.0, 0.0]\n",
        "short.toml": "lower = [0.0]\nupper = [1.0]\n",
        "inverted.toml": "lower = [0.0, 1.0, 0.0]\nupper = [1.0, 0.0, 1.0]\n",
        "nan.toml": "lower = [0.0, nan, 0.0]\nupper = [1.0, 1.0, 1.0]\n",
        "broken.toml": "lower = [0.0,\n",
        "keys.toml": "low = [0.0]\nhigh = [1.0]\n",
        "text.toml": 'lower = ["a", 0.0, 0.0]\nupper = [1.0, 1.0, 1.0]\n',
    }
    for name, text in regions.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def _edit(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / "controller.onnx")
    change(model)
    onnx.save(model, folder / name)


def _weights(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)


def _nan_weights(model: onnx.ModelProto) -> None:
    tensor = _weights(model)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[0, 0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _other_weights(model: onnx.ModelProto) -> None:
    tensor = _weights(model)
    array = onnx.numpy_helper.to_array(tensor) + np.float32(0.25)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _large_weights(model: onnx.ModelProto) -> None:
    tensor = _weights(model)
    array = np.full_like(onnx.numpy_helper.to_array(tensor), 3e38)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _unsupported_operator(model: onnx.ModelProto) -> None:
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Softplus"


def _wrong_bias(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 1)
    array = np.zeros(7, dtype=np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


GOOD = ("controller.onnx", "controller_int8.tflite", "controller.toml")
NO_TARGET = "--target="
CASES = {
    # name: (FLOAT, QUANTIZED, REGION, more options, what the line must say)
    "truncated onnx": ("truncated_controller.onnx", *GOOD[1:], [], ["truncated_controller.onnx"]),
    "truncated tflite": (
        GOOD[0],
        "truncated_controller_int8.tflite",
        GOOD[2],
        [],
        ["truncated_controller_int8.tflite"],
    ),
    "empty onnx": ("empty_controller.onnx", *GOOD[1:], [], ["empty_controller.onnx", "empty"]),
    "empty tflite": (
        GOOD[0],
        "empty_controller_int8.tflite",
        GOOD[2],
        [],
        ["empty_controller_int8.tflite", "empty"],
    ),
    "random onnx": ("random_controller.onnx", *GOOD[1:], [], ["random_controller.onnx"]),
    "random tflite": (
        GOOD[0],
        "random_controller_int8.tflite",
        GOOD[2],
        [],
        ["random_controller_int8.tflite"],
    ),
    "missing file": ("nothing.onnx", *GOOD[1:], [], ["nothing.onnx", "no such file"]),
    "a directory": (".", *GOOD[1:], [], ["."]),
    "an unknown ending": ("controller.toml", *GOOD[1:], [], ["controller.toml"]),
    "int8 as the float side": ("controller_int8.tflite", *GOOD[1:], [], ["controller_int8.tflite"]),
    "NaN weights": ("nan.onnx", *GOOD[1:], [], ["nan.onnx", "NaN"]),
    "unsupported operator": ("unsupported.onnx", *GOOD[1:], [], ["unsupported.onnx", "Softplus"]),
    "shape mismatch": ("shapes.onnx", *GOOD[1:], [], ["shapes.onnx"]),
    "other architecture": (
        "digits.onnx",
        *GOOD[1:],
        [],
        ["digits.onnx", "controller_int8.tflite", "64", "3"],
    ),
    "not a pair": ("other.onnx", *GOOD[1:], [], ["other.onnx", "controller_int8.tflite", "dequantized"]),
    "region too short": (*GOOD[:2], "short.toml", [], ["short.toml: region: has 1 inputs", "3"]),
    "region between codes": (
        *GOOD[:2],
        "between.toml",
        ["--input-domain", "codes"],
        ["between.toml: region: no input code", "--input-domain continuous"],
    ),
    "target cannot run a layer": (
        *GOOD,
        ["--target", "pow2-floor"],
        ["controller_int8.tflite: layer", "power"],
    ),
    "float32 overflows": (
        "large.onnx",
        "large.onnx",
        "controller.toml",
        [NO_TARGET, "--float-arithmetic", "float32"],
        ["large.onnx", "float32", "--float-arithmetic real"],
    ),
    "region inverted": (*GOOD[:2], "inverted.toml", [], ["input 1"]),
    "region with NaN": (*GOOD[:2], "nan.toml", [], ["nan"]),
    "region broken": (*GOOD[:2], "broken.toml", [], ["broken.toml"]),
    "region without ends": (*GOOD[:2], "keys.toml", [], ["keys.toml"]),
    "region of text": (*GOOD[:2], "text.toml", [], []),
    "region missing": (*GOOD[:2], "none.toml", [], ["none.toml", "no such file"]),
    "no target": (*GOOD, [NO_TARGET], ["target"]),
    "unknown target": (*GOOD, ["--target", "tpu"], ["tpu", "tflm"]),
    "unknown target option": (*GOOD, ["--target", "tflm:speed=fast"], ["speed"]),
    "unknown solver": (*GOOD, ["--solver", "simplex"], ["simplex", "highs"]),
    "unavailable solver": (*GOOD, ["--solver", "pulp:XPRESS_PY"], ["XPRESS_PY"]),
    "unknown method": (*GOOD, ["--method", "guess"], ["guess", "milp"]),
    "unknown output": (*GOOD, ["--output", "1"], ["output 1"]),
    "unknown domain": (*GOOD, ["--input-domain", "dense"], ["dense", "codes"]),
    "negative tolerance": (*GOOD, ["--tolerance", "-1"], ["tolerance"]),
    "NaN tolerance": (*GOOD, ["--tolerance", "nan"], ["tolerance"]),
    "gap of one": (*GOOD, ["--gap", "1"], ["gap"]),
    "no time": (*GOOD, ["--time-limit", "0"], ["time limit"]),
    "unknown device": (*GOOD, ["--device", "tpu"], ["tpu", "cuda"]),
    "no jobs": (*GOOD, ["--jobs", "0"], ["jobs"]),
    "unknown report": (*GOOD, ["--report", "x.pdf"], ["x.pdf", ".json"]),
    "report nowhere": (*GOOD, ["--report", "no/folder/x.json"], ["no/folder"]),
    "unknown progress": (*GOOD, ["--progress", "bar"], ["bar", "json"]),
    "no number": (*GOOD, ["--gap", "small"], ["--gap", "--help"]),
    "unknown option": (*GOOD, ["--colour"], ["--colour"]),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(name: str, files: Path, milpq: Milpq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    float_file, quantized, region, options, said = CASES[name]
    if not any(option.startswith("--target") for option in options):
        options = ["--target", "tflm", *options]
    options = [option for option in options if option != NO_TARGET]
    outcome = milpq("bound", float_file, quantized, "--region", region, *options)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("milpq: error: ")
    for words in said:
        assert words in lines[0]


def test_usage_errors_name_the_help(milpq: Milpq) -> None:
    for arguments in ((), ("bound",), ("fly",)):
        assert milpq(*arguments).code == 2
    assert "see milpq bound --help" in milpq("bound").err


def test_a_soundness_alarm_has_its_own_code(
    milpq: Milpq, model_path: ModelPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    from milpq.bounds.values import Bounds, Interval, ValueBounds
    from milpq.verify import stages

    honest = stages.interval

    def lying(problem, cubes):
        bounds = honest(problem, cubes)
        narrow = Interval(bounds.difference.lower * 1e-6, bounds.difference.upper * 1e-6)
        last = bounds.values[bounds.output]
        values = list(bounds.values)
        values[bounds.output] = ValueBounds(last.float_side, last.quantized_side, narrow)
        return Bounds(tuple(values), bounds.output)

    monkeypatch.setattr(stages, "interval", lying)
    outcome = milpq(
        "bound", model_path("controller.onnx"), model_path("controller_int8.tflite"),
        "--region", model_path("controller.toml"), "--target", "tflm", "--method", "interval",
    )  # fmt: skip
    assert outcome.code == 4
    assert "soundness alarm" in outcome.err
    assert len(outcome.err.splitlines()) == 1
