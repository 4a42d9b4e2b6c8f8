"""Small random network pairs of every kind, and a plain interval bound to encode them with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge import Cubes, MergedAffine, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedLinear, QuantizedLookup, QuantizedModel
from milpq.region.box import Box
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target

SLACK = 1e-9
TARGETS = ("tflm", "cmsis-single", "litert-ref", "litert-nodelegate", "ort", "pow2-half-up", "pow2-half-even")


def interval_bounds(problem: Problem, cubes: Cubes) -> Bounds:
    """Return plain interval bounds on every face, generously rounded."""
    domain = problem.domain
    if domain.integer is None:
        reading = cubes.lower, cubes.upper
    else:
        reading = cubes.level_lower * domain.integer.scale, cubes.level_upper * domain.integer.scale
    values = [_value((cubes.lower, cubes.upper), reading, domain.difference(cubes))]
    for node in problem.merged.nodes:
        if isinstance(node, MergedAffine):
            a = v = d = (0.0, 0.0)
            for term in node.terms:
                source = values[term.source]
                a = _plus(a, _image(term.float_matrix, source.float_side))
                v = _plus(v, _image(term.quantized_matrix, source.quantized_side))
                d = _plus(d, _image(term.quantized_matrix, source.difference))
                d = _plus(d, _image(term.difference_matrix, source.float_side))
            a = a[0] + node.float_bias, a[1] + node.float_bias
            v = v[0] + node.quantized_bias, v[1] + node.quantized_bias
            d = d[0] + node.difference_bias, d[1] + node.difference_bias
            values.append(_value(a, v, d))
            continue
        source = values[node.source]

        def clamp(side: Interval, node: object = node) -> tuple[np.ndarray, np.ndarray]:
            return np.clip(side.lower, node.lower, node.upper), np.clip(side.upper, node.lower, node.upper)

        a, d = clamp(source.float_side), (source.difference.lower, source.difference.upper)
        if node.lower > -np.inf or node.upper < np.inf:
            d = np.minimum(d[0], 0), np.maximum(d[1], 0)
        if node.step is None:
            v = clamp(source.quantized_side)
        else:
            low = np.ceil(source.quantized_side.lower / node.scale_in - 1e-6).astype(np.int64)
            high = np.floor(source.quantized_side.upper / node.scale_in + 1e-6).astype(np.int64)
            v = node.step(low) * node.scale_out, node.step(high) * node.scale_out
            residue = np.zeros((2, *low.shape))
            for neuron in range(node.size):
                reach = np.arange(low[:, neuron].min(), high[:, neuron].max() + 1)
                level = node.step.select(np.array([neuron]))(reach[:, None])[:, 0] * node.scale_out[neuron]
                error = level - np.clip(reach * node.scale_in[neuron], node.lower, node.upper)
                residue[:, :, neuron] = np.array([error.min(), error.max()])[:, None]
            d = d[0] + residue[0], d[1] + residue[1]
        values.append(_value(a, v, d))
    return Bounds(tuple(values), problem.merged.output)


def _value(a, v, d) -> ValueBounds:
    d = np.maximum(d[0], v[0] - a[1]), np.minimum(d[1], v[1] - a[0])
    faces = [
        Interval(low - SLACK * (1 + np.abs(low)), high + SLACK * (1 + np.abs(high)))
        for low, high in (a, v, d)
    ]
    return ValueBounds(*faces)


def _image(matrix, side: Interval):
    positive, negative = np.maximum(matrix, 0), np.minimum(matrix, 0)
    return (
        side.lower @ positive.T + side.upper @ negative.T,
        side.upper @ positive.T + side.lower @ negative.T,
    )


def _plus(first, second):
    return first[0] + second[0], first[1] + second[1]


def float_network(rng: np.random.Generator, sizes: list[int], clamp: tuple[float, float]) -> FloatNetwork:
    """Return a random MLP with the same clamp after every hidden layer."""
    nodes: list[Affine | Clamp] = []
    for index, (fan_in, size) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(size, fan_in)) * np.sqrt(2 / fan_in)
        nodes.append(Affine(f"linear{index}", (Term(len(nodes), weights),), 0.3 * rng.normal(size=size)))
        if index < len(sizes) - 2 and clamp != (-np.inf, np.inf):
            nodes.append(Clamp(f"clamp{index}", len(nodes), *clamp))
    return FloatNetwork(sizes[0], tuple(nodes), len(nodes))


def perturbed(rng: np.random.Generator, network: FloatNetwork, size: float) -> FloatNetwork:
    """Return the network with slightly different weights."""
    nodes = tuple(
        node
        if isinstance(node, Clamp)
        else Affine(
            node.name,
            tuple(Term(t.source, t.matrix + size * rng.normal(size=t.matrix.shape)) for t in node.terms),
            node.bias + size * rng.normal(size=len(node.bias)),
        )
        for node in network.nodes
    )
    return FloatNetwork(network.input_size, nodes, network.output)


def quantized(
    rng: np.random.Generator,
    network: FloatNetwork,
    target: str,
    *,
    bits: int = 8,
    input_scale: float = 1 / 16,
    input_codes: tuple[int, int] = (-16, 15),
    stretch: float = 1.0,
    lookup: bool = False,
    raw_output: bool = False,
) -> IntegerNetwork:
    """Return the int8 version of a float MLP, its activation ranges from samples.

    Parameters
    ----------
    stretch : output scales relative to what the samples need; below 1 the codes saturate
    lookup : put a table after the first layer
    """
    input_scale = float(np.float32(input_scale))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    zero_point = int(rng.integers(-3, 4)) if not target.startswith("pow2") else 0
    points = rng.uniform(input_codes[0], input_codes[1], size=(500, network.input_size)) * input_scale
    layers: list[QuantizedLinear | QuantizedLookup] = []
    scale_in, source = input_scale, 0
    affine = [node for node in network.nodes if isinstance(node, Affine)]
    clamps = [node for node in network.nodes if isinstance(node, Clamp)]
    value = points
    for index, node in enumerate(affine):
        weights = node.terms[0].matrix
        value = value @ weights.T + node.bias
        last = index == len(affine) - 1
        clamp = clamps[index] if clamps and not last else None
        if clamp is not None:
            value = np.clip(value, clamp.lower, clamp.upper)
        weight_scale = float(np.float32(np.abs(weights).max() / high))
        relu = clamp is not None and clamp.lower == 0
        spread = max(value.max() - value.min() if relu else 2 * np.abs(value).max(), 0.1)
        scale_out = float(np.float32(stretch * spread / (high - low)))
        out_zero = low if relu else 0
        if target.startswith("pow2"):
            weight_scale = 2.0 ** np.ceil(np.log2(weight_scale))
            scale_out = 2.0 ** np.ceil(np.log2(scale_out))
        upper = high
        if clamp is not None and np.isfinite(clamp.upper):
            upper = min(high, out_zero + round(clamp.upper / scale_out))
        requantization = Requantization(
            "fully_connected",
            scale_in,
            np.full(1, weight_scale),
            False,
            scale_out,
            out_zero,
            out_zero if relu else low,
            upper,
        )
        codes = np.rint(weights / weight_scale)
        bias = np.rint(node.bias / (scale_in * weight_scale)).astype(np.int64)
        channel = np.zeros(len(bias), dtype=np.int64)
        raw = raw_output and last
        layers.append(
            QuantizedLinear(
                node.name,
                source,
                codes,
                bias,
                scale_in,
                np.full(1, weight_scale),
                channel,
                None if raw else requantization,
            )
        )
        source, scale_in = len(layers), scale_out
        if lookup and index == 0:
            size = high - low + 1
            table = np.clip(np.cumsum(rng.choice([0, 0, 1, 1, 2, 4], size=size)) + low, low, high)
            layers.append(QuantizedLookup("table", source, table, low, out_zero, scale_out, out_zero))
            source = len(layers)
    scales = np.full(network.input_size, input_scale)
    model = QuantizedModel(
        scales,
        zero_point,
        input_codes[0] + zero_point,
        input_codes[1] + zero_point,
        scales,
        tuple(layers),
        len(layers),
    )
    return model.on_target(get_target(target))


def sample(rng: np.random.Generator, problem: Problem, count: int) -> np.ndarray:
    """Return inputs of the root cube: on codes where the domain is, corners among them."""
    root = problem.domain.root
    if problem.domain.kind == "codes":
        levels = rng.integers(root.level_lower[0], root.level_upper[0] + 1, size=(count, root.lower.shape[1]))
        return problem.domain.integer.float_value(levels)
    points = rng.uniform(root.lower[0], root.upper[0], size=(count, root.lower.shape[1]))
    corners = rng.integers(0, 2, size=points.shape).astype(bool)
    points[: count // 4] = np.where(corners, root.lower[0], root.upper[0])[: count // 4]
    return points


def all_codes(problem: Problem) -> np.ndarray:
    """Return every input of a domain on codes, shape (points, inputs)."""
    root = problem.domain.root
    axes = [
        np.arange(low, high + 1) for low, high in zip(root.level_lower[0], root.level_upper[0], strict=True)
    ]
    levels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    return problem.domain.integer.float_value(levels)


def box(lower: float, upper: float, size: int) -> Box:
    """Return a cube around zero."""
    return Box(np.full(size, lower), np.full(size, upper))


def residual_pair(rng: np.random.Generator) -> tuple[FloatNetwork, FloatNetwork]:
    """Return a real pair whose last layer reads an activation and its own pre-activation."""
    first, skip, deep = (rng.normal(size=shape) for shape in ((6, 3), (2, 6), (2, 6)))
    nodes = (
        Affine("first", (Term(0, first),), np.array([4.0, 4.0, -4.0, 0.1, 0.2, -0.1])),
        Clamp("relu", 1),
        Affine("sum", (Term(2, deep), Term(1, skip)), rng.normal(size=2)),
        Clamp("last", 3, 0.0, 1.0),
    )
    network = FloatNetwork(3, nodes, 4)
    return network, perturbed(rng, network, 1e-2)


def some_pair(seed: int, *, sizes: list[int] | None = None) -> Problem:
    """Return a small problem of a random kind: real, on codes or continuous; several targets and clamps."""
    rng = np.random.default_rng(seed)
    clamp = [(0.0, np.inf), (0.0, 1.0), (-0.7, 0.9), (-np.inf, np.inf)][rng.integers(4)]
    sizes = sizes or [[2, 4, 2], [2, 4, 3, 1], [3, 4, 1], [4, 3, 2]][rng.integers(4)]
    network = float_network(rng, sizes, clamp)
    kind = ["real", "codes", "continuous"][rng.integers(3)]
    radius = float(rng.uniform(0.1, 0.7))
    if kind == "real":
        return Problem.create(network, perturbed(rng, network, 1e-2), box(-radius, 0.9 * radius, sizes[0]))
    target = TARGETS[rng.integers(len(TARGETS))]
    options = [{}, {"raw_output": True}, {"stretch": 0.4}, {"lookup": True}][rng.integers(4)]
    other = quantized(rng, network, target, bits=int(rng.integers(4, 9)), **options)
    if kind == "continuous" and rng.integers(2):
        radius = 1.3  # beyond what the codes cover: the input saturates
    return Problem.create(network, other, box(-radius, 0.9 * radius, sizes[0]), kind)
