"""Quantized models: what they state, how close they are, and what is refused."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import milpq
from benchmarks.models.tflite_graph import GraphWriter
from milpq.errors import (
    AccumulatorOverflowError,
    InvalidNetworkError,
    MilpqError,
    TargetError,
    UnsupportedModelError,
    UsageError,
)
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.pairing import check_pair
from milpq.network.quantized_model import (
    QuantizedLinear,
    QuantizedModel,
    QuantizedSelection,
    QuantizedSum,
    StatedRequantization,
)
from milpq.quantization import quantize
from milpq.rounding.targets import BUILTIN, get_target
from tests.oracle.random_graphs import random_graph

RELU = (0.0, np.inf)


def mlp(seed: int, sizes: tuple[int, ...] = (3, 8, 6, 2), clamp: tuple[float, float] = RELU) -> FloatNetwork:
    rng = np.random.default_rng(seed)
    nodes: list[Affine | Clamp] = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(outputs, inputs)) * np.sqrt(2 / inputs)
        nodes.append(Affine(f"linear{index}", (Term(len(nodes), weights),), 0.3 * rng.normal(size=outputs)))
        if index < len(sizes) - 2:
            nodes.append(Clamp(f"clamp{index}", len(nodes), *clamp))
    return FloatNetwork(sizes[0], tuple(nodes), len(nodes))


def samples(seed: int, inputs: int, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, inputs)).astype(np.float32)


def largest_error(
    network: FloatNetwork, model: QuantizedModel, points: np.ndarray, target: str | None
) -> float:
    integer = model.on_target(None if target is None else get_target(target))
    assert integer.input.quantizer is not None
    levels = integer.execute(integer.input.quantizer(points.astype(np.float64)))
    return float(np.abs(levels * integer.output_scale - network.evaluate(points)).max())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.lists(st.integers(2, 8), min_size=3, max_size=3),
    activation_bits=st.integers(4, 8),
    flags=st.tuples(*[st.booleans()] * 4),
    method=st.sampled_from(["min-max", "percentile", "mse"]),
    clamp=st.sampled_from([RELU, (0.0, 6.0), (-1.0, 1.0), (-0.3, 0.9)]),
    # FBGEMM adds biases in float32, which only torch modules state.
    target=st.sampled_from([*(name for name in BUILTIN if name != "torch-fbgemm"), None]),
)
def test_every_scheme_makes_a_pair_that_any_target_runs(
    seed: int,
    bits: list[int],
    activation_bits: int,
    flags: tuple[bool, ...],
    method: str,
    clamp: tuple[float, float],
    target: str | None,
) -> None:
    network = mlp(seed, clamp=clamp)
    per_channel, symmetric_weights, symmetric, power_of_two = flags
    power_of_two |= target is not None and target.startswith("pow2")
    model = quantize(
        network,
        samples(seed, 3),
        target=target,
        bits=bits,
        activation_bits=activation_bits,
        per_channel=per_channel,
        symmetric_weights=symmetric_weights,
        symmetric_activations=symmetric,
        power_of_two=power_of_two,
        range_method=method,
    )
    check_pair(network, model)
    for width, layer, node in zip(bits, model.layers, network.nodes[::2], strict=True):
        assert isinstance(layer, QuantizedLinear) and isinstance(node, Affine)
        steps = layer.weight_scales[layer.channel][:, None]
        weights = np.asarray(layer.weights)
        assert (np.abs(node.terms[0].matrix - steps * weights) <= steps / 2 * (1 + 1e-12)).all()
        span = weights.max(axis=1, initial=0) - weights.min(axis=1, initial=0)
        assert span.max() <= 2**width - 1
        assert isinstance(layer.requantization, StatedRequantization) == (target is not None)
    assert model.needs_target == (target is None)
    integer = model.on_target(get_target("litert-ref") if target is None else None)
    codes = integer.execute_codes(np.random.default_rng(seed).integers(-128, 128, (50, 3)))
    assert codes.min() >= -(2 ** (activation_bits - 1)) and codes.max() < 2 ** (activation_bits - 1)


@pytest.mark.parametrize(
    "scheme", [{}, {"per_channel": True}, {"symmetric_weights": False}, {"power_of_two": True}]
)
def test_the_difference_vanishes_as_bits_grow(scheme: dict[str, bool]) -> None:
    """Each bit halves the steps, so four of them have to shrink the error by far more than four."""
    network, points = mlp(5), samples(6, 3, 2000)
    calibration = np.concatenate([points, samples(7, 3)])
    target = "pow2-half-up" if scheme.get("power_of_two") else "tflm"
    errors = [
        largest_error(
            network,
            quantize(
                network,
                calibration,
                target=target,
                bits=bits,
                activation_bits=bits,
                input_bits=bits,
                **scheme,
            ),
            points,
            None,
        )
        for bits in (4, 8, 12)
    ]
    assert errors[1] < errors[0] / 6
    assert errors[2] < errors[1] / 6
    assert errors[2] < 2e-3


def test_sparse_layers_are_quantized_as_dense_ones() -> None:
    network = mlp(1)
    nodes = tuple(
        Affine(node.name, (Term(node.terms[0].source, sp.csr_array(node.terms[0].matrix)),), node.bias)
        if isinstance(node, Affine)
        else node
        for node in network.nodes
    )
    sparse = FloatNetwork(network.input_size, nodes, network.output)
    for options in ({}, {"per_channel": True, "symmetric_weights": False}):
        dense, thin = (quantize(f, samples(1, 3), bits=5, **options) for f in (network, sparse))
        for left, right in zip(dense.layers, thin.layers, strict=True):
            assert isinstance(left, QuantizedLinear) and isinstance(right, QuantizedLinear)
            np.testing.assert_array_equal(left.weights, right.weights.toarray())
            np.testing.assert_array_equal(left.bias, right.bias)


def test_convolutions_are_quantized(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    writer = GraphWriter((1, 6, 6, 1), None)
    value = writer.input
    for outputs, inputs in ((3, 1), (2, 3)):
        kernel = rng.normal(size=(outputs, 3, 3, inputs)).astype(np.float32) * 0.4
        value = writer.convolution(
            value,
            kernel,
            rng.normal(size=outputs).astype(np.float32),
            None,
            padding="same",
            activation="relu",
        )
    value = writer.reshape(value, (1, 72))
    value = writer.fully_connected(
        value, rng.normal(size=(2, 72)).astype(np.float32) * 0.1, np.zeros(2, np.float32), None
    )
    (tmp_path / "float.tflite").write_bytes(writer.finish(value))
    network = milpq.load(tmp_path / "float.tflite")
    assert isinstance(network, FloatNetwork)
    points = rng.uniform(-1, 1, (300, 6, 6, 1))
    errors = [
        largest_error(
            network, quantize(network, points, target="litert-ref", bits=bits), points.reshape(300, 36), None
        )
        for bits in (3, 8)
    ]
    assert errors[1] < 0.05 < errors[0]
    model = quantize(network, points, target="litert-ref", bits=(4, 8, 6))
    first, _, last = model.layers
    assert isinstance(first, QuantizedLinear) and isinstance(last, QuantizedLinear)
    for layer, operator in ((first, "conv"), (last, "fully_connected")):
        assert isinstance(layer.requantization, StatedRequantization)
        assert layer.requantization.statement["operator"] == operator
    milpq.save(model, tmp_path / "model.json")
    read = milpq.load(tmp_path / "model.json")
    assert isinstance(read, QuantizedModel)
    codes = rng.integers(-128, 128, (50, 36))
    np.testing.assert_array_equal(
        model.on_target(None).execute_codes(codes), read.on_target(None).execute_codes(codes)
    )
    milpq.save(quantize(network, points), tmp_path / "model.tflite")
    written = milpq.load(tmp_path / "model.tflite")
    assert isinstance(written, QuantizedModel)
    check_pair(network, written)


def test_an_unrounded_output_is_the_accumulator() -> None:
    network, points = mlp(2), samples(2, 3)
    model = quantize(
        network, points, target="tflm", activation_bits=12, bits=12, input_bits=12, raw_output=True
    )
    last = model.layers[-1]
    assert isinstance(last, QuantizedLinear) and last.requantization is None
    assert largest_error(network, model, points, None) < 5e-3


def test_accumulators_that_overflow_are_refused_by_name() -> None:
    network, points = mlp(3), samples(3, 3)
    with pytest.raises(AccumulatorOverflowError, match=r"'linear[01]'.*int32.*fewer bits"):
        quantize(network, points, bits=16, activation_bits=16, input_bits=16)
    with pytest.raises(AccumulatorOverflowError, match=r"'linear[01]'.*beyond int16; quantize its weights"):
        quantize(network, points, accumulator_bits=16)
    quantize(network, points, bits=5, activation_bits=6, input_bits=6, accumulator_bits=16)
    nodes = (Affine("tiny", (Term(0, np.full((1, 3), 1e-9)),), np.array([100.0])),)
    with pytest.raises(AccumulatorOverflowError, match="'tiny'"):
        quantize(FloatNetwork(3, nodes, 1), points)


def test_what_is_refused() -> None:
    network, points = mlp(4), samples(4, 3)
    with pytest.raises(TargetError, match=r"'linear0': pow2-half-up.*not a power of two"):
        quantize(network, points, target="pow2-half-up")
    with pytest.raises(TargetError, match="unknown target"):
        quantize(network, points, target="mystery")
    for options in (
        {"bits": 1},
        {"bits": 17},
        {"bits": (8, 8)},
        {"activation_bits": (8, 8, 8, 8)},
        {"input_bits": 0},
        {"range_method": "guess"},
        {"percentile": 50.0},
        {"accumulator_bits": 64},
    ):
        with pytest.raises(UsageError):
            quantize(network, points, **options)
    with pytest.raises(InvalidNetworkError, match=r"'linear0'.*no two codes"):
        quantize(mlp(4, clamp=(5.0, 5.1)), points, activation_bits=2)


def test_structures_that_are_refused() -> None:
    eye, zero = np.eye(2), np.zeros(2)
    same = sp.csr_array(eye)
    linear = Affine("a", (Term(0, eye),), zero)

    def after(*nodes: Affine | Clamp) -> FloatNetwork:
        return FloatNetwork(2, (linear, *nodes), 1 + len(nodes))

    for network, message in (
        (after(Affine("both", (Term(0, eye), Term(1, eye)), zero)), "'both': adds 2 products"),
        (
            after(Affine("minus", (Term(0, same), Term(1, -same)), zero, weighted=False)),
            "'minus': is no layer",
        ),
        (after(Affine("twice", (Term(1, 2 * same),), zero, weighted=False)), "'twice': is no layer"),
        (
            after(Affine("double", (Term(1, same), Term(1, same)), zero, weighted=False)),
            "'double': adds a value to",
        ),
        (after(Clamp("up", 1, 0.0, np.inf), Clamp("down", 2, -1.0, -0.5)), "'down': leaves nothing"),
        (FloatNetwork(2, (), 0), "no layer"),
        (FloatNetwork(2, (linear,), 0), "not that of the last layer"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            quantize(network, samples(0, 2))


def test_clamps_that_are_part_of_no_layer() -> None:
    """Of the input, and of a layer that is read without its activation, too: codes are clipped."""
    eye, zero = np.eye(2), np.zeros(2)
    nodes = (
        Clamp("early", 0, -0.5, 0.5),
        Affine("a", (Term(1, eye),), zero),
        Clamp("relu", 2),
        Affine("sum", (Term(2, sp.csr_array(eye)), Term(3, sp.csr_array(eye))), zero, weighted=False),
        Clamp("late", 4, -0.25, 0.75),
    )
    network, points = FloatNetwork(2, nodes, 5), samples(0, 2)
    for target in ("tflm", "ort", "litert-xnnpack"):
        model = quantize(network, points, target=target, activation_bits=8)
        assert largest_error(network, model, points, target) < 0.02
    with pytest.raises(UnsupportedModelError, match="'early': its codes end at"):
        milpq.save(model, Path("never.tflite"))


@pytest.mark.parametrize("seed", [2, 10, 11])
def test_graphs_pair_with_their_float_network(seed: int) -> None:
    """With clamps in a row and pools of one pixel, which are steps of their own."""
    network = random_graph(seed, "channels_last", outputs=3)
    points = np.random.default_rng(0).uniform(-1, 1, (60, 90))
    model = quantize(network, points, target="tflm")
    box = milpq.Box(np.full(90, -1.0), np.full(90, 1.0))
    problem = Problem.create(network, model.on_target(None), box)
    assert 0 < np.abs(problem.differences(points)[0]).max() < 0.2


def test_values_that_are_joined_share_their_codes() -> None:
    first, second = np.eye(2), 3 * np.eye(2)
    left = sp.csr_array(np.array([[1.0, 0], [0, 1], [0, 0], [0, 0]]))
    right = sp.csr_array(np.array([[0.0, 0], [0, 0], [1, 0], [0, 1]]))
    nodes = (
        Affine("a", (Term(0, first),), np.zeros(2)),
        Affine("b", (Term(0, second),), np.zeros(2)),
        Affine("join", (Term(1, left), Term(2, right)), np.zeros(4), weighted=False),
    )
    network, points = FloatNetwork(2, nodes, 3), samples(0, 2)
    model = quantize(network, points, target="tflm")
    scales = {layer.requantization.output_scale for layer in model.layers[:2]}
    assert len(scales) == 1
    assert largest_error(network, model, points, "tflm") < 0.04
    with pytest.raises(InvalidNetworkError, match="'join': joins codes of 4 and 8 bits"):
        quantize(network, points, activation_bits=(8, 4))


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_graphs_of_any_width(bits: int) -> None:
    """Sums, pools, joins, pads and curves of few and of many bits: the error falls with them."""
    network = random_graph(2, "channels_last", kinds=("conv", "add", "maximum", "average", "join", "pad"))
    points = np.random.default_rng(0).uniform(-1, 1, (100, 90)).astype(np.float32)
    model = quantize(
        network, points, target="litert-ref", activation_bits=bits, bits=min(bits, 10), input_bits=bits
    )
    assert {type(layer) for layer in model.layers} >= {QuantizedSum, QuantizedSelection}
    error = largest_error(network, model, points, None)
    assert error < 40 * 2.0**-bits
    codes = model.on_target(None).execute_codes(np.zeros((1, 90), dtype=np.int64))
    assert np.abs(codes).max() < 2 ** (bits - 1) + 1


def test_clamps_in_a_row_are_one(tmp_path: Path) -> None:
    nodes = (
        Affine("a", (Term(0, np.eye(2)),), np.zeros(2)),
        Clamp("relu", 1),
        Clamp("top", 2, -1.0, 0.5),
        Affine("b", (Term(3, np.eye(2)),), np.zeros(2)),
    )
    network, points = FloatNetwork(2, nodes, 4), samples(0, 2)
    model = quantize(network, points, target="tflm", activation_bits=10, input_bits=10)
    assert largest_error(network, model, points, None) < 0.02
    milpq.save(model, tmp_path / "model.json")
    with pytest.raises(UnsupportedModelError):
        milpq.save(model, tmp_path / "model.tflite")


def test_the_open_file_holds_the_model(tmp_path: Path) -> None:
    network, points = mlp(8), samples(8, 3)
    codes = np.random.default_rng(1).integers(-128, 128, (500, 3))
    for number, options in enumerate((
        {"target": "tflm", "bits": (5, 3, 16)},
        {"target": "ort", "per_channel": True, "activation_bits": (7, 6, 9), "symmetric_weights": False},
        {"target": "pow2-floor", "power_of_two": True, "bits": 4, "raw_output": True},
        {"bits": 12},
    )):  # fmt: skip
        model = quantize(network, points, **options)
        path = tmp_path / f"{number}.json"
        milpq.save(model, path)
        read = milpq.load(path)
        assert isinstance(read, QuantizedModel)
        check_pair(network, read)
        target = None if "target" in options else get_target("tosa-single")
        first, second = model.on_target(target), read.on_target(target)
        np.testing.assert_array_equal(first.execute_codes(codes), second.execute_codes(codes))
        reading = points.astype(np.float64)
        assert first.input.quantizer is not None and second.input.quantizer is not None
        np.testing.assert_array_equal(first.input.quantizer(reading), second.input.quantizer(reading))
        np.testing.assert_array_equal(first.output_scale, second.output_scale)


@pytest.mark.parametrize("name", ["controller", "digits"])
def test_bundled_files_are_written_back_byte_for_byte(
    name: str, tmp_path: Path, model_path: Callable[[str], Path]
) -> None:
    stored = milpq.load(model_path(f"{name}_int8.tflite"))
    assert isinstance(stored, QuantizedModel)
    milpq.save(stored, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == model_path(f"{name}_int8.tflite").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4, "activation_bits": 12}, "codes are not int8"),
        ({"input_bits": 4}, "input is not int8"),
        ({"bits": 12}, "weights are not int8"),
        ({"raw_output": True}, "unrounded"),
        ({"target": "pow2-half-up", "power_of_two": True}, "rounds as pow2-half-up"),
        ({"activation_bits": (8, 7, 8)}, "ends them at"),
    ],
)
def test_tflite_refuses_by_name(tmp_path: Path, options: dict[str, object], message: str) -> None:
    model = quantize(mlp(1), samples(1, 3), **options)
    with pytest.raises(MilpqError, match=message):
        milpq.save(model, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


def test_other_endings_and_folders_are_refused(tmp_path: Path) -> None:
    model = quantize(mlp(1), samples(1, 3))
    with pytest.raises(UsageError, match="end in"):
        milpq.save(model, tmp_path / "model.bin")
    with pytest.raises(UsageError, match="no directory"):
        milpq.save(model, tmp_path / "missing" / "model.json")
    with pytest.raises(UnsupportedModelError, match="weight zero points"):
        milpq.save(quantize(mlp(1), samples(1, 3), symmetric_weights=False), tmp_path / "model.tflite")
