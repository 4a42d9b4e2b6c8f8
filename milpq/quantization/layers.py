"""A float network as the list of layers that a quantizer works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import UnsupportedModelError
from milpq.network.float_network import FloatNetwork
from milpq.network.images import Convolution
from milpq.network.nodes import Affine, Clamp, Smooth
from milpq.rounding.activation import ENDS, Activation
from milpq.rounding.requantization import Operator


@dataclass(frozen=True, slots=True, eq=False)
class LinearLayer:
    """``clip(matrix @ value + bias, lower, upper)``.

    Parameters
    ----------
    source : int
        0 for the input of the network, ``k`` for the result of layer ``k``, counted from 1.
    matrix : shape (neurons, inputs)
    bias : float64, shape (neurons,)
    lower, upper : float
        Ends of the activation; infinite where it has none.
    convolution : Convolution or None
        The convolution that the matrix is.
    """

    name: str
    source: int
    matrix: Matrix
    bias: Float64Array
    lower: float
    upper: float
    convolution: Convolution | None = None

    @property
    def channel(self) -> Int64Array:
        """Output channel of each neuron; each is its own in a layer that is no convolution."""
        if self.convolution is None:
            return np.arange(len(self.bias), dtype=np.int64)
        return self.convolution.channel

    @property
    def operator(self) -> Operator:
        """Which kernel runs it; readers store dense layers dense, and everything that slides sparse."""
        if isinstance(self.matrix, np.ndarray):
            return "fully_connected"
        return "depthwise" if self.convolution is not None and self.convolution.is_depthwise else "conv"

    @property
    def activation(self) -> Activation:
        """The fused activation these ends have a name for; ``none`` where they have none."""
        found: list[Activation] = [name for name, ends in ENDS.items() if ends == (self.lower, self.upper)]
        return found[0] if found else "none"

    @property
    def is_named(self) -> bool:
        """Tell whether `activation` says all about the ends."""
        return ENDS[self.activation] == (self.lower, self.upper)


def linear_layers(network: FloatNetwork) -> tuple[LinearLayer, ...]:
    """Return the layers of a network, each with the clamps behind it.

    Raises
    ------
    UnsupportedModelError
        A layer has no weights of its own or adds several values, a clamp stands before any layer, or a layer is
        read with and without its activation; the layer is named.
    """
    layers: list[LinearLayer] = []
    # What each value is: layer number it is the result of; 0 the input.
    value_of = [0]
    readers = np.zeros(len(network.nodes) + 1, dtype=np.int64)
    for node in network.nodes:
        for source in node.sources:
            readers[source] += 1
    readers[network.output] += 1
    for node in network.nodes:
        where = f"{network.origin}: layer {node.name!r}"
        if isinstance(node, Affine):
            if not node.weighted:
                raise UnsupportedModelError(
                    f"{where}: is a sum, pool, pad or selection; milpq quantizes fully connected layers and "
                    "convolutions with their activations"
                )
            if len(node.terms) != 1:
                raise UnsupportedModelError(
                    f"{where}: adds {len(node.terms)} values; milpq quantizes layers that read one value"
                )
            term = node.terms[0]
            source = value_of[term.source]
            layers.append(
                LinearLayer(node.name, source, term.matrix, node.bias, -np.inf, np.inf, node.convolution)
            )
            value_of.append(len(layers))
            continue
        if isinstance(node, Smooth):
            raise UnsupportedModelError(
                f"{where}: is a {node.curve.name}, which milpq quantizes only at the end, where it is left out"
            )
        _append_clamp(layers, node, value_of[node.source], alone=readers[node.source] == 1, where=where)
        value_of.append(value_of[node.source])
    if not layers:
        raise UnsupportedModelError(f"{network.origin}: has no layer to quantize")
    if value_of[network.output] != len(layers):
        raise UnsupportedModelError(f"{network.origin}: its output is not that of the last layer")
    return tuple(layers)


def _append_clamp(layers: list[LinearLayer], node: Clamp, number: int, *, alone: bool, where: str) -> None:
    """Let a clamp be part of the layer it reads."""
    if number == 0:
        raise UnsupportedModelError(f"{where}: clamps the input; milpq quantizes clamps behind a layer")
    if not alone:
        raise UnsupportedModelError(
            f"{where}: what it reads is read elsewhere too; milpq quantizes a layer and its activation as one"
        )
    before = layers[number - 1]
    lower, upper = max(before.lower, node.lower), min(before.upper, node.upper)
    if not lower < upper:
        raise UnsupportedModelError(f"{where}: leaves nothing of the activation before it")
    layers[number - 1] = replace(before, lower=lower, upper=upper)
