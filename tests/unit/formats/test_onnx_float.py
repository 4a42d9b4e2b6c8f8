"""The float ONNX reader: what every operator means, what is merged, and what is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats import load_float
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, is_sparse

Read = Callable[..., FloatNetwork]
W = np.array([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], dtype=np.float32)
B = np.array([0.125, -4.0], dtype=np.float32)
X = np.array([[0.3, -0.7, 1.1], [-2.0, 0.4, 0.9]])


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"the_{kind}", **attributes)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a reader of a graph from x to y given as nodes and constants."""

    def read(
        *nodes: onnx.NodeProto,
        shape: tuple[int | str, ...] = ("N", 3),
        opset: int = 13,
        kind: int = TensorProto.FLOAT,
        **constants: Any,
    ) -> FloatNetwork:
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return load_float(path)

    return read


def affine_of(network: FloatNetwork) -> Affine:
    (only,) = network.nodes
    assert isinstance(only, Affine)
    return only


@pytest.mark.parametrize(("weights", "attributes"), [(W, {"transB": 1}), (W.T, {})])
def test_gemm(read: Read, weights: Any, attributes: Any) -> None:
    network = read(node("Gemm", "x w b", "y", **attributes), w=weights, b=B)
    assert network.evaluate(X) == pytest.approx(X @ W.T + B)
    assert affine_of(network).name == "the_Gemm"


def test_gemm_alpha_and_beta(read: Read) -> None:
    network = read(node("Gemm", "x w b", "y", transB=1, alpha=0.1, beta=0.3), w=W, b=B)
    alpha, beta = (float(np.float32(factor)) for factor in (0.1, 0.3))
    affine = affine_of(network)
    assert (affine.terms[0].matrix == alpha * W.astype(float)).all()
    assert (affine.bias == beta * B.astype(float)).all()


@pytest.mark.parametrize("bias", [np.float32(2.0), np.array([[0.5, 1.0]], np.float32)])
def test_gemm_bias_is_spread(read: Read, bias: Any) -> None:
    network = read(node("Gemm", "x w b", "y", transB=1), w=W, b=bias)
    assert network.evaluate(X) == pytest.approx(X @ W.T + bias)


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        (("MatMul x v m", "Add m b y"), X @ W.T + B),
        (("MatMul x v m", "Add b m y"), X @ W.T + B),
        (("MatMul x v m", "Sub m b y"), X @ W.T - B),
        (("MatMul x v m", "Sub b m y"), B - X @ W.T),
        (("MatMul x v m", "Mul m b y"), X @ W.T * B),
        (("MatMul x v m", "Mul b m y"), X @ W.T * B),
        (("MatMul x v m", "Div m p y"), X @ W.T / np.array([4.0, -0.5])),
        (("MatMul x v m", "Neg m y"), -X @ W.T),
    ],
)
def test_constants_are_merged_where_exact(read: Read, nodes: Any, wanted: Any) -> None:
    parts = [entry.split() for entry in nodes]
    graph = [node(kind, " ".join(inputs), output) for kind, *inputs, output in parts]
    network = read(*graph, v=W.T, b=B, p=np.array([4.0, -0.5], np.float32))
    assert network.evaluate(X) == pytest.approx(wanted)
    affine_of(network)


def test_an_inexact_sum_stays_a_node(read: Read) -> None:
    huge = np.array([1e30, 1.0], np.float32)
    network = read(
        node("MatMul", "x v", "m"), node("Add", "m b", "n"), node("Add", "n h", "y"), v=W.T, b=B, h=huge
    )
    first, second = network.nodes
    assert isinstance(first, Affine)
    assert isinstance(second, Affine)
    assert (first.bias == B).all()
    assert (second.bias == huge.astype(float)).all()
    assert is_sparse(second.terms[0].matrix)


def test_an_inexact_product_stays_a_node(read: Read) -> None:
    third = np.full(2, 1 / 3)
    network = read(
        node("MatMul", "x v", "m"),
        node("Mul", "m t", "y"),
        v=W.T.astype(float),
        t=third,
        kind=TensorProto.DOUBLE,
    )
    assert len(network.nodes) == 2
    assert network.evaluate(X) == pytest.approx(X @ W.T / 3)


