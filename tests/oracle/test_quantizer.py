"""What the quantizer writes, run by the real runtimes: whole models, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import milpq
from milpq.formats._float_builder import SIGMOID_NOTE
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target
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
