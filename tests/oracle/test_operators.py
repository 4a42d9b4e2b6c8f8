"""Every operator of int8 `.tflite` models, read by milpq and run by the runtimes, bit for bit."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models.tflite_graph import Codes, GraphWriter, Value
from milpq.errors import TargetError
from tests.oracle.execution import executed
from tests.oracle.runtimes import runtime
from tests.oracle.tflite_models import Model, Rng, codes, convolution, images, network, operands, single

TARGETS = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate")
OUTPUTS = 100_000
"""Outputs each test compares at least."""
TFLM_OUTPUTS = 100_000


def _image(rng: Rng, ties: bool, channels: int, extent: tuple[int, int] = (9, 11)) -> GraphWriter:
    return GraphWriter((1, *extent, channels), codes(rng, -7, -3, ties))


def _conv(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = _image(rng, ties, 3, (13, 14))
    return graph, convolution(
        rng,
        graph,
        graph.input,
        int(rng.integers(5, 20)),
        ties,
        kernel=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        strides=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        padding=str(rng.choice(["same", "valid"])),
        activation=str(rng.choice(["none", "relu", "relu6", "relu_n1_to_1"])),
    )


def _dilated(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = _image(rng, ties, 4, (13, 14))
    return graph, convolution(
        rng,
        graph,
        graph.input,
        9,
        ties,
        dilations=(int(rng.integers(1, 4)), int(rng.integers(2, 4))),
        padding=str(rng.choice(["same", "valid"])),
    )


def _depthwise(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    depth, multiplier = int(rng.integers(3, 12)), int(rng.integers(1, 3))
    graph = _image(rng, ties, depth, (12, 12))
    stride = int(rng.integers(1, 3))
    return graph, convolution(
        rng,
        graph,
        graph.input,
        depth * multiplier,
        ties,
        depthwise=True,
        strides=(stride, stride),
        dilations=(1, 1) if stride > 1 else (int(rng.integers(1, 3)),) * 2,
        padding=str(rng.choice(["same", "valid"])),
        activation=str(rng.choice(["none", "relu", "relu6"])),
    )


def _pool(rng: Rng, ties: bool, *, average: bool) -> tuple[GraphWriter, Value]:
    graph = _image(rng, ties, 6, (14, 13))
    return graph, graph.pool(
        graph.input,
        (int(rng.integers(1, 4)), int(rng.integers(2, 5))),
        average=average,
        strides=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        padding=str(rng.choice(["same", "valid"])),
        activation=str(rng.choice(["none", "relu", "relu6"])),
    )


def _average_pool(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    return _pool(rng, ties, average=True)


def _max_pool(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    return _pool(rng, ties, average=False)


def _mean(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = _image(rng, ties, 40, (4, 7))
    source = graph.input.codes
    axes = [(1, 2), (1,), (2,), (3,), (2, 3)][rng.integers(5)]
    exponent = np.log2(source.scale)
    result = source if rng.integers(3) == 0 else codes(rng, exponent - 1.5, exponent + 1, ties)
    return graph, graph.mean(graph.input, axes, result, keep_dims=axes != (1, 2) and bool(rng.integers(2)))


def _add(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph, first, second = operands(rng, ties)
    exponent = np.log2(max(first.codes.scale, second.codes.scale))
    result = codes(rng, exponent - 1, exponent + 2, ties)
    activation = str(rng.choice(["none", "relu", "relu6", "relu_n1_to_1"]))
    return graph, graph.add(first, second, result, activation)


def _pad_and_concatenate(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = _image(rng, ties, 3)
    constant = int(rng.integers(-128, 128)) if rng.integers(2) else None
    padded = graph.pad(graph.input, [(0, 0), (1, 0), (0, 2), (0, 0)], constant)
    other = graph.pad(graph.input, [(0, 0), (0, 1), (1, 1), (0, 0)])
    joined = graph.concatenate([padded, other], int(rng.choice([1, 2, 3])))
    flat = graph.reshape(joined, (1, int(np.prod(joined.shape))))
    return graph, flat


def _requantize(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = GraphWriter((1, 2048), codes(rng, -7, -2, ties))
    exponent = np.log2(graph.input.codes.scale)
    return graph, graph.unary("QUANTIZE", graph.input, codes(rng, exponent - 2, exponent + 2, ties), 1)


def _clamp(rng: Rng, ties: bool, name: str) -> tuple[GraphWriter, Value]:
    graph = GraphWriter((1, 2048), codes(rng, -7, -2, ties))
    exponent = np.log2(graph.input.codes.scale)
    return graph, graph.unary(name, graph.input, codes(rng, exponent - 2, exponent + 1, ties))


def _relu(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    return _clamp(rng, ties, "RELU")


def _relu6(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    return _clamp(rng, ties, "RELU6")


def _relu_n1_to_1(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = GraphWriter((1, 2048), codes(rng, -7, -2, ties))
    exponent = np.log2(graph.input.codes.scale)
    result = codes(rng, exponent - 2, exponent + 1, ties)
    return graph, graph.unary("RELU_N1_TO_1", graph.input, result, 1)


def _residual_network(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    """Return a whole residual network: convolutions, sum, pools, a fully connected end."""
    graph = _image(rng, ties, 2, (12, 12))
    first = convolution(rng, graph, graph.input, 8, ties, padding="same", activation="relu")
    second = convolution(rng, graph, first, 8, ties, padding="same")
    exponent = np.log2(max(first.codes.scale, second.codes.scale))
    both = graph.add(first, second, codes(rng, exponent, exponent + 1, ties), "relu")
    pooled = graph.pool(both, (2, 2), average=False, strides=(2, 2))
    deep = convolution(
        rng, graph, pooled, 16, ties, depthwise=True, padding="same", strides=(2, 2), activation="relu6"
    )
    averaged = graph.pool(deep, (3, 3), average=True)
    flat = graph.reshape(averaged, (1, 16))
    weights = rng.integers(-127, 128, (40, 16)).astype(np.int8)
    result = Codes(single(averaged.codes.scale * 2.0), int(rng.integers(-20, 20)))
    bias = rng.integers(-2000, 2000, 40)
    scale = np.array([2.0**-7], np.float32)
    return graph, graph.fully_connected(flat, weights, bias, result, weight_scales=scale)


LOGISTIC, TANH = Codes(1 / 256, -128), Codes(1 / 128, 0)
"""What the int8 specification fixes for their results."""


def _logistic(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    # A power of two below 2^-6 puts values of the table so near halves that the C library decides: refused.
    graph = GraphWriter((1, 2048), codes(rng, -6, -2, ties))
    return graph, graph.unary("LOGISTIC", graph.input, LOGISTIC)


def _tanh(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    graph = GraphWriter((1, 2048), codes(rng, -7, -2, ties))
    return graph, graph.unary("TANH", graph.input, TANH)


def _curved_network(rng: Rng, ties: bool) -> tuple[GraphWriter, Value]:
    """Return a whole network with both curves inside."""
    graph = GraphWriter((1, 12), codes(rng, -7, -5, ties))
    value = graph.input
    for name, result, size in (("TANH", TANH, 24), ("LOGISTIC", LOGISTIC, 24), ("", None, 40)):
        weights = rng.integers(-127, 128, (size, value.shape[1])).astype(np.int8)
        scale = np.array([2.0 ** (-7 if ties else rng.uniform(-7.5, -6.5))], np.float32)
        bias = rng.integers(-2000, 2000, size)
        value = graph.fully_connected(value, weights, bias, codes(rng, -6, -4, ties), weight_scales=scale)
        if result is not None:
            value = graph.unary(name, value, result)
    return graph, value


MODELS: dict[str, Model] = {
    "conv": _conv,
    "dilated": _dilated,
    "depthwise": _depthwise,
    "average-pool": _average_pool,
    "max-pool": _max_pool,
    "mean": _mean,
    "add": _add,
    "pad-concatenate-reshape": _pad_and_concatenate,
    "requantize": _requantize,
    "relu": _relu,
    "relu6": _relu6,
    "relu-n1-to-1": _relu_n1_to_1,
    "network": _residual_network,
    "logistic": _logistic,
    "tanh": _tanh,
    "curved-network": _curved_network,
}
REFUSED = {("relu-n1-to-1", "tflm")}
"""Operators that a runtime lacks, or rounds in ways that milpq does not know."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_matches_the_runtime(name: str, target: str, tmp_path: Path) -> None:
    run = runtime(target).run
    rng = np.random.default_rng([zlib.crc32(name.encode()), TARGETS.index(target)])
    compared = trial = 0
    while compared < OUTPUTS:
        graph, output = MODELS[name](rng, trial % 2 == 0)
        content = graph.finish(output)
        if (name, target) in REFUSED:
            with pytest.raises(TargetError, match=target):
                network(tmp_path / "model.tflite", content, target)
            return
        ours = network(tmp_path / "model.tflite", content, target)
        count = -(-OUTPUTS // 8 // ours.output_size)
        rows = images(rng, graph.input.shape[1:], count, graph.input.codes.zero_point)
        theirs = run(content, rows).reshape(count, -1)
        found = executed(ours, rows.reshape(count, -1))
        assert np.count_nonzero(found != theirs) == 0, (trial, graph.input.codes, output.codes)
        compared += theirs.size
        trial += 1
