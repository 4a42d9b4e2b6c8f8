"""What the quantizer writes, run by the real runtimes: whole models, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import milpq
from milpq.formats._float_builder import SIGMOID_NOTE
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target
from milpq.verify.models import load_pair
from tests.oracle.onnxruntime_models import convolutional
from tests.oracle.runtimes import runtime

OUTPUTS = 100_000
"""Outputs each test compares at least."""

TFLITE = ["tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate"]
CLAMPS = [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, np.inf)]


def mlp(rng: np.random.Generator, clamp: tuple[float, float], *, ties: bool) -> FloatNetwork:
    """Return a random network; one of `ties` has weights and biases on a coarse grid of powers of two."""
    sizes = [5, 24, 17, 40]
    nodes: list[Affine | Clamp] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(outputs, inputs)) * np.sqrt(2 / inputs)
        bias = 0.3 * rng.normal(size=outputs)
        if ties:
            weights, bias = np.clip(np.rint(8 * weights) / 8, -1.75, 1.75), np.rint(8 * bias) / 8
        nodes.append(Affine(f"linear{index}", (Term(len(nodes), weights),), bias))
        if index < len(sizes) - 2 and clamp != (-np.inf, np.inf):
            nodes.append(Clamp(f"clamp{index}", len(nodes), *clamp))
    return FloatNetwork(sizes[0], tuple(nodes), len(nodes))


def models(seed: int) -> list[QuantizedModel]:
    """Return quantized models of many schemes, half of them with power-of-two scales, which make ties."""
    found: list[QuantizedModel] = []
    for number, clamp in enumerate(CLAMPS):
        for ties in (False, True):
            rng = np.random.default_rng([seed, number, ties])
            found.append(
                milpq.quantize(
                    mlp(rng, clamp, ties=ties),
                    rng.uniform(-1, 1, (200, 5)),
                    per_channel=number % 2 == 1,
                    power_of_two=ties,
                    symmetric_activations=False,
                    range_method="mse" if number == 2 else "min-max",
                )
            )
    return found


def random_codes(rng: np.random.Generator, count: int) -> np.ndarray:
    uniform = rng.integers(-128, 128, (count, 5))
    ends = rng.choice([-128, 0, 127], (count, 5))
    return np.concatenate([uniform, ends]).astype(np.int8)


@pytest.mark.parametrize("target", TFLITE)
def test_tflite_files(target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    compared = 0
    narrow = milpq.quantize(
        mlp(rng, (0.0, 6.0), ties=False), rng.uniform(-1, 1, (200, 5)), target=target, bits=(3, 5, 4)
    )
    for number, model in enumerate([*models(1), narrow]):
        path = tmp_path / f"{number}.tflite"
        milpq.save(model, path)
        codes = random_codes(rng, 160)
        ours = model.on_target(get_target(target)).execute_codes(codes.astype(np.int64))
        assert np.count_nonzero(ours != runtime(target).run(path.read_bytes(), codes)) == 0
        read = milpq.load(path)
        assert isinstance(read, QuantizedModel)
        assert (read.on_target(get_target(target)).execute_codes(codes.astype(np.int64)) == ours).all()
        compared += ours.size
    assert compared >= OUTPUTS


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
def test_onnx_files(level: str, tmp_path: Path) -> None:
    """Real inputs, ties of the input quantizer among them, and symmetric activations, which need a Clip."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    rng = np.random.default_rng(12)
    schemes = [
        {"symmetric_activations": True},
        {"symmetric_weights": False},
        {"symmetric_weights": False, "per_channel": True},
        {"bits": (3, 5, 4)},
    ]
    extra = [
        milpq.quantize(
            mlp(rng, (0.0, np.inf), ties=False), rng.uniform(-1, 1, (200, 5)), target="ort", **scheme
        )
        for scheme in schemes
    ]
    compared = 0
    for number, model in enumerate([*models(2), *extra]):
        path = tmp_path / f"{number}.onnx"
        milpq.save(model, path)
        integer = model.on_target(get_target("ort"))
        assert integer.input.quantizer is not None
        half_steps = (rng.integers(-300, 300, (160, 5)) * 0.5 * model.input_scale[0]).astype(np.float32)
        points = np.concatenate([rng.uniform(-1.3, 1.3, (160, 5)).astype(np.float32), half_steps])
        levels = integer.execute(integer.input.quantizer(points.astype(np.float64)))
        ours = levels.astype(np.float32) * integer.output_scale.astype(np.float32)
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        assert np.count_nonzero(session.run(None, {"input": points})[0] != ours) == 0
        read = milpq.load_quantized(path)
        assert isinstance(read, QuantizedModel)
        again = read.on_target(get_target("ort"))
        assert again.input.quantizer is not None
        assert (again.execute(again.input.quantizer(points.astype(np.float64))) == levels).all()
        compared += ours.size
    assert compared >= OUTPUTS


IMAGE = (3, 9, 8)


