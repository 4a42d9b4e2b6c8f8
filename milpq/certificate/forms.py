"""Affine forms in rigorous float64 arithmetic: the numbers that the checker calculates with.

A form states, for every neuron ``i`` and leaf ``b``, what a value can be:

    ``x[i, b] = Σ_k shared[i, b, k]·ε_k + Σ_k own[i, b, k]·η_k + ρ[i, b]``

with ``ε_0 = 1``, every other symbol anywhere in [−1, 1] and ``|ρ| <= error``.  A symbol means the same in all forms of
one leaf; that is how differences cancel.  The float side uses the `shared` symbols only.  Every rounding of an
operation is bounded beside it and goes into `error`, so a form is an exact statement whatever float64 did.

References: J. Stolfi and L. de Figueiredo, *Self-Validated Numerical Methods and Applications*, chapter 3.  N. Higham,
*Accuracy and Stability of Numerical Algorithms*, Lemma 3.1 (``γ_n``: n roundings, for any order of summation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, Matrix, gamma
from milpq.errors import CertificateError
from milpq.network.nodes import absolute

Ends: TypeAlias = tuple[Float64Array, Float64Array]
"""Lower and upper ends of intervals."""

TINY = 1e-290
"""More than all underflows of one operation lose: fewer than 1e30 products of at most 2^−1074 each."""

ROUNDED = 8 * UNIT_ROUNDOFF
"""Relative error of up to six roundings, with room for the rounding of the error term itself."""

NEARLY = 1e-9
"""Relative: what is no further apart may be told apart by the order of summation of a machine."""

_NEGLIGIBLE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One value of a batch of leaves.

    Parameters
    ----------
    shared : float64, shape (neurons, leaves, 1 + symbols)
        The first column is the centre.
    own : float64, shape (neurons, leaves, symbols)
    error : float64, shape (neurons, leaves)
    """

    shared: Float64Array
    own: Float64Array
    error: Float64Array

    @property
    def centre(self) -> Float64Array:
        """Coefficient of ``ε_0``, shape (neurons, leaves)."""
        return self.shared[:, :, 0]

    def spread(self) -> Float64Array:
        """Return how far the value can be from its centre, rounded up, shape (neurons, leaves)."""
        terms = np.abs(self.shared[:, :, 1:]).sum(axis=2) + np.abs(self.own).sum(axis=2) + self.error
        return terms * (1 + 2 * gamma(self.shared.shape[2] + self.own.shape[2] + 4)) + TINY

    def ends(self, spread: Float64Array) -> Ends:
        """Return the interval that the value lies in, given its spread.

        Raises
        ------
        CertificateError
            Numbers overflow float64: nothing is claimed then.
        """
        lower = np.nextafter(self.centre - spread, -np.inf)
        upper = np.nextafter(self.centre + spread, np.inf)
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            raise CertificateError(
                "bounds overflow float64; the weights or the region are too large to check"
            )
        return lower, upper


def interval(ends: Ends) -> Form:
    """Return a form without symbols, of shape (neurons, leaves)."""
    centre, radius = middle(*ends)
    return Form(centre[:, :, None], np.zeros((*centre.shape, 0)), radius)


