"""Whether a float and an integer network are one network before and after quantization; the twin if not."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Matrix
from milpq.errors import NotAPairError, UnsupportedModelError
from milpq.network.curves import SIGMOID, TANH
from milpq.network.float_network import FloatNetwork
from milpq.network.float_parts import average_node, maximum_nodes, outside_counts, selection_node, sum_node
from milpq.network.geometry import selection_matrix
from milpq.network.nodes import Affine, Clamp, FloatNode, Smooth, Term, absolute
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedMaximum,
    QuantizedModel,
    QuantizedOffset,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
)
from milpq.rounding.activation import ENDS, Activation
from milpq.rounding.kernels import ACTIVATION_OF

_CURVES = {"logistic": SIGMOID, "tanh": TANH}


class Answered(Protocol):
    """A network whose reader may have left out its end."""

    @property
    def origin(self) -> str:
        """Where it came from."""
        ...

    @property
    def note(self) -> str:
        """What a reader must know."""
        ...


TOLERANCE = 2.0**-22
"""Slack relative to the weight: converters compute scale and quotient in float32, in any of several ways."""

_REMEDY = "to bound the integer model against its own dequantized weights, use --float-twin dequantized"


def check_ends(f: Answered, q: Answered) -> None:
    """Raise unless both networks are answered at the same place: in front of a final sigmoid or softmax, or behind all.

    Raises
    ------
    NotAPairError
        One of them has such an end.
    """
    for end in ("sigmoid", "softmax"):
        with_end = [side for side in (f, q) if f"final {end}" in side.note]
        if len(with_end) == 1:
            other = q if with_end[0] is f else f
            raise NotAPairError(
                f"{with_end[0].origin} ends in a {end} and {other.origin} does not; remove it from that file"
            )


def check_pair(f: FloatNetwork, q: QuantizedModel | FloatNetwork) -> None:
    """Raise unless `q` is a quantization of `f`.

    Layers are matched by order and weight shape.  Every float weight must lie within half a step of its
    integer one: ``|w − s·w_int| <= s/2 + TOLERANCE·|w|``.  For two float networks only shapes are compared.

    Raises
    ------
    NotAPairError
        They differ; the layer, the worst weight and its deviation in steps (LSB) are named.
    """
    affine = [node for node in f.nodes if isinstance(node, Affine) and node.weighted]
    if isinstance(q, QuantizedModel):
        layers = [layer for layer in q.layers if isinstance(layer, QuantizedLinear)]
        remedy = f"; {_REMEDY}"
    else:
        layers = [node for node in q.nodes if isinstance(node, Affine) and node.weighted]
        remedy = ""
    pair = f"{f.origin} and {q.origin}"
    if len(affine) != len(layers):
        raise NotAPairError(f"{pair}: {len(affine)} linear layers against {len(layers)}{remedy}")
    for number, (left, right) in enumerate(zip(affine, layers, strict=True), start=1):
        where = f"{pair}: layer {number} ({left.name!r} and {right.name!r})"
        ours = tuple(term.matrix for term in left.terms)
        theirs = tuple(term.matrix for term in right.terms) if isinstance(right, Affine) else (right.weights,)
        shapes = [[tuple(matrix.shape) for matrix in side] for side in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise NotAPairError(
                f"{where}: weights of shape {_spell(shapes[0])} against {_spell(shapes[1])}{remedy}"
            )
        if isinstance(right, QuantizedLinear):
            _check_weights(ours[0], right, where)


def dequantized_twin(q: QuantizedModel) -> FloatNetwork:
    """Return the float network with the integer model's own weights, ``scale · integer``, in real arithmetic.

    It has the activations the float original would have (ReLU as a clamp to ``[0, inf)``, and so on), but not
    the saturation of codes.  Weights are exact; a bias is ``input_scale · weight_scale · bias`` in float64.

    Raises
    ------
    UnsupportedModelError
        A layer is a table of codes, of which the original is not known.
    """
    builder = _Twin(q)
    value_of = [0]
    for layer in q.layers:
        value_of.append(builder.add(layer, value_of))
    size = len(q.input_scale)
    return FloatNetwork(size, tuple(builder.nodes), value_of[q.output], f"{q.origin} (dequantized)", q.note)


class _Twin:
    """Collects the nodes of the dequantized twin."""

    def __init__(self, q: QuantizedModel) -> None:
        self.nodes: list[FloatNode] = []
        self._origin = q.origin
        self._sizes = [len(q.input_scale)]

    def add(self, layer: QuantizedLayer, value_of: list[int]) -> int:
        """Append the nodes of a layer and return the value it makes."""
        if isinstance(layer, QuantizedLinear):
            scales = layer.weight_scales[layer.channel]
            bias = layer.bias.astype(np.float64) * (layer.input_scale * scales)
            term = Term(value_of[layer.source], _scaled_rows(layer.weights, scales))
            value = self._append(Affine(layer.name, (term,), bias), len(bias))
            return self._clamp(layer.name, value, layer.activation)
        if isinstance(layer, QuantizedSelection):
            values = [value_of[source] for source in layer.sources]
            sources = [(value, self._sizes[value]) for value in values]
            constant = layer.constant.astype(np.float64) * layer.quantization.scale
            return self._append(selection_node(layer.name, sources, layer.chosen, constant), len(constant))
        if isinstance(layer, QuantizedSum):
            first, second = value_of[layer.first], value_of[layer.second]
            size = self._sizes[first]
            if first == second:
                twice = selection_matrix(np.arange(size, dtype=np.int64), size) * 2.0
                node = Affine(layer.name, (Term(first, twice),), np.zeros(size), weighted=False)
            else:
                node = sum_node(layer.name, first, second, size)
            return self._clamp(layer.name, self._append(node, size), layer.kernel.activation)
        value = value_of[layer.source]
        if isinstance(layer, QuantizedOffset):
            operand, size = layer.kernel.second, self._sizes[value]
            identity = selection_matrix(np.arange(size, dtype=np.int64), size)
            bias = (layer.constant - operand.zero_point).astype(np.float64) * operand.scale
            node = Affine(layer.name, (Term(value, identity),), bias, weighted=False)
            return self._clamp(layer.name, self._append(node, size), layer.kernel.activation)
        if isinstance(layer, QuantizedAverage):
            counts = outside_counts(layer.candidates)
            node = average_node(layer.name, value, self._sizes[value], layer.candidates, counts)
            return self._clamp(layer.name, self._append(node, len(counts)), layer.kernel.activation)
        if isinstance(layer, QuantizedMaximum):
            made = maximum_nodes(layer.name, value, self._sizes[value], layer.candidates, len(self.nodes) + 1)
            for node in made:
                size = len(node.bias) if isinstance(node, Affine) else self._sizes[node.source]
                value = self._append(node, size)
            return self._clamp(layer.name, value, layer.activation)
        if isinstance(layer, QuantizedUnary) and layer.kernel.kind in _CURVES:
            node = Smooth(layer.name, value, _CURVES[layer.kernel.kind])
            return self._append(node, self._sizes[value])
        if isinstance(layer, QuantizedUnary) and layer.kernel.kind in ACTIVATION_OF:
            return self._clamp(layer.name, value, ACTIVATION_OF[layer.kernel.kind])
        raise UnsupportedModelError(
            f"{self._origin}: layer {layer.name!r}: a table of codes has no dequantized twin"
        )

    def _clamp(self, name: str, value: int, activation: Activation) -> int:
        if activation == "none":
            return value
        return self._append(Clamp(f"{name}/{activation}", value, *ENDS[activation]), self._sizes[value])

    def _append(self, node: FloatNode, size: int) -> int:
        self.nodes.append(node)
        self._sizes.append(size)
        return len(self.nodes)


def _check_weights(weights: Matrix, layer: QuantizedLinear, where: str) -> None:
    """Raise unless every weight lies within half a step of the integer layer's."""
    scales = layer.weight_scales[layer.channel]
    scaled = _scaled_rows(weights, 1.0 / scales)
    steps, size = _dense_or_sparse(scaled, layer.weights), absolute(scaled)
    excess = steps - TOLERANCE * size
    found = excess if isinstance(excess, np.ndarray) else sp.coo_array(excess)
    flat = found if isinstance(found, np.ndarray) else found.data
    if not flat.size or not flat.max() > 0.5:
        return
    at = np.unravel_index(int(np.argmax(flat)), flat.shape)
    where_in_matrix = at if isinstance(found, np.ndarray) else (found.row[at], found.col[at])
    row, column = (int(index) for index in where_in_matrix)
    raise NotAPairError(
        f"{where}: weight [{row}, {column}] is {float(weights[row, column]):.6g} in the float network but "
        f"{float(layer.weights[row, column]) * scales[row]:.6g} in the integer one, "
        f"{float(steps[row, column]):.4g} LSB apart (a quantization stays within 0.5); {_REMEDY}"
    )


def _dense_or_sparse(first: Matrix, second: Matrix) -> Matrix:
    """Return the distance of two matrices, entry by entry; sparse if both are."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        first, second = (m if isinstance(m, np.ndarray) else m.toarray() for m in (first, second))
        return np.abs(first - second)
    return abs(sp.csr_array(first - second))


def _scaled_rows(matrix: Matrix, factors: Float64Array) -> Matrix:
    if isinstance(matrix, np.ndarray):
        return matrix * factors[:, None]
    scaled = matrix.copy()
    scaled.data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return scaled


def _spell(shapes: list[tuple[int, ...]]) -> str:
    return " + ".join("×".join(str(extent) for extent in shape) for shape in shapes)
