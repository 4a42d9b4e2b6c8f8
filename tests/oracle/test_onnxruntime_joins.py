"""Concatenations and tensors quantized twice in a row: onnxruntime against execution by milpq, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import milpq
from milpq.errors import UnsupportedModelError

pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.oracle.onnxruntime_models import quantize, save
from tests.oracle.test_onnxruntime_models import differences

SHAPE = (2, 6, 5)


def joined(path: Path, seed: int) -> None:
    """Write a float network: two convolutions of one image, joined with a max pool of it, and a Gemm."""
    rng = np.random.default_rng(seed)
    constants = []

    def constant(name: str, *shape: int) -> str:
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 25)
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    node = helper.make_node
    nodes = [
        node(
            "Conv", ["x", constant("w0", 4, 2, 3, 3), constant("b0", 4)], ["c0"], "conv0", pads=[1, 1, 1, 1]
        ),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", constant("w1", 3, 4, 1, 1), constant("b1", 3)], ["c1"], "conv1"),
        node(
            "Conv", ["r0", constant("w2", 2, 4, 3, 3), constant("b2", 2)], ["c2"], "conv2", pads=[1, 1, 1, 1]
        ),
        node("Relu", ["c2"], ["r2"], "relu2"),
        node("Concat", ["c1", "r2", "r0"], ["join"], "join", axis=1),
        node("Flatten", ["join"], ["flat"], "flatten"),
        node("Gemm", ["flat", constant("w9", 270, 10), constant("b9", 10)], ["y"], "dense"),
    ]
    save(path, nodes, constants, [1, *SHAPE], "y", [1, 10])


@pytest.mark.parametrize(("qdq", "unsigned"), [(False, False), (False, True), (True, True)])
def test_a_concatenation(tmp_path: Path, qdq: bool, unsigned: bool) -> None:
    joined(tmp_path / "f.onnx", 3)
    rows = np.random.default_rng(4).uniform(-1, 1, (1, *SHAPE))
    quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", rows, qdq=qdq, unsigned=unsigned)
    assert differences(tmp_path / "q.onnx", "ort", SHAPE) == 0


def test_a_bracket_of_a_concatenation(tmp_path: Path) -> None:
    joined(tmp_path / "f.onnx", 3)
    rows = np.random.default_rng(4).uniform(-1, 1, (1, *SHAPE))
    quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", rows, unsigned=True)
    box = milpq.Box(np.full(60, -0.01), np.full(60, 0.01))
    result = milpq.bound(
        tmp_path / "f.onnx", tmp_path / "q.onnx", box, target="ort", method="interval", time_limit=1
    )
    assert 0 < result.lower <= result.upper < np.inf


def requantized(path: Path, grids: list[tuple[float, int, str]], *, used_twice: bool) -> None:
    """Write a QDQ network of two products, the tensor between them quantized on every one of the grids in turn."""
    rng = np.random.default_rng(len(grids))
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(name: str, source: str, scale: float, zero_point: int, kind: str) -> list[onnx.NodeProto]:
        ends = [constant(f"{name} s", np.float32(scale)), constant(f"{name} z", np.array(zero_point, kind))]
        return [
            helper.make_node("QuantizeLinear", [source, *ends], [f"{name} q"], f"{name} quantize"),
            helper.make_node("DequantizeLinear", [f"{name} q", *ends], [name], f"{name} dequantize"),
        ]

    def dense(name: str, source: str, inputs: int, outputs: int, scale: float) -> list[onnx.NodeProto]:
        weights = constant(f"{name} w", rng.integers(-60, 61, (inputs, outputs)).astype(np.int8))
        bias = constant(f"{name} b", rng.integers(-900, 900, outputs).astype(np.int32))
        unit, zero = constant(f"{name} ws", np.float32(0.01)), constant(f"{name} wz", np.int8(0))
        of_bias = constant(f"{name} bs", np.float32(np.float32(scale) * np.float32(0.01)))
        return [
            helper.make_node("DequantizeLinear", [weights, unit, zero], [f"{name} dw"], f"{name} weights"),
            helper.make_node("DequantizeLinear", [bias, of_bias], [f"{name} db"], f"{name} bias"),
            helper.make_node("Gemm", [source, f"{name} dw", f"{name} db"], [name], name),
        ]

    nodes = [*pair("in", "x", 1 / 64, 128, "uint8"), *dense("first", "in", 6, 16, 1 / 64)]
    value = "first"
    for number, (scale, zero_point, kind) in enumerate(grids):
        nodes += pair(f"g{number}", value, scale, zero_point, kind)
        value = f"g{number}"
    merged = grids[-1][0]
    if len(grids) > 1 and not used_twice and len({kind for *_, kind in grids}) == 1:
        merged = merge(grids)
    nodes += [*dense("second", value, 16, 10, merged), *pair("out", "second", 0.05, 120, "uint8")]
    output = "out"
    if used_twice:
        nodes += [*dense("third", "g0", 16, 10, grids[0][0]), *pair("other", "third", 0.05, 120, "uint8")]
        nodes.append(helper.make_node("Concat", ["out", "other"], ["both"], "both", axis=1))
        nodes += pair("all", "both", 0.05, 120, "uint8")
        output = "all"
    width = 20 if used_twice else 10
    save(path, nodes, constants, ["n", 6], output, ["n", width], TensorProto.FLOAT)


def merge(grids: list[tuple[float, int, str]]) -> float:
    """Return the scale of the reals that all grids cover."""
    low = max(-zero * scale for scale, zero, _ in grids)
    high = min((255 - zero) * scale for scale, zero, _ in grids)
    return (high - low) / 255


GRIDS = {
    "wider": [(0.03, 110, "uint8"), (0.041, 121, "uint8")],
    "narrower": [(0.05, 128, "uint8"), (0.02, 100, "uint8")],
    "crossing": [(0.03, 60, "uint8"), (0.03, 190, "uint8")],
    "three": [(0.05, 128, "uint8"), (0.03, 100, "uint8"), (0.04, 140, "uint8")],
    "same": [(0.04, 128, "uint8"), (0.04, 128, "uint8")],
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_tensor_quantized_twice(tmp_path: Path, name: str) -> None:
    """ONNX Runtime merges both grids."""
    requantized(tmp_path / "q.onnx", GRIDS[name], used_twice=False)
    assert differences(tmp_path / "q.onnx", "ort:vnni=yes", (6,), 20_000) == 0


@pytest.mark.parametrize("name", ["wider", "narrower"])
def test_a_requantization_of_a_tensor_used_elsewhere(tmp_path: Path, name: str) -> None:
    """ONNX Runtime computes both quantizations."""
    requantized(tmp_path / "q.onnx", GRIDS[name], used_twice=True)
    assert differences(tmp_path / "q.onnx", "ort:vnni=yes", (6,), 20_000) == 0


def test_products_are_refused_by_name(tmp_path: Path) -> None:
    node = helper.make_node
    grid = [numpy_helper.from_array(np.float32(0.02), "s"), numpy_helper.from_array(np.uint8(128), "z")]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        node(
            "QLinearMul", ["q", "s", "z", "q", "s", "z", "s", "z"], ["m"], "product", domain="com.microsoft"
        ),
        node("DequantizeLinear", ["m", "s", "z"], ["y"], "dequantize"),
    ]
    save(tmp_path / "q.onnx", nodes, grid, [1, 4], "y", [1, 4])
    with pytest.raises(
        UnsupportedModelError, match=r"QLinearMul 'product' is not supported; fold constant factors"
    ):
        milpq.load(tmp_path / "q.onnx")
