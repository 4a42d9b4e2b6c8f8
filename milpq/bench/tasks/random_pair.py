"""Networks quantized on random inputs, and random networks: problems of any size."""

from __future__ import annotations

import itertools

import numpy as np

from milpq._arrays import Float64Array
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedModel
from milpq.quantization import quantize

_SAMPLES = 2000


def quantized_on_box(
    network: FloatNetwork, lower: Float64Array, upper: Float64Array, bits: int, seed: int
) -> QuantizedModel:
    """Return the integer version of a network, its ranges from uniform random inputs of a box and its corners.

    Parameters
    ----------
    lower, upper : float64, shape (inputs,), real units
    bits : int
        Of weights, activations and inputs; weights are symmetric per tensor.
    """
    generator = np.random.default_rng(seed)
    samples = generator.uniform(lower, upper, size=(_SAMPLES, network.input_size))
    samples = np.concatenate([samples, lower[None], upper[None]])
    return quantize(network, samples, bits=bits, activation_bits=bits, input_bits=bits)


def random_pair(sizes: list[int], bits: int, seed: int) -> tuple[FloatNetwork, QuantizedModel]:
    """Return a random float ReLU network and its integer version, its rounding left to the target.

    Parameters
    ----------
    sizes : list of int
        Inputs, hidden layers, outputs.  Inputs lie in [−1, 1].
    bits : int
        Of weights, activations and inputs.
    """
    generator = np.random.default_rng(seed)
    network = _random_network(generator, sizes)
    one = np.ones(sizes[0])
    return network, quantized_on_box(network, -one, one, bits, seed)


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
