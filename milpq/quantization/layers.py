"""A float network as the list of layers that a quantizer works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import UnsupportedModelError
from milpq.network.curves import Curve
from milpq.network.float_network import FloatNetwork
from milpq.network.images import Convolution
from milpq.network.nodes import Affine, Clamp, Smooth
from milpq.quantization.structure import averaged, is_sum, maximum, selected
from milpq.rounding.activation import ENDS, Activation
from milpq.rounding.requantization import Operator


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """What every layer has.

    Parameters
    ----------
    sources : tuple of int
        0 for the input of the network, ``k`` for the result of layer ``k``, counted from 1.
    value : int
        The value of the float network that it gives.
    size : int
        Number of neurons.
    """

    name: str
    sources: tuple[int, ...]
    value: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class _Clamped(_Layer):
    """A layer with a clamp to [lower, upper] behind it; infinite where it has none."""

    lower: float
    upper: float

    @property
    def activation(self) -> Activation:
        """The fused activation these ends have a name for; ``none`` where they have none."""
        found: list[Activation] = [name for name, ends in ENDS.items() if ends == (self.lower, self.upper)]
        return found[0] if found else "none"

    @property
    def is_named(self) -> bool:
        """Tell whether `activation` says all about the ends."""
        return ENDS[self.activation] == (self.lower, self.upper)


@dataclass(frozen=True, slots=True, eq=False)
class LinearLayer(_Clamped):
    """``clip(matrix @ value + bias, lower, upper)``.

    Parameters
    ----------
    matrix : shape (neurons, inputs)
    bias : float64, shape (neurons,)
    convolution : Convolution or None
        The convolution that the matrix is.
    """

    matrix: Matrix
    bias: Float64Array
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


@dataclass(frozen=True, slots=True, eq=False)
class SumLayer(_Clamped):
    """The sum of two values, and a clamp."""


@dataclass(frozen=True, slots=True, eq=False)
class ClampLayer(_Clamped):
    """A clamp that is part of no other layer: its codes are clipped on the scale they have."""


@dataclass(frozen=True, slots=True, eq=False)
class AverageLayer(_Layer):
    """A pool or mean.

    Parameters
    ----------
    candidates : int64, shape (neurons, window)
        As in `QuantizedAverage`.
    windowed : bool
        A pool of windows that slide, whose result keeps the scale; a mean of everything gets one of its own.
    """

    candidates: Int64Array
    windowed: bool


@dataclass(frozen=True, slots=True, eq=False)
class MaximumLayer(_Layer):
    """A max pool; `candidates` as in `QuantizedMaximum`."""

    candidates: Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class SelectionLayer(_Layer):
    """A pad, concatenation, transposition or slice.

    Parameters
    ----------
    chosen : tuple of int64, shape (neurons,) each
        As in `QuantizedSelection`.
    constant : float64, shape (neurons,), real units
        Of the neurons that are of no source; 0 elsewhere.
    """

    chosen: tuple[Int64Array, ...]
    constant: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class CurveLayer(_Layer):
    """A sigmoid or tanh."""

    curve: Curve


@dataclass(frozen=True, slots=True, eq=False)
class RescaleLayer(_Layer):
    """The identity, to put a value on another scale."""


Layer: TypeAlias = (
    LinearLayer
    | SumLayer
    | ClampLayer
    | AverageLayer
    | MaximumLayer
    | SelectionLayer
    | CurveLayer
    | RescaleLayer
)


def keeps_codes(layer: Layer) -> bool:
    """Tell whether a layer gives the codes that it reads, so that scale and zero point stay as they are."""
    if isinstance(layer, AverageLayer):
        return layer.windowed
    return isinstance(layer, ClampLayer | MaximumLayer | SelectionLayer)


def linear_layers(network: FloatNetwork) -> tuple[LinearLayer, ...]:
    """Return the layers with weights, each with the clamps behind it; errors as of `network_layers`."""
    return tuple(layer for layer in network_layers(network) if isinstance(layer, LinearLayer))


def network_layers(network: FloatNetwork) -> tuple[Layer, ...]:
    """Return the layers of a network; a clamp is part of the layer or sum before it, if nothing else reads that.

    Raises
    ------
    UnsupportedModelError
        A node is none of these layers, or there is none with weights; the node is named.
    """
    collector = _Collector(network)
    layers = collector.collect()
    if not any(isinstance(layer, LinearLayer) for layer in layers):
        raise UnsupportedModelError(f"{network.origin}: has no layer to quantize")
    if collector.result() != len(layers):
        raise UnsupportedModelError(f"{network.origin}: its output is not that of the last layer")
    return tuple(layers)


class _Collector:
    """Walks through the nodes; `layer_of` holds the layer value that each value so far is."""

    def __init__(self, network: FloatNetwork) -> None:
        self.network = network
        self.layers: list[Layer] = []
        self.layer_of = {0: 0}
        # Curves have codes of their own, which what is read together with others must not share.
        self.curve_of: dict[int, str] = {}
        self.readers = np.zeros(len(network.nodes) + 1, dtype=np.int64)
        for node in network.nodes:
            for source in node.sources:
                self.readers[source] += 1
        self.readers[network.output] += 1

    def result(self) -> int:
        """Return the layer value of the output."""
        return self.layer_of[self.network.output]

    def collect(self) -> list[Layer]:
        """Return the layers."""
        network, index = self.network, 0
        while index < len(network.nodes):
            node = network.nodes[index]
            number = index + 1
            found = None if isinstance(node, Smooth) else maximum(network.nodes, index, self.readers)
            if found is not None:
                index += found.nodes
                sources = (self.layer_of[found.source],)
                size = len(found.candidates)
                self._append(MaximumLayer(node.name, sources, index, size, found.candidates))
                continue
            index += 1
            if isinstance(node, Affine):
                self._affine(node, number)
            elif isinstance(node, Clamp):
                self._clamp(node, number)
            else:
                sources, size = self._sources(node.sources), network.graph.sizes[number]
                self._append(CurveLayer(node.name, sources, number, size, node.curve))
                self.curve_of[len(self.layers)] = node.curve.name
        return self.layers

    def _sources(self, values: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.layer_of[value] for value in values)

    def _append(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.layer_of[layer.value] = number = len(self.layers)
        curves = {self.curve_of.get(source, "") for source in layer.sources}
        if keeps_codes(layer) and len(curves) == 1:
            self.curve_of[number] = curves.pop()

    def _affine(self, node: Affine, number: int) -> None:
        where = f"{self.network.origin}: layer {node.name!r}"
        sources, size = self._sources(node.sources), len(node.bias)
        common = node.name, sources, number, size
        if node.weighted:
            if len(node.terms) != 1:
                raise UnsupportedModelError(
                    f"{where}: adds {len(node.terms)} products; milpq quantizes layers that read one value"
                )
            matrix = node.terms[0].matrix
            self._append(LinearLayer(*common, -np.inf, np.inf, matrix, node.bias, node.convolution))
            return
        if is_sum(node):
            self._append(SumLayer(*common, -np.inf, np.inf))
            return
        chosen = selected(node)
        if chosen is not None:
            self._select(node, number, chosen)
            return
        candidates = averaged(node)
        if candidates is None:
            raise UnsupportedModelError(
                f"{where}: is no layer with weights, sum, pool, mean, pad or concatenation; milpq does not quantize "
                "differences, or scalings that are part of no layer"
            )
        image = self.network.images[number] if self.network.images else None
        windowed = image is not None and int(np.prod(image.spatial)) > 1
        self._append(AverageLayer(*common, candidates, windowed))

    def _select(self, node: Affine, number: int, chosen: tuple[Int64Array, ...]) -> None:
        """Append a selection; curves that it joins with others are put on the scale of these first."""
        sources = list(self._sources(node.sources))
        curves = {self.curve_of.get(source, "") for source in sources}
        constant = bool(node.bias.any())
        if len(curves) > 1 or constant:
            for position, source in enumerate(sources):
                if self.curve_of.get(source):
                    before = self.layers[source - 1]
                    self.layers.append(
                        RescaleLayer(f"{before.name}/rescaled", (source,), before.value, before.size)
                    )
                    sources[position] = len(self.layers)
        self._append(SelectionLayer(node.name, tuple(sources), number, len(node.bias), chosen, node.bias))

    def _clamp(self, node: Clamp, number: int) -> None:
        """Let a clamp be part of the layer it reads, if that is one that can have it and nothing else reads it."""
        where = f"{self.network.origin}: layer {node.name!r}"
        source = self.layer_of[node.source]
        before = self.layers[source - 1] if source else None
        alone = self.readers[node.source] == 1
        if isinstance(before, LinearLayer | SumLayer):
            lower, upper = max(before.lower, node.lower), min(before.upper, node.upper)
            if not lower < upper:
                raise UnsupportedModelError(f"{where}: leaves nothing of the activation before it")
            # One clamp a step, as the two networks are compared step by step.
            if alone and (before.lower, before.upper) == (-np.inf, np.inf):
                self.layers[source - 1] = replace(before, lower=lower, upper=upper, value=number)
                self.layer_of[number] = source
                return
        size = self.network.graph.sizes[number]
        self._append(ClampLayer(node.name, (source,), number, size, node.lower, node.upper))
