"""Leaves of few codes: every code vector of a leaf is executed, the float side enclosed around it.

Over a leaf, the float side is a linear function of the inputs up to a radius: its affine form.  That bounds it over
the inputs of each code vector: the point that it reads in the domain ``codes``, the box of real inputs that are read as
this code vector in a continuous one.  Where that does not suffice they get an affine form of their own; and on codes,
where the claim may be attained, what even this cannot tell from the claim is computed in fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array, gamma
from milpq.certificate.forms import ROUNDED, TINY, Ends, Form, largest, middle, padded
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError
from milpq.merge import Cubes, Problem
from milpq.network.integer_network import IntegerNetwork

MOST_CODES: Final = 10**10
"""Code vectors that one leaf may hold; more would take hours to execute."""

_NEURONS_AT_ONCE: Final = 1 << 16
"""Of codes that are executed together: what is calculated of them then stays in the cache."""

_CELLS_AT_ONCE: Final = 512
_MOST_FRACTIONS: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """Executes the codes of leaves of one problem.

    Parameters
    ----------
    zonotope : Zonotope
        Of the problem.
    claim : float64, shape (2·chosen,)
        What is to be proved of ``f_q − f`` and then of ``f − f_q``.
    """

    problem: Problem
    zonotope: Zonotope
    claim: Float64Array

    def upper(self, leaves: Cubes) -> Float64Array:
        """Return upper bounds on the objectives over each leaf; minus infinity where it has no inputs.

        Returns
        -------
        float64, shape (leaves, 2·chosen)

        Raises
        ------
        CertificateError
            The networks have no codes to execute, or a leaf holds too many.
        """
        ends = np.cumsum(count_codes(self.problem, leaves))
        result = np.full((len(leaves), len(self.claim)), -np.inf)
        linear = Linear.of(self.problem, leaves, self.zonotope.float_side(leaves))
        widest = max(len(self.problem.domain.box.lower), *(node.size for node in self.problem.merged.nodes))
        at_once = _NEURONS_AT_ONCE // widest + 1
        for begin in range(0, int(ends[-1]), at_once):
            # All codes are numbered, leaf after leaf.
            number = np.arange(begin, min(begin + at_once, int(ends[-1])))
            leaf = np.searchsorted(ends, number, side="right")
            most = self._execute(linear.select(leaf), leaves, leaf, ends[leaf] - 1 - number)
            starts = np.flatnonzero(np.diff(leaf, prepend=-1))
            here = leaf[starts]
            result[here] = np.maximum(result[here], np.maximum.reduceat(most, starts, axis=0))
        return result

    def _execute(self, linear: Linear, leaves: Cubes, leaf: Int64Array, number: Int64Array) -> Float64Array:
        """Return bounds on the objectives at code vectors by leaf and number, shape (codes, 2·chosen)."""
        domain, quantized = self.problem.domain, self.problem.quantized
        assert isinstance(quantized, IntegerNetwork)
        levels = _code_vectors(leaves, leaf, number)
        executed, cells = quantized.execute(levels), domain.cubes_of_levels(levels, levels)
        lower = np.maximum(cells.lower, np.take(leaves.lower, leaf, axis=0))
        upper = np.minimum(cells.upper, np.take(leaves.upper, leaf, axis=0))
        most = self._apart(executed, linear.over(lower, upper))
        if domain.kind == "continuous":
            # A code whose cell lies outside of the leaf is read from none of its inputs.
            most[np.any(lower > upper, axis=1)] = -np.inf
        unclear = np.flatnonzero((most > self.claim).any(axis=1))
        for start in range(0, len(unclear), _CELLS_AT_ONCE):
            some = unclear[start : start + _CELLS_AT_ONCE]
            ends = self._enclosed(Cubes(lower[some], upper[some], levels[some], levels[some]))
            most[some] = np.minimum(most[some], self._apart(executed[some], ends))
        if domain.kind == "codes" and len(unclear):
            most[unclear] = self._settled(most[unclear], executed[unclear], levels[unclear])
        return most

    def _enclosed(self, cells: Cubes) -> Ends:
        """Return the ends of the float side's outputs over what is read as one code vector each."""
        chosen = self.problem.outputs
        if self.problem.domain.kind == "codes":
            value, error = self.problem.float_network.evaluate_with_error(cells.lower)
            error = error + ROUNDED * np.abs(value)
            return (value - error)[:, chosen], (value + error)[:, chosen]
        form = self.zonotope.float_side(cells)
        low, high = form.ends(form.spread())
        return low[chosen].T, high[chosen].T

    def _apart(self, executed: Float64Array, ends: Ends) -> Float64Array:
        """Return the most that the objectives can be, given output levels and ends of the float side."""
        quantized = self.problem.quantized
        assert isinstance(quantized, IntegerNetwork)
        q = (executed * quantized.output_scale)[:, self.problem.outputs]
        slack = np.tile(ROUNDED * (np.abs(q) + largest(ends)) + TINY, 2)
        return np.concatenate([q - ends[0], ends[1] - q], axis=1) + slack

    def _settled(self, most: Float64Array, executed: Float64Array, levels: Int64Array) -> Float64Array:
        """Return the bounds, exact where they are above the claim, up to the first that surely is."""
        quantized, chosen = self.problem.quantized, self.problem.outputs
        assert isinstance(quantized, IntegerNetwork)
        for row, objective in np.argwhere(most > self.claim)[:_MOST_FRACTIONS].tolist():
            lower, upper = self.problem.float_network.enclose(quantized.input.float_value(levels[row]))
            output = int(chosen[objective % len(chosen)])
            q = Fraction(float(quantized.output_scale[output])) * int(executed[row, output])
            difference = q - lower[output] if objective < len(chosen) else upper[output] - q
            most[row, objective] = _rounded_up(difference)
            if most[row, objective] > self.claim[objective]:
                break
        return most