def image_models(folder: Path) -> list[QuantizedModel]:
    """Return quantized convolutional models: read from ONNX in NCHW order, per tensor and per channel, with ties."""
    found: list[QuantizedModel] = []
    for seed, scheme in enumerate(
        ({}, {"per_channel": True}, {"power_of_two": True}, {"bits": (5, 3, 8, 4)})
    ):
        convolutional(folder / "float.onnx", seed)
        points = np.random.default_rng(seed).uniform(-1, 1, (50, *IMAGE)).astype(np.float32)
        found.append(milpq.quantize(folder / "float.onnx", points, **scheme))
    return found


@pytest.mark.parametrize("target", TFLITE)
def test_tflite_files_of_convolutions(target: str, tmp_path: Path) -> None:
    """Strides, odd padding (a PAD), SAME, dilation, depthwise and a flattening; written in NHWC order."""
    rng = np.random.default_rng(21)
    compared = 0
    for model in image_models(tmp_path):
        path = tmp_path / "model.tflite"
        milpq.save(model, path)
        codes = rng.integers(-128, 128, (2500, 216))
        codes[::3] = rng.choice([-128, 0, 127], (len(codes[::3]), 216))
        ours = model.on_target(get_target(target)).execute_codes(codes)
        assert model.images[0] is not None
        last = codes[:, model.images[0].order("channels_last")]
        rows = last.astype(np.int8).reshape(-1, IMAGE[1], IMAGE[2], IMAGE[0])
        assert np.count_nonzero(ours != runtime(target).run(path.read_bytes(), rows)) == 0
        read = milpq.load(path)
        assert isinstance(read, QuantizedModel)
        assert (read.on_target(get_target(target)).execute_codes(last) == ours).all()
        assert len(np.unique(ours)) > 100
        compared += ours.size
    assert compared >= OUTPUTS


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_onnx_files_of_convolutions(level: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    rng = np.random.default_rng(22)
    compared = 0
    for model in image_models(tmp_path):
        path = tmp_path / "model.onnx"
        milpq.save(model, path)
        integer = model.on_target(get_target("ort"))
        assert integer.input.quantizer is not None
        points = rng.uniform(-1.3, 1.3, (2500, 216)).astype(np.float32)
        points[::3] = rng.integers(-300, 300, (len(points[::3]), 216)) * 0.5 * model.input_scale[0]
        levels = integer.execute(integer.input.quantizer(points.astype(np.float64)))
        ours = levels.astype(np.float32) * integer.output_scale.astype(np.float32)
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        assert np.count_nonzero(session.run(None, {"input": points.reshape(-1, *IMAGE)})[0] != ours) == 0
        read = milpq.load_quantized(path)
        assert isinstance(read, QuantizedModel)
        again = read.on_target(get_target("ort"))
        assert again.input.quantizer is not None
        assert (again.execute(again.input.quantizer(points.astype(np.float64))) == levels).all()
        compared += ours.size
    assert compared >= OUTPUTS


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_written_convolutions_pair_with_their_float_file(name: str, tmp_path: Path) -> None:
    """Whatever the layouts of the files are: both pairs differ by the same at the same inputs."""
    convolutional(tmp_path / "plain.onnx", 4)
    points = np.random.default_rng(4).uniform(-1, 1, (100, *IMAGE)).astype(np.float32)
    model = milpq.quantize(tmp_path / "plain.onnx", points)
    milpq.save(model, tmp_path / name)
    target, flat = "tflm" if name.endswith("tflite") else "ort", points.reshape(100, -1).astype(np.float64)
    order = np.arange(216)
    if name.endswith("tflite"):
        assert model.images[0] is not None
        order = model.images[0].order("channels_last")
    box = milpq.Box(np.full(216, -1.0), np.full(216, 1.0))
    found: list[np.ndarray] = []
    for quantized, given in ((tmp_path / name, flat[:, order]), (model, flat)):
        pair = load_pair(tmp_path / "plain.onnx", quantized, target, "file")
        problem = Problem.create(pair.float_network, pair.quantized, box)
        found.append(problem.differences(given)[0])
    np.testing.assert_allclose(*found, atol=1e-12)
    assert 0 < np.abs(found[0]).max() < 0.2


@pytest.mark.parametrize("target", TFLITE)
def test_a_final_sigmoid_is_written_back(target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    network = mlp(rng, (0.0, np.inf), ties=False)
    network = FloatNetwork(network.input_size, network.nodes, network.output, note=SIGMOID_NOTE)
    model = milpq.quantize(network, rng.uniform(-1, 1, (200, 5)))
    path = tmp_path / "model.tflite"
    milpq.save(model, path)
    whole = milpq.load_quantized(path, keep_final_activation=True)
    assert isinstance(whole, QuantizedModel)
    codes = random_codes(rng, 100)
    ours = whole.on_target(get_target(target)).execute_codes(codes.astype(np.int64))
    assert np.count_nonzero(ours != runtime(target).run(path.read_bytes(), codes)) == 0
    for name in ("model.tflite", "model.onnx"):
        milpq.save(model, tmp_path / name)
        read = milpq.load_quantized(tmp_path / name)
        assert isinstance(read, QuantizedModel)
        assert read.note == SIGMOID_NOTE
        logits = model.on_target(get_target("ort")).execute_codes(codes.astype(np.int64))
        assert (read.on_target(get_target("ort")).execute_codes(codes.astype(np.int64)) == logits).all()
