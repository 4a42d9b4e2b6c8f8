"""Small random `.tflite` models of every operator, and what milpq makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.models.tflite_graph import Codes, GraphWriter, Value
from milpq.formats import load_quantized
from milpq.network.integer_network import IntegerNetwork
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target

Rng = np.random.Generator
Model = Callable[[Rng, bool], tuple[GraphWriter, Value]]
"""Makes a random model; with True all scales are powers of two, so that ties are frequent."""


def single(value: float) -> float:
    """Return a float32 value."""
    return float(np.float32(value))


def codes(rng: Rng, low: float, high: float, ties: bool) -> Codes:
    """Return a random int8 quantization whose scale has an exponent between two."""
    exponent = rng.uniform(low, high)
    return Codes(single(2.0 ** (np.floor(exponent) if ties else exponent)), int(rng.integers(-128, 128)))


def scales(rng: Rng, channels: int, per_channel: bool, ties: bool) -> npt.NDArray[np.float32]:
    """Return weight scales."""
    exponents = rng.uniform(-9, -6, channels if per_channel else 1)
    return (2.0 ** (np.floor(exponents) if ties else exponents)).astype(np.float32)


def convolution(
    rng: Rng,
    graph: GraphWriter,
    source: Value,
    channels: int,
    ties: bool,
    *,
    kernel: tuple[int, int] = (3, 3),
    depthwise: bool = False,
    **options: object,
) -> Value:
    """Append a convolution whose accumulators fit its output."""
    depth = source.shape[3]
    shape = (1, *kernel, channels) if depthwise else (channels, *kernel, depth)
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    per_channel = bool(rng.integers(2))
    weight_scales = scales(rng, channels, per_channel, ties)
    fan_in = kernel[0] * kernel[1] * (1 if depthwise else depth)
    unit = source.codes.scale * float(weight_scales.max())
    spread = 60 * 70 * np.sqrt(fan_in)
    exponent = np.log2(unit * spread / 60)
    result = codes(rng, exponent - 0.5, exponent + 0.5, ties)
    bias = rng.integers(-int(spread), int(spread), channels).astype(np.int32)
    return graph.convolution(
        source, weights, bias, result, weight_scales=weight_scales, depthwise=depthwise, **options
    )


def operands(rng: Rng, ties: bool, shape: tuple[int, int] = (16, 16)) -> tuple[GraphWriter, Value, Value]:
    """Return a graph with two values that take all pairs of codes: both channels of its input, rescaled exactly."""
    graph = GraphWriter((1, *shape, 2), Codes(1.0, 0))
    first = codes(rng, -6, -1, ties)
    ratio = rng.uniform(-3, 3)
    second = codes(rng, np.log2(first.scale) + ratio, np.log2(first.scale) + ratio + 0.5, ties)
    values = []
    for channel, result in enumerate((first, second)):
        weights = np.zeros((1, 1, 1, 2), np.int8)
        weights[..., channel] = 1
        scale = np.array([result.scale], np.float32)
        values.append(graph.convolution(graph.input, weights, np.zeros(1), result, weight_scales=scale))
    return graph, values[0], values[1]


def network(path: Path, content: bytes, target: str, *, keep: bool = True) -> IntegerNetwork:
    """Return a model as a target runs it."""
    path.write_bytes(content)
    model = load_quantized(path, keep_final_activation=keep)
    assert isinstance(model, QuantizedModel)
    return model.on_target(get_target(target))


def images(rng: Rng, shape: tuple[int, ...], count: int, zero_point: int) -> npt.NDArray[np.int8]:
    """Return input codes: uniform ones, extreme ones, and ones near the zero point."""
    full = (count, *shape)
    kinds = [
        rng.integers(-128, 128, full),
        rng.choice([-128, 127], full),
        np.clip(rng.integers(-3, 4, full) + zero_point, -128, 127),
    ]
    chosen = rng.integers(0, 3, (count, *(1 for _ in shape)))
    return np.choose(chosen, kinds).astype(np.int8)
