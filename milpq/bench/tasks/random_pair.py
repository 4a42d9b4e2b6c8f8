"""A random network and its integer version: problems of any size."""

from __future__ import annotations

import itertools

import numpy as np

from milpq._arrays import Float64Array
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel
from milpq.rounding.requantization import Requantization

_SAMPLES = 2000
_STRETCH = 1.05  # of the activation range seen on the samples


def random_pair(sizes: list[int], bits: int, seed: int) -> tuple[FloatNetwork, QuantizedModel]:
    """Return a random float ReLU network and its integer version, its rounding left to the target.

    Parameters
    ----------
    sizes : list of int
        Inputs, hidden layers, outputs.
    bits : int
        Of weights and codes.  Weights are symmetric per tensor; inputs lie in [−1, 1).
    """
    generator = np.random.default_rng(seed)
    network = _random_network(generator, sizes)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    input_scale = 2.0 ** (1 - bits)
    values = generator.integers(low, high + 1, size=(_SAMPLES, sizes[0])) * input_scale
    scale = input_scale
    layers: list[QuantizedLinear] = []
    affine = [node for node in network.nodes if isinstance(node, Affine)]
    for index, node in enumerate(affine):
        weights = _dense(node)
        values = values @ weights.T + node.bias
        relu = index < len(affine) - 1
        values = np.maximum(values, 0.0) if relu else values
        weight_scale = float(np.float32(np.abs(weights).max() / high))
        reach = float(values.max() if relu else 2 * np.abs(values).max())
        output_scale = float(np.float32(max(reach, 1e-3) * _STRETCH / (high - low)))
        zero_point = low if relu else 0
        layers.append(
            QuantizedLinear(
                node.name,
                index,
                np.rint(weights / weight_scale),
                np.rint(node.bias / (scale * weight_scale)).astype(np.int64),
                scale,
                np.full(1, weight_scale),
                np.zeros(len(node.bias), dtype=np.int64),
                Requantization(
                    "fully_connected",
                    scale,
                    np.full(1, weight_scale),
                    False,
                    output_scale,
                    zero_point,
                    low,
                    high,
                ),
                "relu" if relu else "none",
            )
        )
        scale = output_scale
    scales = np.full(sizes[0], input_scale)
    name = f"random {'-'.join(map(str, sizes))}, seed {seed}, {bits} bits"
    return network, QuantizedModel(scales, 0, low, high, scales, tuple(layers), len(layers), name)


def _random_network(generator: np.random.Generator, sizes: list[int]) -> FloatNetwork:
    """Return a network of He-normal weights, every one a float32 number."""
    nodes: list[Affine | Clamp] = []
    pairs = list(itertools.pairwise(sizes))
    for index, (inputs, neurons) in enumerate(pairs):
        weights = generator.normal(size=(neurons, inputs)) * np.sqrt(2.0 / inputs)
        bias = 0.1 * generator.normal(size=neurons)
        matrix, offset = (array.astype(np.float32).astype(np.float64) for array in (weights, bias))
        nodes.append(Affine(f"layer{index + 1}", (Term(len(nodes), matrix),), offset))
        if index < len(pairs) - 1:
            nodes.append(Clamp(f"relu{index + 1}", len(nodes)))
    return FloatNetwork(sizes[0], tuple(nodes), len(nodes), f"random {'-'.join(map(str, sizes))}")


def _dense(node: Affine) -> Float64Array:
    matrix = node.terms[0].matrix
    assert isinstance(matrix, np.ndarray)
    return matrix