def count_codes(problem: Problem, leaves: Cubes) -> Int64Array:
    """Return how many code vectors each leaf has, shape (leaves,).

    Raises
    ------
    CertificateError
        The networks have no codes, or a leaf holds more than can be executed.
    """
    if not isinstance(problem.quantized, IntegerNetwork):
        raise CertificateError("a leaf is to be executed code by code, but both networks are real")
    widths = leaves.level_upper - leaves.level_lower + 1
    if (np.prod(widths.astype(np.float64), axis=1) > MOST_CODES).any():
        raise CertificateError(
            f"a leaf is to be executed code by code, but holds more than {MOST_CODES:,} codes"
        )
    return np.prod(widths, axis=1)


def _code_vectors(leaves: Cubes, leaf: Int64Array, number: Int64Array) -> Int64Array:
    """Return code vectors by their leaf and number, counted from the last; the last input changes fastest."""
    levels = np.take(leaves.level_upper, leaf, axis=0)
    widths = np.take(leaves.level_upper - leaves.level_lower + 1, leaf, axis=0)
    for i in range(levels.shape[1] - 1, -1, -1):
        number, digit = np.divmod(number, widths[:, i])
        levels[:, i] -= digit
    return levels


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Linear enclosures of the outputs asked about: ``|f(x) − offset − slope·(x − middle)| <= radius`` on each leaf.

    Parameters
    ----------
    middle : float64, shape (leaves, inputs)
    slope : float64, shape (leaves, inputs, chosen)
    offset, radius : float64, shape (leaves, chosen)
    """

    middle: Float64Array
    slope: Float64Array
    offset: Float64Array
    radius: Float64Array

    @classmethod
    def of(cls, problem: Problem, leaves: Cubes, form: Form) -> Linear:
        """Take the float side's form apart: the symbol of input ``i`` is ``(x_i − middle_i) / half_i``.

        *Soundness:* what is read, and the ends of the leaf, are within a few roundings of where the form has them:
        times the slope, that is added.  The slope is rounded once; all that is added up is at most `size`, and 4γ of
        how many summands there are covers the sums here and those at each point.
        """
        inputs = leaves.lower.shape[1]
        centre, half = middle(leaves.lower, leaves.upper)
        shared = padded(form.shared[problem.outputs], 1 + inputs)
        rest = np.abs(shared[:, :, 1 + inputs :]).sum(axis=2) + form.error[problem.outputs]
        size = np.abs(shared).sum(axis=2)
        on_inputs = shared[:, :, 1 : 1 + inputs].transpose(1, 2, 0)
        slope = np.divide(
            on_inputs, half[:, :, None], out=np.zeros_like(on_inputs), where=half[:, :, None] > 0
        )
        reach = np.maximum(np.abs(leaves.lower), np.abs(leaves.upper))
        moved = 4 * ROUNDED * (np.abs(slope) * reach[:, :, None]).sum(axis=1)
        radius = rest.T + moved + 4 * gamma(shared.shape[2] + 16) * (size + rest).T + TINY
        return cls(centre, slope, shared[:, :, 0].T, radius * (1 + ROUNDED))

    def select(self, which: Int64Array) -> Linear:
        """Return the enclosures of some leaves."""
        parts = (self.middle, self.slope, self.offset, self.radius)
        return Linear(*(np.take(part, which, axis=0) for part in parts))

    def over(self, lower: Float64Array, upper: Float64Array) -> Ends:
        """Return the ends of the outputs over a box inside each leaf, shape (leaves, chosen) each."""
        away, half = 0.5 * lower + 0.5 * upper - self.middle, 0.5 * (upper - lower)
        value, radius = self.offset.copy(), self.radius.copy()
        for i in range(lower.shape[1]):
            value += self.slope[:, i] * away[:, i : i + 1]
            radius += np.abs(self.slope[:, i]) * half[:, i : i + 1]
        return value - radius, value + radius


def _rounded_up(value: Fraction) -> float:
    nearest = float(value)
    return float(np.nextafter(nearest, np.inf)) if Fraction(nearest) < value else nearest
