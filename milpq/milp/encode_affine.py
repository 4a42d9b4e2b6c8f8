"""Affine nodes as rows: ``a = W·h + b`` and ``acc = Σ W_int·level + b_int``, each with its stored numbers.

The difference ``d = v − a`` is tied to both by ``d = unit·acc − a``.  Together with the same tie of the
sources this implies ``d = Ŵ·δ + (Ŵ − W)·h + (b̂ − b)`` as a linear identity, so that row, twice as dense,
adds nothing to the relaxation; what does is the range of the column ``d``, and ``δ`` bound to ``d`` at
the activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.bounds.outward import TINY
from milpq.bounds.values import ValueBounds
from milpq.merge.nodes import MergedAffine
from milpq.milp.faces import Faces, Part, Side, add_difference, distinct_columns, meet, narrow_to
from milpq.milp.model import ModelBuilder
from milpq.network.nodes import IntegerAffine, apply_matrix

_QUOTIENT_SLACK = 2.0**-50


@dataclass(frozen=True, slots=True, eq=False)
class AffinePart:
    """Fills ``Σ matrix @ source + bias``.

    Parameters
    ----------
    sizes : tuple of matrix, or None
        The absolute values of the matrices where all quantities are integers.
    """

    matrices: tuple[Matrix, ...]
    sources: tuple[Int64Array, ...]
    bias: Float64Array
    columns: Int64Array
    sizes: tuple[Matrix, ...] | None

    def fill(self, point: Float64Array) -> None:
        """Multiply; exact for integers below 2^53."""
        total = self.bias.copy()
        for matrix, source in zip(self.matrices, self.sources, strict=True):
            total += _product(matrix, point[source])
        point[self.columns] = total

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Bound accumulators by the levels they sum, exactly (see `accumulator_reach`)."""
        if self.sizes is None:
            return
        low, high = self.bias.copy(), self.bias.copy()
        for matrix, size, source in zip(self.matrices, self.sizes, self.sources, strict=True):
            middle = _product(matrix, lower[source] + upper[source])
            radius = _product(size, upper[source] - lower[source])
            low += 0.5 * (middle - radius)
            high += 0.5 * (middle + radius)
        narrow_to(lower, upper, self.columns, low, high)


def accumulator_reach(
    node: IntegerAffine, sizes: tuple[Matrix, ...], sources: list[Side]
) -> tuple[Float64Array, Float64Array]:
    """Return the exact range of each accumulator over source levels inside their ranges.

    Parameters
    ----------
    sizes : tuple of matrix
        The absolute values of the matrices of the terms.

    *Soundness:* twice the end, ``M(l + u) ± |M|(u − l)``, is an even integer below 2^53.
    """
    lower = node.bias.astype(np.float64)
    upper = lower.copy()
    for term, size, source in zip(node.terms, sizes, sources, strict=True):
        middle = _product(term.matrix, source.lower + source.upper)
        radius = _product(size, source.upper - source.lower)
        lower += 0.5 * (middle - radius)
        upper += 0.5 * (middle + radius)
    return lower, upper


def _product(matrix: Matrix, vector: Float64Array) -> Float64Array:
    return apply_matrix(matrix, vector[None])[0]


def whole_numbers_inside(
    lower: Float64Array, upper: Float64Array, unit: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the range of integers ``n`` with ``unit·n`` inside real bounds, rounded outwards.

    *Soundness:* `unit` and the quotient err by one relative rounding each, the slack is four times that much.
    """
    low, high = lower / unit, upper / unit
    return (
        np.ceil(low - _QUOTIENT_SLACK * np.abs(low) - TINY),
        np.floor(high + _QUOTIENT_SLACK * np.abs(high) + TINY),
    )


def encode_affine(
    builder: ModelBuilder,
    parts: list[Part],
    node: MergedAffine,
    sizes: tuple[Matrix, ...],
    sources: list[Faces],
    bounds: ValueBounds,
) -> Faces:
    """Add the columns and rows of an affine node.

    Parameters
    ----------
    sizes : tuple of matrix
        The absolute values of the integer matrices; empty for a real quantized side.

    *Soundness:* the rows hold the stored weights and biases as they are, and these are the exact numbers
    of the two networks; the only rounded coefficient is `scale`, see `add_difference`.
    """
    name = node.name
    float_sources = distinct_columns(
        builder, parts, f"{name}/float", [source.float_side for source in sources]
    )
    known = bounds.float_side
    float_side = _linear(
        builder,
        parts,
        f"{name}/float",
        tuple(term.float_matrix for term in node.terms),
        float_sources,
        node.float_bias,
        (known.lower[0], known.upper[0]),
        None,
    )
    known = bounds.quantized_side
    quantized_sources = distinct_columns(
        builder, parts, f"{name}/quantized", [source.quantized for source in sources]
    )
    if node.integer is None:
        matrices = tuple(term.quantized_matrix for term in node.terms)
        bias, reach = node.quantized_bias, (known.lower[0], known.upper[0])
    else:
        assert node.scale is not None
        matrices = tuple(term.matrix for term in node.integer.terms)
        bias = node.integer.bias.astype(np.float64)
        reach = meet(
            f"the accumulators of {name}",
            accumulator_reach(node.integer, sizes, [source.quantized for source in sources]),
            whole_numbers_inside(known.lower[0], known.upper[0], node.scale),
        )
    quantized = _linear(
        builder,
        parts,
        f"{name}/quantized",
        matrices,
        quantized_sources,
        bias,
        reach,
        None if node.integer is None else sizes,
    )
    known = bounds.difference
    difference = add_difference(
        builder,
        parts,
        name,
        float_side,
        quantized,
        node.scale,
        (known.lower[0], known.upper[0]),
        unit_is_exact=False,
    )
    return Faces(float_side, quantized, node.scale, difference)


def _linear(
    builder: ModelBuilder,
    parts: list[Part],
    name: str,
    matrices: tuple[Matrix, ...],
    sources: list[Int64Array],
    bias: Float64Array,
    reach: tuple[Float64Array, Float64Array],
    sizes: tuple[Matrix, ...] | None,
) -> Side:
    columns = builder.add_columns(*reach, count=len(bias), name=name)
    terms: list[tuple[Int64Array, Matrix | float]] = [(columns, -1.0)]
    terms.extend(zip(sources, matrices, strict=True))
    builder.add_rows(terms, -bias, -bias, name=name)
    parts.append(AffinePart(matrices, tuple(sources), bias, columns, sizes))
    return Side(columns, *reach)
