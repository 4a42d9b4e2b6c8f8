"""Quantized ONNX graphs: what is read, and how what is not is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import milpq
from milpq.errors import InvalidNetworkError, TargetError, UnsupportedModelError
from milpq.formats._quantized_builder import pairs_saturate
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel
from milpq.rounding.targets import get_target

CONSTANTS: dict[str, Any] = {
    "sx": np.float32(0.01),
    "zx": np.int8(3),
    "w": np.array([[1, -2, 3], [4, 5, -128]], dtype=np.int8),
    "sw": np.float32(0.02),
    "zw": np.int8(0),
    "b": np.array([7, -9], dtype=np.int32),
    "sb": np.float32(np.float32(0.01) * np.float32(0.02)),
    "zb": np.int32(0),
    "sy": np.float32(0.05),
    "zy": np.int8(-128),
    "u": np.uint8(10),
    "bf": np.array([0.5, 0.25], dtype=np.float32),
    "zero": np.float32(0),
    "six": np.float32(6),
}
Q = helper.make_node


def write(path: Path, nodes: Sequence[onnx.NodeProto], kind: int = TensorProto.FLOAT, **changed: Any) -> Path:
    """Write a graph from ``x`` (n, 3) to the result of its last node."""
    known = {**CONSTANTS, **changed}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", kind, ["n", 3])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in known.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def qdq(*middle: onnx.NodeProto, bias: str = "bd", last: str = "g") -> list[onnx.NodeProto]:
    """Return Q, DQ, Gemm, whatever follows it, Q and DQ."""
    return [
        Q("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        Q("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        Q("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        Q("DequantizeLinear", ["b", "sb", "zb"], ["bd"]),
        Q("Gemm", ["xd", "wd", bias], ["g"], name="dense", transB=1),
        *middle,
        Q("QuantizeLinear", [last, "sy", "zy"], ["yq"]),
        Q("DequantizeLinear", ["yq", "sy", "zy"], ["y"]),
    ]


def layer_of(path: Path) -> QuantizedLinear:
    model = milpq.load_quantized(path)
    assert isinstance(model, QuantizedModel) and len(model.layers) == 1
    layer = model.layers[0]
    assert isinstance(layer, QuantizedLinear)
    return layer


def test_qdq_and_qoperator_state_the_same_layer(tmp_path: Path) -> None:
    gemm = ["xq", "sx", "zx", "w", "sw", "zw", "b", "sy", "zy"]
    qoperator = [
        Q("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        Q("QGemm", gemm, ["yq"], domain="com.microsoft", transB=1),
        Q("DequantizeLinear", ["yq", "sy", "zy"], ["y"]),
    ]
    from_codes = [Q("QGemm", ["x", *gemm[1:]], ["yq"], domain="com.microsoft", transB=1)]
    layers = [
        layer_of(write(tmp_path / "qdq.onnx", qdq())),
        layer_of(write(tmp_path / "qoperator.onnx", qoperator)),
        layer_of(write(tmp_path / "codes.onnx", from_codes, TensorProto.INT8)),
    ]
    for layer in layers:
        np.testing.assert_array_equal(layer.weights, CONSTANTS["w"])
        np.testing.assert_array_equal(layer.bias, CONSTANTS["b"])
        assert layer.requantization is not None and layer.requantization.output_zero_point == -128
        assert layer.activation == "relu"


def test_a_relu_that_the_codes_imply_is_dropped(tmp_path: Path) -> None:
    relu = Q("Relu", ["g"], ["r"])
    assert layer_of(write(tmp_path / "q.onnx", qdq(relu, last="r"))).activation == "relu"


def test_weight_zero_points_are_subtracted(tmp_path: Path) -> None:
    weights = np.array([[200, 0, 7], [10, 10, 10]], dtype=np.uint8)
    nodes = [
        Q("QuantizeLinear", ["x", "sx", "u"], ["xq"]),
        Q("QLinearMatMul", ["xq", "sx", "u", "w", "sw", "zw", "sy", "u"], ["y"]),
    ]
    path = write(tmp_path / "q.onnx", nodes, w=weights.T.copy(), zw=np.array([10, 20], dtype=np.uint8),
                 sw=np.array([0.5, 0.25], dtype=np.float32))  # fmt: skip
    layer = layer_of(path)
    np.testing.assert_array_equal(layer.weights, [[190, -10, -3], [-10, -10, -10]])
    assert layer.requantization is not None and layer.requantization.code_upper == 255


@pytest.mark.parametrize(
    ("nodes", "changed", "message"),
    [
        (qdq(Q("Relu", ["g"], ["r"]), last="r"), {"zy": np.int8(0)}, "asymmetrically"),
        (qdq(Q("Clip", ["g", "zero", "six"], ["r"]), last="r"), {}, "narrower than its codes"),
        (qdq(bias="bf"), {}, "not int32"),
        (qdq(), {"sb": np.float32(1.0)}, "bias scale"),
        (qdq(Q("Erf", ["g"], ["r"], name="squash"), last="r"), {}, "Erf 'squash' is not supported"),
        (qdq(Q("Tanh", ["g"], ["r"], name="squash"), last="r"), {}, "reads what no DequantizeLinear gives"),
        (qdq(Q("Add", ["g", "bf"], ["r"]), last="r"), {}, "adds what is not quantized"),
        (qdq(), {"w": np.zeros((2, 3), dtype=np.uint8), "zw": np.uint8(0)}, "does not fuse"),
        (qdq(), {"w": np.zeros((2, 3), dtype=np.int16), "zw": np.int16(0)}, "int16 weights"),
        ([*qdq()[:6], Q("Relu", ["g"], ["y"])], {}, "in float32"),
        ([*qdq()[2:4], Q("Gemm", ["x", "wd", "bd"], ["g"], transB=1), *qdq()[5:]], {}, "no DequantizeLinear gives"),
    ],
)  # fmt: skip
def test_what_onnxruntime_does_not_fuse_is_refused(
    tmp_path: Path, nodes: list[onnx.NodeProto], changed: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "q.onnx", nodes, **changed)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        milpq.load_quantized(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_float_result_used_twice_is_refused(tmp_path: Path) -> None:
    second = Q("QuantizeLinear", ["g", "sx", "zx"], ["other"])
    nodes = [
        *qdq(second),
        Q("DequantizeLinear", ["other", "sx", "zx"], ["z"]),
        Q("Gemm", ["z", "y"], ["end"]),
    ]
    with pytest.raises(UnsupportedModelError, match="'dense': its float result is used 2 times"):
        milpq.load_quantized(write(tmp_path / "q.onnx", nodes))


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for changed in (
        {"sx": np.float32(-1)},
        {"w": np.zeros((2, 4), dtype=np.int8)},
        {"sw": np.float32("nan")},
    ):
        with pytest.raises(InvalidNetworkError):
            milpq.load_quantized(write(tmp_path / "q.onnx", qdq(), **changed))


def test_a_sigmoid_at_the_end_is_left_out(tmp_path: Path) -> None:
    nodes = [*qdq(), Q("Sigmoid", ["y"], ["s"])]
    model = milpq.load_quantized(write(tmp_path / "q.onnx", nodes))
    assert "sigmoid" in model.note


def test_an_unrounded_last_layer_gives_its_accumulators(tmp_path: Path) -> None:
    model = milpq.load_quantized(write(tmp_path / "q.onnx", qdq()[:5]))
    assert isinstance(model, QuantizedModel)
    network = model.on_target(get_target("ort"))
    codes = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(
        network.execute_codes(codes), (codes - 3) @ CONSTANTS["w"].T.astype(int) + [7, -9]
    )


def test_saturating_pairs_need_vnni(tmp_path: Path) -> None:
    weights = np.array([[127, 127, 0], [1, 1, 1]], dtype=np.int8)
    model = milpq.load_quantized(write(tmp_path / "q.onnx", qdq(), w=weights))
    assert isinstance(model, QuantizedModel)
    with pytest.raises(TargetError, match=r"'dense'.*reduce_range"):
        model.on_target(get_target("ort"))
    assert model.on_target(get_target("ort:vnni=yes")).target == "ort:vnni=yes"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([64, 64, 64], False),
        ([65, 64, 0], True),
        ([-64, 127, -64], False),
        ([127, 0, 2], True),
        ([127], False),
    ],
)
def test_pairs_saturate(row: list[int], expected: bool) -> None:
    assert pairs_saturate(np.array([row])) is expected
    exact = any(
        not -(2**15) <= 255 * (max(a * s, 0) + max(b * s, 0)) * s <= 2**15 - 1
        for i, a in enumerate(row) for b in row[i + 1 :] for s in (1, -1)
    )  # fmt: skip
    assert exact is expected


def test_weights_behind_dequantize_make_a_float_network(tmp_path: Path) -> None:
    nodes = [
        Q("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        Q("Gemm", ["x", "wd", "bf"], ["y"], transB=1),
    ]
    scales = np.array([0.02, 0.3], dtype=np.float32)
    path = write(tmp_path / "w.onnx", nodes, sw=scales, zw=np.array([1, -2], dtype=np.int8))
    network = milpq.load(path)
    assert isinstance(network, FloatNetwork)
    weights = (CONSTANTS["w"].astype(float) - [[1], [-2]]) * scales.astype(float)[:, None]
    np.testing.assert_array_equal(network.evaluate(np.eye(3)), weights.T + np.array([0.5, 0.25]))


@pytest.mark.parametrize("signed", [True, False])
def test_four_bit_weights_in_blocks(tmp_path: Path, signed: bool) -> None:
    codes = np.array([[-8, 7, 3], [0, -1, 5]]) + (0 if signed else 8)
    kind = TensorProto.INT4 if signed else TensorProto.UINT4
    scales = np.array([[0.5, 2.0], [0.25, 1.0]], dtype=np.float32)
    path = write(
        tmp_path / "w.onnx",
        [Q("DequantizeLinear", ["w4", "sw"], ["wd"], axis=1, block_size=2), Q("MatMul", ["x", "t"], ["y"])],
        sw=scales,
    )
    model = onnx.load(path)
    model.graph.node.insert(1, Q("Transpose", ["wd"], ["t"]))
    model.graph.initializer.append(helper.make_tensor("w4", kind, codes.shape, codes.ravel()))
    onnx.save(model, path)
    network = milpq.load(path)
    assert isinstance(network, FloatNetwork)
    expected = codes * np.repeat(scales, 2, axis=1)[:, :3]
    np.testing.assert_array_equal(network.evaluate(np.eye(3)), expected.T)
