"""Small random network pairs with sigmoids and tanhs inside."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from random_pairs import box

from milpq.errors import TargetError
from milpq.merge import Problem
from milpq.network.curves import CURVES, Curve
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Smooth, Term
from milpq.network.pairing import dequantized_twin
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel, QuantizedUnary
from milpq.rounding.kernels import Quantization, UnaryKernel
from milpq.rounding.requantization import Requantization
from milpq.rounding.targets import get_target

TARGETS = ("tflm", "litert-ref", "litert-nodelegate", "litert-xnnpack")
RESULTS = {"logistic": Quantization(1 / 256, -128), "tanh": Quantization(1 / 128, 0)}


def single(value: float) -> float:
    """Return a float32 value."""
    return float(np.float32(value))


def smooth_network(
    rng: np.random.Generator, sizes: list[int], curve: Curve, gain: float = 1.5
) -> FloatNetwork:
    """Return a random MLP with a curve after every hidden layer."""
    nodes: list[Affine | Smooth] = []
    for index, (fan_in, size) in enumerate(pairwise(sizes)):
        weights = gain * rng.normal(size=(size, fan_in)) / np.sqrt(fan_in)
        nodes.append(Affine(f"linear{index}", (Term(len(nodes), weights),), 0.3 * rng.normal(size=size)))
        if index < len(sizes) - 2:
            nodes.append(Smooth(f"curve{index}", len(nodes), curve))
    return FloatNetwork(sizes[0], tuple(nodes), len(nodes))


def changed(rng: np.random.Generator, network: FloatNetwork, size: float) -> FloatNetwork:
    """Return the network with slightly different weights."""
    nodes = tuple(
        Affine(
            node.name,
            tuple(Term(t.source, t.matrix + size * rng.normal(size=t.matrix.shape)) for t in node.terms),
            node.bias + size * rng.normal(size=len(node.bias)),
        )
        if isinstance(node, Affine)
        else node
        for node in network.nodes
    )
    return FloatNetwork(network.input_size, nodes, network.output)


def smooth_model(rng: np.random.Generator, sizes: list[int], kind: str) -> QuantizedModel:
    """Return an int8 model of fully connected layers with a table of a curve after every hidden one."""
    read = Quantization(single(2.0 ** rng.uniform(-5, -4)), int(rng.integers(-4, 5)))
    first = read
    layers: list[QuantizedLinear | QuantizedUnary] = []
    for index, (fan_in, size) in enumerate(pairwise(sizes)):
        weight_scale = single(2.0 ** rng.uniform(-6.5, -5.5) / np.sqrt(fan_in))
        result = Quantization(single(2.0 ** rng.uniform(-6, -4)), int(rng.integers(-20, 21)))
        scales = np.full(1, weight_scale)
        layers.append(
            QuantizedLinear(
                f"linear{index}",
                len(layers),
                rng.integers(-127, 128, (size, fan_in)).astype(np.float64),
                rng.integers(-2000, 2000, size),
                read.scale,
                scales,
                np.zeros(size, dtype=np.int64),
                Requantization(
                    "fully_connected", read.scale, scales, False, result.scale, result.zero_point, -128, 127
                ),
            )
        )
        read = result
        if index < len(sizes) - 2:
            kernel = UnaryKernel(kind, result, RESULTS[kind])
            layers.append(QuantizedUnary(f"table{index}", len(layers), kernel))
            read = RESULTS[kind]
    scale = np.full(sizes[0], first.scale)
    return QuantizedModel(scale, first.zero_point, -128, 127, scale, tuple(layers), len(layers))


def smooth_pair(seed: int, *, sizes: list[int] | None = None, domain: str | None = None) -> Problem:
    """Return a small problem with curves: real, on codes or continuous; several targets."""
    rng = np.random.default_rng(seed)
    sizes = sizes or [[2, 4, 2], [2, 4, 3, 1], [3, 4, 1], [1, 3, 2]][rng.integers(4)]
    kind = ["sigmoid", "tanh"][rng.integers(2)]
    radius = float(2.0 ** rng.uniform(-4, 1))
    domain = domain or ["real", "codes", "continuous"][rng.integers(3)]
    if domain == "real":
        network = smooth_network(rng, sizes, CURVES[kind], float(rng.uniform(0.5, 6)))
        return Problem.create(network, changed(rng, network, 1e-2), box(-radius, 0.9 * radius, sizes[0]))
    model = smooth_model(rng, sizes, "logistic" if kind == "sigmoid" else "tanh")
    network = dequantized_twin(model)
    if rng.integers(2):
        network = changed(rng, network, 1e-3)
    try:
        other = model.on_target(get_target(TARGETS[rng.integers(len(TARGETS))]))
    except TargetError:
        # Of some scales the C library decides a code of the table: refused, on two seeds of a thousand.
        return smooth_pair(seed + 1_000_003, sizes=sizes, domain=domain)
    return Problem.create(network, other, box(-radius, 0.9 * radius, sizes[0]), domain)