def test_normalization_at_the_input(read: Read) -> None:
    mean, factor = np.array([0.5, 0.25, 0.1], np.float32), np.float32(1.7)
    network = read(
        node("Sub", "x m", "c"), node("Mul", "c f", "n"), node("MatMul", "n v", "y"), m=mean, f=factor, v=W.T
    )
    assert network.evaluate(X) == pytest.approx(((X - mean) * factor) @ W.T)


def test_zero_and_one_add_nothing(read: Read) -> None:
    network = read(
        node("Sub", "x z", "a"), node("Mul", "a o", "b"), node("MatMul", "b v", "y"), z=np.zeros(3, "f4"),
        o=np.ones(1, "f4"), v=W.T,
    )  # fmt: skip
    affine_of(network)


def test_division_that_is_not_exact(read: Read) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'the_Div'.*multiply by the reciprocal"):
        read(node("Div", "x d", "y"), d=np.float32(3.0))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 1, 3)])
def test_rows_of_any_rank(read: Read, shape: Any) -> None:
    network = read(node("MatMul", "x v", "y"), v=W.T, shape=shape)
    assert network.evaluate(X) == pytest.approx(X @ W.T)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3, 1)])
def test_constant_on_the_left(read: Read, shape: Any) -> None:
    network = read(node("MatMul", "w x", "y"), w=W, shape=shape)
    assert network.evaluate(X) == pytest.approx(X @ W.T)


def test_matrix_values(read: Read) -> None:
    points = np.arange(6.0)
    left = read(node("MatMul", "w x", "y"), w=W, shape=(3, 2))
    assert left.evaluate(points)[0] == pytest.approx((W @ points.reshape(3, 2)).ravel())
    right = read(node("MatMul", "x v", "y"), v=W.T, shape=(2, 3))
    assert right.evaluate(points)[0] == pytest.approx((points.reshape(2, 3) @ W.T).ravel())


def test_residual(read: Read) -> None:
    square = np.array([[0.5, 1, 0], [2, -1, 3], [1, 1, 1]], np.float32)
    for kind, sign in (("Add", 1), ("Sub", -1)):
        network = read(node("MatMul", "x v", "m"), node("Relu", "m", "r"), node(kind, "r x", "y"), v=square)
        assert network.evaluate(X) == pytest.approx(np.maximum(X @ square, 0) + sign * X)
        assert len(network.nodes[-1].sources) == 2


def test_a_value_added_to_itself(read: Read) -> None:
    assert read(node("Add", "x x", "y")).evaluate(X) == pytest.approx(2 * X)
    assert read(node("Sub", "x x", "y")).evaluate(X) == pytest.approx(0 * X)


def test_clips(read: Read) -> None:
    network = read(node("Clip", "x l u", "y"), l=np.float32(-0.5), u=np.float32(0.75))
    assert network.evaluate(X) == pytest.approx(np.clip(X, -0.5, 0.75))
    old = read(node("Clip", "x", "y", min=0.0, max=6.0), opset=7)
    assert [(clamp.lower, clamp.upper) for clamp in old.nodes if isinstance(clamp, Clamp)] == [(0.0, 6.0)]
    one_sided = read(helper.make_node("Clip", ["x", "", "u"], ["y"]), u=np.float32(1.0))
    assert one_sided.evaluate(X) == pytest.approx(np.minimum(X, 1))
    with pytest.raises(InvalidNetworkError, match="the_Clip"):
        read(node("Clip", "x l u", "y"), l=np.float32(1.0), u=np.float32(0.0))


def test_shapes_pass_through(read: Read) -> None:
    shape = np.array([0, -1], np.int64)
    network = read(
        node("Reshape", "x s", "a"),
        node("Unsqueeze", "a u", "b"),
        node("Squeeze", "b u", "c"),
        node("Flatten", "c", "d"),
        node("Identity", "d", "e"),
        node("Dropout", "e", "f"),
        node("Cast", "f", "g", to=TensorProto.DOUBLE),
        node("Constant", "", "h", value=numpy_helper.from_array(W)),
        node("Transpose", "h", "t"),
        node("MatMul", "g t", "y"),
        shape=("N", 1, 3),
        s=shape,
        u=np.array([1], np.int64),
    )
    assert network.evaluate(X) == pytest.approx(X @ W.T)
    affine_of(network)


