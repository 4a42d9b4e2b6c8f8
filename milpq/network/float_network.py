"""The float network `f`: the real-arithmetic function of its stored weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from milpq._arrays import Float64Array, gamma
from milpq.errors import UnsupportedModelError
from milpq.network.curves import CURVE_ERROR
from milpq.network.exact import affine_ends
from milpq.network.images import Image
from milpq.network.kept import Kept
from milpq.network.nodes import (
    Affine,
    Clamp,
    FloatNode,
    Graph,
    Smooth,
    absolute,
    apply_matrix,
    chain,
    row_terms,
)


@dataclass(frozen=True, slots=True, eq=False)
class FloatNetwork:
    """A directed acyclic graph of affine maps, clamps and smooth curves.

    Parameters
    ----------
    input_size : int
    nodes : tuple of Affine, Clamp or Smooth
        In topological order; node ``k`` makes value ``k + 1``.
    output : int
        Value index of the output.
    origin : str
        Where the network came from, for messages and reports.
    note : str
        What a reader must know, e.g. that the output is the input of a final sigmoid.
    images : tuple of Image or None, one a value, or empty
        What is known to be an image, and its layout.
    """

    input_size: int
    nodes: tuple[FloatNode, ...]
    output: int
    origin: str = "<memory>"
    note: str = ""
    images: tuple[Image | None, ...] = ()
    graph: Graph = field(init=False, repr=False)
    kept: Kept[Any] = field(init=False, repr=False, default_factory=Kept[Any])

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", chain(self.nodes, self.input_size, self.output))

    @property
    def output_size(self) -> int:
        """Number of outputs."""
        return self.graph.sizes[self.output]

    def evaluate(self, points: Float64Array) -> Float64Array:
        """Return the outputs in float64 (not outward rounded), points in rows: (points, outputs)."""
        return self.evaluate_with_error(points, with_error=False)[0]

    def evaluate_with_error(
        self, points: Float64Array, *, with_error: bool = True
    ) -> tuple[Float64Array, Float64Array]:
        """Return the float64 outputs and a bound on their distance to the exact real outputs.

        Parameters
        ----------
        points : float64, shape (points, inputs)

        Returns
        -------
        outputs, error : float64, shape (points, outputs)
            The exact output lies within ``outputs ± error``.  `error` is zero when not asked for.

        *Soundness:* running error analysis; the error of each dot product of n terms and a bias is at most
        ``γ_{n+2} (|W||x| + |b|)`` for any order of summation, plus the input error carried through ``|W|``.
        Clamps do not increase errors; curves multiply them by their slope at most, and add `CURVE_ERROR`.
        """
        values: list[Float64Array | None] = [np.atleast_2d(np.asarray(points, dtype=np.float64))]
        errors: list[Float64Array | None] = [np.zeros_like(values[0])]
        for index, node in enumerate(self.nodes):
            if isinstance(node, Affine):
                value: Float64Array = node.bias
                magnitude: Float64Array = np.abs(node.bias)
                carried: Float64Array | float = 0.0
                width = 2
                for term in node.terms:
                    source, source_error = values[term.source], errors[term.source]
                    assert source is not None and source_error is not None
                    value = value + apply_matrix(term.matrix, source)
                    if with_error:
                        size = absolute(term.matrix)
                        magnitude = magnitude + apply_matrix(size, np.abs(source))
                        carried = carried + apply_matrix(size, source_error)
                        width += row_terms(term.matrix)
                # 1 + 2γ covers the rounding of the error terms themselves; the last summand, underflow.
                slack = (gamma(width) * magnitude + carried) * (1 + 2 * gamma(width)) + width * 5e-324
                error = slack if with_error else np.zeros_like(value)
            elif isinstance(node, Smooth):
                source, source_error = values[node.source], errors[node.source]
                assert source is not None and source_error is not None
                value = node.curve.value(source)
                error = (
                    (node.curve.steepest * source_error + CURVE_ERROR) * (1 + 2.0**-50)
                    if with_error
                    else source_error
                )
            else:
                source, source_error = values[node.source], errors[node.source]
                assert source is not None and source_error is not None
                value, error = np.clip(source, node.lower, node.upper), source_error
            values.append(value)
            errors.append(error)
            for source_index in node.sources:
                if self.graph.last_use[source_index] == index:
                    values[source_index] = errors[source_index] = None
        output, output_error = values[self.output], errors[self.output]
        assert output is not None and output_error is not None
        return output, output_error

    def evaluate_exact(self, point: Float64Array | Sequence[Fraction]) -> list[Fraction]:
        """Return the exact real outputs at one point of float64 numbers or fractions.

        Slow (big integers): a third of a microsecond per weight.  For witnesses, not for searching.

        Raises
        ------
        UnsupportedModelError
            A layer is a sigmoid or tanh, whose values are no fractions; `enclose` takes those.
        """
        smooth = next((node for node in self.nodes if isinstance(node, Smooth)), None)
        if smooth is not None:
            raise UnsupportedModelError(
                f"{self.origin}: layer {smooth.name!r}: the values of a {smooth.curve.name} are no fractions; "
                "end the network before it"
            )
        return self.enclose(point)[0]

    def enclose(self, point: Float64Array | Sequence[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
        """Return fractions below and above the exact real outputs at one point, equal without curves.

        Slow, as `evaluate_exact`.  *Soundness:* interval arithmetic; a curve is enclosed to about 50 decimals.
        """
        given = [x if isinstance(x, Fraction) else Fraction(float(x)) for x in point]
        lower: list[list[Fraction]] = [given]
        upper: list[list[Fraction]] = [given]
        for node in self.nodes:
            if isinstance(node, Affine):
                ends = affine_ends(node, lower, upper)
            elif isinstance(node, Smooth):
                pairs = [
                    node.curve.enclose(*ends)
                    for ends in zip(lower[node.source], upper[node.source], strict=True)
                ]
                ends = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            else:
                low, high = lower[node.source], upper[node.source]
                clamped = _clamped(node, low)
                ends = clamped, clamped if low is high else _clamped(node, high)
            lower.append(ends[0])
            upper.append(ends[1])
        return lower[self.output], upper[self.output]


def _clamped(node: Clamp, values: list[Fraction]) -> list[Fraction]:
    lower = Fraction(node.lower) if np.isfinite(node.lower) else None
    upper = Fraction(node.upper) if np.isfinite(node.upper) else None
    return [
        upper if upper is not None and x > upper else lower if lower is not None and x < lower else x
        for x in values
    ]
