"""Weight-only quantization: a network against itself with its weight matrices rounded."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Matrix
from milpq.errors import UnsupportedModelError
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, FloatNode, Term


def rounded_weights(network: FloatNetwork, bits: int) -> FloatNetwork:
    """Return the network with every weight matrix rounded: symmetric, per tensor, biases kept.

    Parameters
    ----------
    bits : int
        The scale of a matrix is ``max |W| / (2^(bits − 1) − 1)``.
    """
    nodes: list[FloatNode] = []
    for node in network.nodes:
        if isinstance(node, Affine):
            terms = tuple(Term(term.source, _rounded(term.matrix, bits, node.name)) for term in node.terms)
            nodes.append(Affine(node.name, terms, node.bias))
        else:
            nodes.append(node)
    origin = f"{network.origin}, weights of {bits} bits"
    return FloatNetwork(network.input_size, tuple(nodes), network.output, origin, network.note)


def _rounded(matrix: Matrix, bits: int, name: str) -> Matrix:
    if not isinstance(matrix, np.ndarray):
        raise UnsupportedModelError(f"layer {name!r}: weights are rounded for fully connected layers only")
    scale = float(np.abs(matrix).max(initial=0.0)) / (2 ** (bits - 1) - 1)
    return matrix if scale == 0.0 else np.rint(matrix / scale) * scale
