"""Float networks against ONNX Runtime, LiteRT and torch: equal up to float32 rounding."""

import os
from pathlib import Path

import numpy as np
import pytest

from milpq.formats import load_float

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data"))
BUNDLED = ROOT / "benchmarks" / "models"
RELATIVE = 1e-4
POINTS = 500


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= RELATIVE * np.abs(ours).max()


@pytest.mark.parametrize(
    "path",
    sorted([*BUNDLED.glob("*.onnx"), *DATA.glob("acasxu/*.onnx"), *DATA.glob("mnist/*.onnx")]),
    ids=lambda path: path.name,
)
def test_onnx(path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = load_float(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in source.shape]
    points = np.random.default_rng(0).uniform(-0.5, 1.0, (POINTS, network.input_size)).astype(np.float32)
    theirs = [session.run(None, {source.name: point.reshape(shape)})[0].ravel() for point in points]
    close(network.evaluate(points.astype(np.float64)), np.stack(theirs))


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *BUNDLED.glob("*_float.tflite"),
            *DATA.glob("models/*_fp32.tflite"),
            *DATA.glob("models/*_float.tflite"),
        ]
    ),
    ids=lambda path: path.name,
)
def test_tflite(path: Path) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    if "resnet8" in path.name:
        pytest.skip("convolutions are not read")
    network = load_float(path)
    interpreter = interpreter_module.Interpreter(model_path=str(path), num_threads=1)
    source, result = (
        details()[0]["index"] for details in (interpreter.get_input_details, interpreter.get_output_details)
    )
    points = np.random.default_rng(0).uniform(-0.5, 1.0, (POINTS, network.input_size)).astype(np.float32)
    interpreter.resize_tensor_input(source, points.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source, points)
    interpreter.invoke()
    ours = network.evaluate(points.astype(np.float64))
    close(1 / (1 + np.exp(-ours)) if network.note else ours, interpreter.get_tensor(result))
