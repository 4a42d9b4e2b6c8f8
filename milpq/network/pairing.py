"""Whether a float and an integer network are one network before and after quantization; the twin if not."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Matrix
from milpq.errors import NotAPairError, UnsupportedModelError
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, FloatNode, Term
from milpq.network.quantized_model import QuantizedLinear, QuantizedLookup, QuantizedModel
from milpq.rounding.activation import ENDS

TOLERANCE = 2.0**-22
"""Slack relative to the weight: converters compute scale and quotient in float32, in any of several ways."""

_REMEDY = "to bound the integer model against its own dequantized weights, use --float-twin dequantized"


def check_pair(f: FloatNetwork, q: QuantizedModel | FloatNetwork) -> None:
    """Raise unless `q` is a quantization of `f`.

    Layers are matched by order and weight shape.  Every float weight must lie within half a step of its
    integer one: ``|w − s·w_int| <= s/2 + TOLERANCE·|w|``.  For two float networks only shapes are compared.

    Raises
    ------
    NotAPairError
        They differ; the layer, the worst weight and its deviation in steps (LSB) are named.
    """
    affine = [node for node in f.nodes if isinstance(node, Affine)]
    if isinstance(q, QuantizedModel):
        layers = [layer for layer in q.layers if isinstance(layer, QuantizedLinear)]
        remedy = f"; {_REMEDY}"
    else:
        layers = [node for node in q.nodes if isinstance(node, Affine)]
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
    nodes: list[FloatNode] = []
    value_of = [0]
    for layer in q.layers:
        if not isinstance(layer, QuantizedLinear):
            kind = "table of codes" if isinstance(layer, QuantizedLookup) else "sigmoid"
            raise UnsupportedModelError(f"{q.origin}: layer {layer.name!r}: a {kind} has no dequantized twin")
        scales = layer.weight_scales[layer.channel]
        bias = layer.bias.astype(np.float64) * (layer.input_scale * scales)
        term = Term(value_of[layer.source], _scaled_rows(layer.weights, scales))
        nodes.append(Affine(layer.name, (term,), bias))
        if layer.activation != "none":
            nodes.append(Clamp(f"{layer.name}/{layer.activation}", len(nodes), *ENDS[layer.activation]))
        value_of.append(len(nodes))
    size = len(q.input_scale)
    return FloatNetwork(size, tuple(nodes), value_of[q.output], f"{q.origin} (dequantized)", q.note)


def _check_weights(weights: Matrix, layer: QuantizedLinear, where: str) -> None:
    """Raise unless every weight lies within half a step of the integer layer's."""
    dense = _dense(weights)
    scales = layer.weight_scales[layer.channel][:, None]
    steps = np.abs(dense / scales - _dense(layer.weights))
    excess = steps - TOLERANCE * np.abs(dense / scales)
    worst = np.unravel_index(int(np.argmax(excess)), steps.shape)
    if excess[worst] > 0.5:
        row, column = (int(index) for index in worst)
        integer = _dense(layer.weights)[worst] * scales[row, 0]
        raise NotAPairError(
            f"{where}: weight [{row}, {column}] is {dense[worst]:.6g} in the float network but "
            f"{integer:.6g} in the integer one, {steps[worst]:.4g} LSB apart "
            f"(a quantization stays within 0.5); {_REMEDY}"
        )


def _scaled_rows(matrix: Matrix, factors: Float64Array) -> Matrix:
    if isinstance(matrix, np.ndarray):
        return matrix * factors[:, None]
    scaled = matrix.copy()
    scaled.data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return scaled


def _dense(matrix: Matrix) -> Float64Array:
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def _spell(shapes: list[tuple[int, ...]]) -> str:
    return " + ".join("×".join(str(extent) for extent in shape) for shape in shapes)
