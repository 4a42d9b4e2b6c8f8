"""Graphs of every operator, quantized by milpq, written, and run by the real runtimes: bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import milpq
from milpq.errors import TargetError
from milpq.network.geometry import Layout
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target
from tests.oracle.execution import executed
from tests.oracle.random_graphs import random_graph, residual_graph
from tests.oracle.runtimes import runtime
from tests.oracle.test_whole_models import public

OUTPUTS = 100_000
"""Outputs each test compares at least."""

TFLITE = ["tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate"]
LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"]


def random_models(target: str, outputs: int, count: int) -> list[QuantizedModel]:
    """Return quantized random graphs in both layouts; every third has power-of-two scales and weights, for ties."""
    found: list[QuantizedModel] = []
    for seed in range(100):
        layout: Layout = "channels_last" if seed % 2 else "channels_first"
        ties = seed % 3 == 0
        network = random_graph(seed, layout, outputs=outputs, ties=ties)
        points = np.random.default_rng(seed).uniform(-1, 1, (60, 90))
        try:
            model = milpq.quantize(
                network, points, target=target, per_channel=seed % 4 == 1, power_of_two=ties
            )
        except TargetError as error:
            # A sigmoid or tanh next to a tie, which the machine decides.
            if "so near the middle" not in str(error):
                raise
            continue
        found.append(model)
        if len(found) == count:
            break
    return found


def random_codes(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    codes = rng.integers(-128, 128, (count, size))
    codes[::3] = rng.choice([-128, 0, 127], (len(codes[::3]), size))
    return codes


def check_tflite(model: QuantizedModel, target: str, path: Path, codes: np.ndarray) -> int:
    """Compare execution, the runtime and the file read back; return the number of outputs compared."""
    milpq.save(model, path)
    ours = executed(model.on_target(get_target(target)), codes)
    image = model.images[0]
    assert image is not None
    last = codes[:, image.order("channels_last")]
    rows = last.astype(np.int8).reshape(-1, *image.spatial, image.channels)
    theirs = runtime(target).run(path.read_bytes(), rows).reshape(ours.shape)
    assert np.count_nonzero(ours != theirs) == 0
    read = milpq.load(path)
    assert isinstance(read, QuantizedModel)
    assert (read.on_target(get_target(target)).execute_codes(last) == ours).all()
    return ours.size


def check_onnx(model: QuantizedModel, level: str, path: Path, points: np.ndarray) -> int:
    """Compare execution, sessions and the file read back; return the number of outputs compared."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    milpq.save(model, path)
    integer, image = model.on_target(get_target("ort")), model.images[0]
    assert integer.input.quantizer is not None and image is not None
    levels = integer.execute(integer.input.quantizer(points.astype(np.float64)))
    ours = levels.astype(np.float32) * integer.output_scale.astype(np.float32)
    first = points[:, image.order("channels_first")]
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    rows = first.reshape(-1, image.channels, *image.spatial)
    # Row by row: Reshapes in between keep the batch, but the shapes of random graphs are those of one image.
    theirs = np.concatenate([session.run(None, {"input": row[None]})[0] for row in rows])
    assert np.count_nonzero(theirs != ours) == 0
    read = milpq.load_quantized(path)
    assert isinstance(read, QuantizedModel)
    again = read.on_target(get_target("ort"))
    assert again.input.quantizer is not None
    assert (again.execute(again.input.quantizer(first.astype(np.float64))) == levels).all()
    return ours.size


def random_points(rng: np.random.Generator, count: int, model: QuantizedModel) -> np.ndarray:
    """Return real inputs, a third of them on the ties of the input quantizer."""
    size = len(model.input_scale)
    points = rng.uniform(-1.3, 1.3, (count, size)).astype(np.float32)
    points[::3] = rng.integers(-300, 300, (len(points[::3]), size)) * 0.5 * model.input_scale[0]
    return points


@pytest.mark.parametrize("target", TFLITE)
def test_random_graphs_as_tflite(target: str, tmp_path: Path) -> None:
    """Convolutions, sums, pools, means, joins, pads, clamps, sigmoid and tanh, with skip connections."""
    rng = np.random.default_rng(31)
    models = random_models(target, 64, 9)
    compared = sum(
        check_tflite(model, target, tmp_path / "model.tflite", random_codes(rng, 180, 90)) for model in models
    )
    assert compared >= OUTPUTS


@pytest.mark.parametrize("level", LEVELS)
def test_random_graphs_as_onnx(level: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(32)
    compared = sum(
        check_onnx(model, level, tmp_path / "model.onnx", random_points(rng, 180, model))
        for model in random_models("ort", 64, 9)
    )
    assert compared >= OUTPUTS


@pytest.mark.parametrize("target", [*TFLITE, "ort"])
def test_a_residual_network(target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(33)
    compared = 0
    for ties in (False, True):
        network = residual_graph(5, 100, ties=ties)
        model = milpq.quantize(network, rng.uniform(-1, 1, (200, 98)), power_of_two=ties)
        if target == "ort":
            points = random_points(rng, 600, model)
            compared += sum(check_onnx(model, level, tmp_path / "model.onnx", points) for level in LEVELS[1:])
        else:
            compared += check_tflite(model, target, tmp_path / "model.tflite", random_codes(rng, 600, 98))
    assert compared >= OUTPUTS


@pytest.mark.parametrize("target", ["tflm", "litert-xnnpack"])
def test_resnet8(target: str, tmp_path: Path) -> None:
    """The public float residual network, quantized by milpq: at its first and last sum, and its logits."""
    network = public("mlperftiny_resnet8_fp32.tflite")
    rng = np.random.default_rng(34)
    smooth = np.clip(128 + 20 * rng.normal(size=(12, 32, 32, 3)).cumsum(axis=1), 0, 255)
    model = milpq.quantize(network, smooth, per_channel=True)
    compared = 0
    for layers, count in ((4, 4), (12, 10), (len(model.layers), 20)):
        part = replace(model, layers=model.layers[:layers], output=layers, images=model.images[: layers + 1])
        codes = random_codes(rng, count, 3072)
        compared += check_tflite(part, target, tmp_path / "model.tflite", codes)
    assert compared >= OUTPUTS
