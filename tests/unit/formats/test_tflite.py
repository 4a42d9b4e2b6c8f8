"""The `.tflite` readers, on models written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from benchmarks.models.tflite_writer import (
    Activation,
    FloatLayer,
    Layer,
    _GraphBuilder,
    _quantization,
    write_float_model,
    write_fully_connected_model,
)
from milpq.errors import InvalidNetworkError, MilpqError, ModelFileError, UnsupportedModelError
from milpq.formats import load, load_float, load_quantized
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Clamp
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel, QuantizedUnary
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target

W = np.array([[12, -100, 3], [-128, 0, 127]], np.int8)
B = np.array([1000, -70], np.int32)


def layer(**changes: Any) -> Layer:
    entries: dict[str, Any] = {
        "weights": W,
        "bias": B,
        "weight_scales": np.array([0.01], np.float32),
        "output_scale": 0.05,
        "output_zero_point": -3,
    } | changes
    return Layer(**entries)


def read(folder: Path, content: bytes, **options: Any) -> QuantizedModel:
    path = folder / "model.tflite"
    path.write_bytes(content)
    model = load(path, **options)
    assert isinstance(model, QuantizedModel)
    return model


def linear(model: QuantizedModel, index: int = 0) -> tuple[QuantizedLinear, Requantization]:
    found = model.layers[index]
    assert isinstance(found, QuantizedLinear)
    assert isinstance(found.requantization, Requantization)
    return found, found.requantization


def test_what_the_file_states(tmp_path: Path) -> None:
    model = read(tmp_path, write_fully_connected_model([layer()], 0.5, 7))
    found, end = linear(model)
    assert (found.weights == W).all()
    assert (found.bias == B).all()
    assert (model.input_scale == 0.5).all()
    assert (model.input_zero_point, model.input_code_lower, model.input_code_upper) == (7, -128, 127)
    assert (model.float_scale == model.input_scale).all()
    assert found.weight_scales.tolist() == [float(np.float32(0.01))] * 2
    assert (end.operator, end.per_channel) == ("fully_connected", False)
    assert (end.output_scale, end.output_zero_point) == (float(np.float32(0.05)), -3)
    assert (end.code_lower, end.code_upper) == (-128, 127)
    assert model.needs_target


def test_per_channel_and_no_bias(tmp_path: Path) -> None:
    scales = np.array([0.01, 0.3], np.float32)
    found, end = linear(
        read(tmp_path, write_fully_connected_model([layer(bias=None, weight_scales=scales)], 0.5, 7))
    )
    assert end.per_channel
    assert end.weight_scales.tolist() == scales.astype(float).tolist()
    assert not found.bias.any()


@pytest.mark.parametrize(
    ("activation", "scale", "name", "limits"),
    [
        (Activation.NONE, 0.05, "none", (-128, 127)),
        (Activation.RELU, 0.05, "relu", (-3, 127)),
        (Activation.RELU6, 0.05, "relu6", (-3, 117)),
        (Activation.RELU6, 0.04, "relu6", (-3, 127)),
        (Activation.RELU6, 4.0, "relu6", (-3, -1)),
    ],
)
def test_fused_activations(
    tmp_path: Path, activation: Activation, scale: float, name: str, limits: tuple[int, int]
) -> None:
    content = write_fully_connected_model([layer(activation=activation, output_scale=scale)], 0.5, 7)
    found, end = linear(read(tmp_path, content))
    assert found.activation == name
    assert (end.code_lower, end.code_upper) == limits


def test_boundary_and_sigmoid(tmp_path: Path) -> None:
    content = write_fully_connected_model(
        [layer()], 0.5, 7, quantize_input=True, dequantize_output=True, logistic=True
    )
    dropped, kept = read(tmp_path, content), read(tmp_path, content, keep_final_activation=True)
    assert len(dropped.layers) == 1
    assert "sigmoid" in dropped.note
    assert isinstance(kept.layers[1], QuantizedUnary)
    assert not kept.note
    network = kept.on_target(get_target("tflm"))
    before = dropped.on_target(get_target("tflm"))
    codes = np.random.default_rng(0).integers(-128, 128, (50, 3))
    real = (before.execute_codes(codes) + 3) * before.output_scale
    assert np.abs(network.execute_codes(codes) + 128 - 256 / (1 + np.exp(-real))).max() <= 1.01
    assert network.output_zero_point == -128


def test_float_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((5, 3), (4, 5), (2, 4))]
    bias = rng.normal(size=5).astype(np.float32)
    kinds = (Activation.RELU6, Activation.RELU, Activation.NONE)
    content = write_float_model(
        [FloatLayer(w, b, kind) for w, b, kind in zip(weights, (bias, None, None), kinds, strict=True)]
    )
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    network = load_float(path)
    points = rng.normal(size=(20, 3)) * 3
    hidden = np.clip(points @ weights[0].T.astype(float) + bias, 0, 6)
    wanted = np.maximum(hidden @ weights[1].T.astype(float), 0) @ weights[2].T.astype(float)
    assert network.evaluate(points) == pytest.approx(wanted)
    assert [node.upper for node in network.nodes if isinstance(node, Clamp)] == [6.0, np.inf]


def test_which_side_a_file_can_be(model_path: Any) -> None:
    assert isinstance(load_quantized(model_path("controller_float.tflite")), FloatNetwork)
    with pytest.raises(UnsupportedModelError, match="--float-twin"):
        load_float(model_path("controller_int8.tflite"))


def _edited(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _object(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


@pytest.fixture
def model() -> Any:
    return _object(write_fully_connected_model([layer(), layer(weights=np.ones((2, 2), np.int8))], 0.5, 7))


def test_reshape(tmp_path: Path) -> None:
    graph = _GraphBuilder()
    quantization = _quantization(np.array([0.5], np.float32), 7)
    source = graph.tensor("input", (1, 1, 3), schema.TensorType.INT8, quantization)
    flat = graph.tensor("flat", (1, 3), schema.TensorType.INT8, quantization)
    graph.operator(schema.BuiltinOperator.RESHAPE, 1, [source], flat)
    weights = graph.constant("w", W, schema.TensorType.INT8, _quantization(np.array([0.01], np.float32), 0))
    result = graph.tensor("output", (1, 2), schema.TensorType.INT8, quantization)
    graph.fully_connected(6, [flat, weights, -1], result, Activation.NONE)
    found, _ = linear(read(tmp_path, graph.finish(source, result)))
    assert (found.weights == W).all()


def _set(path: str, value: Any) -> Any:
    """Return a change of one attribute, as in ``tensors.1.type``, of the only subgraph."""

    def change(model: Any) -> None:
        *steps, last = path.split(".")
        found = model.subgraphs[0]
        for step in steps:
            found = found[int(step)] if step.isdecimal() else getattr(found, step)
        setattr(found, last, value)

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_set("tensors.0.type", schema.TensorType.UINT8), MilpqError, "uint8"),
        (_set("tensors.3.type", schema.TensorType.INT16), UnsupportedModelError, "INT16"),
        (_set("tensors.1.type", schema.TensorType.INT4), UnsupportedModelError, "INT4"),
        (_set("tensors.1.quantization.scale", [0.0]), InvalidNetworkError, "scale"),
        (_set("tensors.1.quantization.scale", [float("nan")]), InvalidNetworkError, "scale"),
        (_set("tensors.1.quantization.scale", [0.1] * 3), InvalidNetworkError, "zero points"),
        (_set("tensors.3.quantization", None), InvalidNetworkError, "0 scales"),
        (_set("tensors.3.quantization.zeroPoint", [300]), InvalidNetworkError, "300"),
        (_set("tensors.1.quantization.zeroPoint", [5]), UnsupportedModelError, "zero point is 5"),
        (_set("tensors.2.quantization.zeroPoint", [1]), InvalidNetworkError, "bias"),
        (_set("tensors.1.shape", [2**30, 2**30]), ModelFileError, "bytes"),
        (_set("tensors.1.shape", [3, 2]), InvalidNetworkError, "3 inputs"),
        (_set("tensors.1.buffer", 99), ModelFileError, "99"),
        (_set("tensors.0.shape", [2**30, 2**30]), UnsupportedModelError, "values"),
        (_set("operators.0.inputs", [5, 1, 2]), ModelFileError, "no operator before it"),
        (_set("operators.0.inputs", [0, 77, 2]), ModelFileError, "77"),
        (_set("operators.0.opcodeIndex", 9), ModelFileError, "9"),
        (_set("outputs", [0, 1]), UnsupportedModelError, "2 outputs"),
        (_set("outputs", [2]), ModelFileError, "output"),
        (_set("operators.0.builtinOptions.fusedActivationFunction", 4), UnsupportedModelError, "TANH"),
    ],
)
def test_refused(tmp_path: Path, model: Any, change: Any, error: type[MilpqError], message: str) -> None:
    change(model)
    with pytest.raises(error, match=message) as caught:
        read(tmp_path, _edited(model))
    assert "model.tflite" in str(caught.value)


def test_unsupported_operator_is_named(tmp_path: Path, model: Any) -> None:
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = (
        schema.BuiltinOperator.HARD_SWISH
    )
    with pytest.raises(UnsupportedModelError, match=r"operator HARD_SWISH 'layer0/output'"):
        read(tmp_path, _edited(model))


def test_layers_may_follow_a_sigmoid(tmp_path: Path) -> None:
    graph = _GraphBuilder()
    quantization = _quantization(np.array([0.5], np.float32), 7)
    source = graph.tensor("input", (1, 3), schema.TensorType.INT8, quantization)
    middle = graph.tensor(
        "middle", (1, 3), schema.TensorType.INT8, _quantization(np.array([1 / 256], "f4"), -128)
    )
    graph.operator(schema.BuiltinOperator.LOGISTIC, 2, [source], middle)
    weights = graph.constant("w", W, schema.TensorType.INT8, _quantization(np.array([0.01], np.float32), 0))
    result = graph.tensor("output", (1, 2), schema.TensorType.INT8, quantization)
    graph.fully_connected(6, [middle, weights, -1], result, Activation.NONE)
    model = read(tmp_path, graph.finish(source, result))
    assert isinstance(model, QuantizedModel)
    assert [type(layer).__name__ for layer in model.layers] == ["QuantizedUnary", "QuantizedLinear"]
    assert not model.note