def test_unused_nodes_are_ignored(read: Read) -> None:
    network = read(node("MatMul", "x v", "y"), node("Softplus", "x", "unused"), v=W.T)
    affine_of(network)


def test_final_sigmoid(read: Read) -> None:
    network = read(node("MatMul", "x v", "m"), node("Sigmoid", "m", "s"), node("Flatten", "s", "y"), v=W.T)
    assert len(network.nodes) == 1
    assert "sigmoid" in network.note


def test_sigmoid_and_tanh_inside(read: Read) -> None:
    network = read(
        node("Sigmoid", "x", "s"),
        node("MatMul", "s v", "m"),
        node("Tanh", "m", "t"),
        node("Relu", "t", "y"),
        v=W.T,
    )
    assert not network.note
    points = np.random.default_rng(0).normal(0, 2, (20, W.shape[1]))
    expected = np.maximum(np.tanh((1 / (1 + np.exp(-points))) @ W.T), 0)
    assert np.allclose(network.evaluate(points), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            [node("LogSoftmax", "x", "y")],
            "LogSoftmax 'the_LogSoftmax' is not supported; end the network before",
        ),
        ([node("Erf", "x", "y")], "Erf 'the_Erf' is not supported"),
        ([node("Relu", "x", "y", domain="com.example")], "com.example.Relu"),
        ([node("MatMul", "x x", "y")], "'the_MatMul'"),
        ([node("Gemm", "x v b", "y", transA=1)], "transA"),
        ([node("Mul", "x x", "y")], "two computed"),
        ([node("Cast", "x", "y", to=TensorProto.INT64)], "casts"),
        ([node("Dropout", "x r t", "y")], "training"),
        ([node("Add", "x i", "y")], "not a float constant"),
        ([node("Add", "x q", "y")], "broadcasts"),
        ([node("Reshape", "x x", "y")], "shape"),
    ],
)
def test_refused_by_name(read: Read, graph: Any, message: str) -> None:
    constants = {"v": W.T, "b": B, "r": np.float32(0.5), "t": np.array(True), "i": np.array([1, 2, 3])}
    with pytest.raises(UnsupportedModelError) as caught:
        read(*graph, **constants, q=np.ones((4, 3), "f4"))
    assert message in str(caught.value)
    assert "model.onnx" in str(caught.value)


@pytest.mark.parametrize(
    "graph",
    [
        [node("Relu", "nowhere", "y")],
        [node("Relu", "x", "z")],
        [node("Relu", "", "y")],
        [node("Reshape", "x s", "y")],
        [node("Gemm", "x w", "y")],
        [node("Flatten", "x", "y", axis=7)],
        [node("Add", "x b", "y")],
        [],
    ],
)
def test_malformed(read: Read, graph: Any) -> None:
    with pytest.raises(ModelFileError):
        read(*graph, w=W, b=B, s=np.array([5, 7]))


def test_operator_sets(read: Read) -> None:
    with pytest.raises(UnsupportedModelError, match="operator set"):
        read(node("Relu", "x", "y"), opset=6)
    with pytest.raises(UnsupportedModelError, match="operator set"):
        read(node("Relu", "x", "y"), opset=999)


def test_open_dimensions(read: Read) -> None:
    with pytest.raises(UnsupportedModelError, match="dimension 1"):
        read(node("Relu", "x", "y"), shape=("N", "M"))


@pytest.mark.parametrize(("rows", "inner", "columns"), [(3000, 1, 3000), (40_000, 100, 100)])
def test_blow_up_by_repetition(read: Read, rows: int, inner: int, columns: int) -> None:
    with pytest.raises(UnsupportedModelError, match="'the_MatMul'"):
        read(node("MatMul", "x w", "y"), w=np.ones((inner, columns), "f4"), shape=(rows, inner))


@pytest.mark.parametrize("shape", [(-1, 3), (0, 2**62, 2**62)])
def test_impossible_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """An empty array agrees with no bytes of data, whatever its other extents."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape, raw_data=b"")
    graph = helper.make_graph(
        [node("MatMul", "x w", "y")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [tensor],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="'w': has the impossible shape"):
        load_float(tmp_path / "m.onnx")
