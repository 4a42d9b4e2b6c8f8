"""The merged network: both networks layer by layer over one input, and their difference.

Each merged *value* stands for three vectors of one length: the float side ``a``, the quantized side ``v`` in real
units, and the difference ``d = v − a``, a quantity of its own.  An affine node obeys

    ``a = W·h + b``,  ``v = Ŵ·(h + δ) + b̂``,  ``d = Ŵ·δ + (Ŵ − W)·h + (b̂ − b)``

with ``h`` and ``δ`` the float side and the difference of its sources; an activation node obeys

    ``h = φ(a)``,  ``δ = [φ(v) − φ(a)] + e(v)``

where ``φ`` is the float activation and the *residue* ``e(v) = φ_q(v) − φ(v)`` is all that rounding and saturation
of the integer side add.  (Cooke, Mo, Xiang, arXiv 2304.13812, sec. III, keeps only the two sides.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Matrix
from milpq.network.curves import Curve
from milpq.network.inexact import Inexact
from milpq.network.nodes import IntegerAffine
from milpq.rounding.step import StepFunction


@dataclass(frozen=True, slots=True, eq=False)
class MergedTerm:
    """One source of a merged affine node; matrices of shape (outputs, inputs), real units.

    `float_matrix` and `quantized_matrix` are exact; `difference_matrix` is ``fl(Ŵ − W)``, each entry within the
    relative error of one float64 operation.
    """

    source: int
    float_matrix: Matrix
    quantized_matrix: Matrix
    difference_matrix: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class MergedAffine:
    """A pair of affine maps.

    Parameters
    ----------
    float_bias : float64, shape (outputs,)
        Exact.
    quantized_bias, quantized_bias_error : float64, shape (outputs,)
        The exact real bias of the quantized side lies within ``quantized_bias ± quantized_bias_error``.
    difference_bias, difference_bias_error : float64, shape (outputs,)
        The same for ``b̂ − b``.
    scale : float64, shape (outputs,), or None
        Real value of one accumulator unit (within one float64 rounding); None for a real quantized side.
    integer : IntegerAffine or None
        The exact integer accumulation behind the quantized side.
    """

    name: str
    terms: tuple[MergedTerm, ...]
    float_bias: Float64Array
    quantized_bias: Float64Array
    quantized_bias_error: Float64Array
    difference_bias: Float64Array
    difference_bias_error: Float64Array
    scale: Float64Array | None
    integer: IntegerAffine | None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.float_bias)

    @property
    def sources(self) -> tuple[int, ...]:
        """Merged value indices this node reads."""
        return tuple(term.source for term in self.terms)


@dataclass(frozen=True, slots=True, eq=False)
class MergedActivation:
    """A pair of activations: the float clamp or curve ``φ`` and the quantized ``φ_q``.

    Parameters
    ----------
    lower, upper : float
        ``φ(a) = min(max(a, lower), upper)``; infinite ends for none, NaN for a curve, so that nothing takes it for a
        clamp.
    step : StepFunction or None
        None where the quantized side applies ``φ`` itself (its residue is zero).
    scale_in, scale_out : float64, shape (neurons,), or None
        Real value of one accumulator unit and of one output level; ``φ_q(v) = scale_out · step(v / scale_in)``.
    inexact : Inexact or None
        The quantized side's operation where only a band of its residue is known; `step` is None then.
    curve : Curve or None
        ``φ`` where it is smooth.
    """

    name: str
    source: int
    size: int
    lower: float
    upper: float
    step: StepFunction | None
    scale_in: Float64Array | None
    scale_out: Float64Array | None
    inexact: Inexact | None = None
    curve: Curve | None = None

    def phi(self, value: Float64Array) -> Float64Array:
        """Return ``φ`` of values: exactly for a clamp, within `CURVE_ERROR` for a curve."""
        return np.clip(value, self.lower, self.upper) if self.curve is None else self.curve.value(value)

    @property
    def sources(self) -> tuple[int, ...]:
        """Merged value indices this node reads."""
        return (self.source,)


MergedNode: TypeAlias = MergedAffine | MergedActivation


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The merged network.

    Parameters
    ----------
    nodes : tuple
        In topological order; value 0 is the input and node ``k`` makes value ``k + 1``.
    output : int
        Merged value index of the output; its difference is what is bounded.
    """

    input_size: int
    nodes: tuple[MergedNode, ...]
    output: int

    @property
    def output_size(self) -> int:
        """Number of outputs."""
        return self.input_size if self.output == 0 else self.nodes[self.output - 1].size

    @property
    def is_exact(self) -> bool:
        """Tell whether every operation of the quantized side is known exactly, not only within a band."""
        return all(isinstance(node, MergedAffine) or node.inexact is None for node in self.nodes)

    @property
    def is_piecewise_linear(self) -> bool:
        """Tell whether no activation is a curve."""
        return all(isinstance(node, MergedAffine) or node.curve is None for node in self.nodes)