class Symbols:
    """How many symbols the leaves of a batch have; no more than `limit` are made, and none for negligible terms.

    Symbols are numbered over the whole network, so one that a layer introduces means nothing else anywhere.
    """

    def __init__(self, limit: int) -> None:
        self.shared = 1
        self.own = 0
        self._limit = limit

    def on_inputs(
        self, centre: Float64Array, radius: Float64Array, error: Float64Array, own: Float64Array | None = None
    ) -> Form:
        """Return a form with the radius of input ``i`` on the shared symbol ``1 + i``; in the error without symbols."""
        inputs, leaves = centre.shape
        own = np.zeros((inputs, leaves, 0)) if own is None else own
        if not self._limit:
            return Form(centre[:, :, None], own, (np.abs(radius) + error) * (1 + ROUNDED))
        self.shared = 1 + inputs
        shared = np.zeros((inputs, leaves, 1 + inputs))
        shared[:, :, 0] = centre
        index = np.arange(inputs, dtype=np.int64)
        shared[index, :, 1 + index] = radius
        return Form(shared, own, error)

    def add_shared(self, radius: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return ``(columns, error)``: terms of these radii on new shared symbols; the small ones as errors."""
        columns, error = self._columns(radius, self.shared)
        self.shared += columns.shape[2]
        return columns, error

    def add_own(self, radius: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the same for symbols of the difference alone."""
        columns, error = self._columns(radius, self.own)
        self.own += columns.shape[2]
        return columns, error

    def _columns(self, radius: Float64Array, present: int) -> tuple[Float64Array, Float64Array]:
        # Each leaf numbers its nonzero radii from 0: a column serves one neuron in one leaf, another in the next.
        used = radius > _NEGLIGIBLE * radius.max(axis=0, initial=0.0)
        count = int(used.sum(axis=0).max(initial=0))
        if present + count > self._limit:
            return np.zeros((*radius.shape, 0)), radius
        columns = np.zeros((*radius.shape, count))
        neuron, leaf = np.nonzero(used)
        rank = np.cumsum(used, axis=0)[neuron, leaf] - 1
        columns[neuron, leaf, rank] = radius[neuron, leaf]
        return columns, np.where(used, 0.0, radius)


def largest(ends: Ends) -> Float64Array:
    """Return the largest magnitude in intervals."""
    return np.maximum(np.abs(ends[0]), np.abs(ends[1]))


def padded(array: Float64Array, width: int) -> Float64Array:
    """Return the coefficients with zeros for the symbols that they lack."""
    missing = width - array.shape[2]
    return array if missing <= 0 else np.concatenate([array, np.zeros((*array.shape[:2], missing))], axis=2)


def affine(
    terms: Sequence[tuple[Matrix, Form, float]],
    bias: Float64Array,
    bias_error: Float64Array,
    symbols: Symbols,
) -> Form:
    """Return ``Σ matrix·x + bias``; a term is (matrix, x, relative error of the entries of the matrix).

    *Soundness:* column ``k`` of the result is a sum of N products and T + 1 parts, so it is off by at most
    ``γ_{N+T+1} Σ|M||x_k|``; summed over the columns, by ``γ Σ|M|·(|centre| + spread)``.
    """
    width = sum(matrix.shape[1] for matrix, _, _ in terms) + len(terms) + 1
    leaves = terms[0][1].error.shape[1]
    shared = np.zeros((len(bias), leaves, symbols.shared))
    own = np.zeros((len(bias), leaves, symbols.own))
    error: Float64Array = gamma(width) * np.abs(bias)[:, None] + bias_error[:, None]
    for matrix, x, entry_error in terms:
        for total, part in ((shared, x.shared), (own, x.own)):
            if part.shape[2]:
                product = matrix @ part.reshape(len(part), -1)
                total[:, :, : part.shape[2]] += product.reshape(len(bias), leaves, -1)
        magnitude = np.abs(x.centre) + x.spread()
        error = error + absolute(matrix) @ (x.error + (gamma(width) + entry_error) * magnitude)
    shared[:, :, 0] += bias[:, None]
    # `error` is a sum of nonnegative products: its own roundings are relative.
    return Form(shared, own, error * (1 + 2 * gamma(width + 8)) + TINY)


def less(one: Float64Array, other: Float64Array) -> BoolArray:
    """Tell where a number is surely less than another: of nearly equal ones every machine is to choose the second."""
    return one < (1.0 - NEARLY) * other


def middle(lower: Float64Array, upper: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return a centre and a radius, rounded up, that cover the intervals; a single point has radius zero."""
    centre = 0.5 * lower + 0.5 * upper
    return centre, np.maximum(upper - centre, centre - lower) * (1 + ROUNDED)


def clamped(
    form: Form, size: Float64Array, band: tuple[Float64Array, ...], symbols: Symbols
) -> tuple[Form, Float64Array, Float64Array]:
    """Return ``slope·x + centre ± radius``, the radius on new shared symbols; these columns, and radii left as errors.

    Parameters
    ----------
    form : Form
        Of the float side: without `own` symbols.
    size : float64, shape (neurons, leaves)
        ``|centre| + spread`` of the form.
    band : slope, centre, radius
        As `milpq.certificate.activations.band` returns.
    """
    slope, centre, radius = band
    coefficients = slope[:, :, None] * padded(form.shared, symbols.shared)
    coefficients[:, :, 0] += centre
    columns, lost = symbols.add_shared(radius)
    error = slope * form.error + lost + ROUNDED * (slope * size + np.abs(centre))
    shared = np.concatenate([coefficients, columns], axis=2)
    return Form(shared, np.zeros((*centre.shape, 0)), error * (1 + ROUNDED) + TINY), columns, lost
