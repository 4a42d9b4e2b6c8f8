"""Leaves of few codes: every code vector of a leaf is executed, the float side enclosed around it.

Over a leaf, the float side is a linear function of the inputs up to a radius: its affine form.  That bounds it at each
code vector: at the point that it reads in the domain ``codes``, over the box of real inputs that are read as this code
vector in a continuous one, where boxes for which it does not suffice get a zonotope of their own.  On codes, where the
claim may be attained, what this cannot tell from the claim is evaluated, and computed in fractions where even that does
not suffice.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, gamma
from milpq.certificate.forms import ROUNDED, TINY, Ends, Form, middle, padded
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
        counts = count_codes(self.problem, leaves)
        result = np.full((len(leaves), len(self.claim)), -np.inf)
        ends = np.cumsum(counts)
        linear = Linear.of(self.problem, leaves, self.zonotope.float_side(leaves))
        widest = max(len(self.problem.domain.box.lower), *(node.size for node in self.problem.merged.nodes))
        at_once = _NEURONS_AT_ONCE // widest + 1
        for begin in range(0, int(ends[-1]), at_once):
            stop = min(begin + at_once, int(ends[-1]))
            first, last = np.searchsorted(ends, [begin, stop - 1], side="right").tolist()
            # Codes of a leaf follow each other: from leaf `first` to leaf `last`, so many of each.
            here = slice(first, last + 1)
            starts = np.maximum(ends[here] - counts[here], begin)
            lengths = np.minimum(ends[here], stop) - starts
            number = np.arange(begin, stop) - np.repeat(ends[here] - counts[here], lengths)
            some = leaves.select(here)
            levels = _code_vectors(some, lengths, number)
            value = self._execute(linear.spread(here, lengths), some, lengths, levels)
            most = np.maximum.reduceat(value, starts - begin, axis=0)
            result[here] = np.maximum(result[here], most)
        return result

    def _execute(
        self, linear: Linear, leaves: Cubes, lengths: Int64Array, levels: Int64Array
    ) -> Float64Array:
        """Return bounds on the objectives at each code vector, shape (codes, 2·chosen), so many of each leaf."""
        network, quantized = self.problem.float_network, self.problem.quantized
        assert isinstance(quantized, IntegerNetwork)
        executed = quantized.execute(levels)
        if self.problem.domain.kind == "codes":
            points = quantized.input.float_value(levels)
            most = self._apart(executed, linear.at(points))[0]
            unclear = np.flatnonzero((most > self.claim).any(axis=1))
            if len(unclear):
                value, error = network.evaluate_with_error(points[unclear])
                error = error + ROUNDED * np.abs(value)
                chosen = self.problem.outputs
                ends = (value - error)[:, chosen], (value + error)[:, chosen]
                most[unclear] = self._settled(executed[unclear], ends, levels[unclear])
            return most
        assert quantized.input.quantizer is not None
        lower, upper = quantized.input.quantizer.cell(levels)
        lower = np.maximum(lower, np.repeat(leaves.lower, lengths, axis=0))
        upper = np.minimum(upper, np.repeat(leaves.upper, lengths, axis=0))
        most = self._apart(executed, linear.over(lower, upper))[0]
        # A code whose cell lies outside of the leaf is read from none of its inputs.
        exists: BoolArray = np.all(lower <= upper, axis=1)
        unclear = np.flatnonzero(exists & (most > self.claim).any(axis=1))
        for start in range(0, len(unclear), _CELLS_AT_ONCE):
            some = unclear[start : start + _CELLS_AT_ONCE]
            cells = Cubes(lower[some], upper[some], levels[some], levels[some])
            most[some] = np.minimum(most[some], self.zonotope.upper(cells))
        return np.where(exists[:, None], most, -np.inf)

    def _apart(self, executed: Float64Array, ends: Ends) -> tuple[Float64Array, Float64Array]:
        """Return the most and the least that the objectives can be, given output levels and ends of the float side."""
        chosen, quantized = self.problem.outputs, self.problem.quantized
        assert isinstance(quantized, IntegerNetwork)
        q = (executed * quantized.output_scale)[:, chosen]
        lower, upper = ends
        slack = np.tile(ROUNDED * (np.abs(q) + np.maximum(np.abs(lower), np.abs(upper))) + TINY, 2)
        most = np.concatenate([q - lower, upper - q], axis=1) + slack
        least = np.concatenate([q - upper, lower - q], axis=1) - slack
        return most, least

    def _settled(self, executed: Float64Array, ends: Ends, levels: Int64Array) -> Float64Array:
        """Return the bounds, exact where the claim lies between what an objective may be and what it surely is."""
        most, least = self._apart(executed, ends)
        unclear = np.argwhere((most > self.claim) & (least <= self.claim))
        if not 0 < len(unclear) <= _MOST_FRACTIONS:
            return most
        quantized, chosen = self.problem.quantized, self.problem.outputs
        assert isinstance(quantized, IntegerNetwork)
        known: dict[int, tuple[list[Fraction], list[Fraction]]] = {}
        for row, objective in unclear.tolist():
            if row not in known:
                point = quantized.input.float_value(levels[row])
                known[row] = self.problem.float_network.enclose(point)
            output = int(chosen[objective % len(chosen)])
            scale = Fraction(float(quantized.output_scale[output]))
            q, (lower, upper) = scale * int(executed[row, output]), known[row]
            difference = q - lower[output] if objective < len(chosen) else upper[output] - q
            most[row, objective] = _rounded_up(difference)
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


def _code_vectors(leaves: Cubes, lengths: Int64Array, number: Int64Array) -> Int64Array:
    """Return the code vectors with these numbers in their leaves, so many of each; the last input changes fastest."""
    levels = np.repeat(leaves.level_lower, lengths, axis=0)
    widths = leaves.level_upper - leaves.level_lower + 1
    for i in range(levels.shape[1] - 1, -1, -1):
        number, digit = np.divmod(number, np.repeat(widths[:, i], lengths))
        levels[:, i] += digit
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

    def spread(self, leaves: slice, times: Int64Array) -> Linear:
        """Return the enclosures of some leaves, each so many times."""
        arrays = (self.middle, self.slope, self.offset, self.radius)
        return Linear(*(np.repeat(array[leaves], times, axis=0) for array in arrays))

    def at(self, points: Float64Array) -> Ends:
        """Return the ends of the outputs at a point of each leaf, shape (leaves, chosen) each."""
        away = points - self.middle
        value = self.offset.copy()
        for i in range(points.shape[1]):
            value += self.slope[:, i] * away[:, i : i + 1]
        return value - self.radius, value + self.radius

    def over(self, lower: Float64Array, upper: Float64Array) -> Ends:
        """Return the ends of the outputs over a box inside each leaf."""
        low, high = self.at(0.5 * lower + 0.5 * upper)
        half = 0.5 * np.abs(upper - lower)
        for i in range(lower.shape[1]):
            reach = np.abs(self.slope[:, i]) * half[:, i : i + 1]
            low, high = low - reach, high + reach
        return low, high


def _rounded_up(value: Fraction) -> float:
    nearest = float(value)
    return float(np.nextafter(nearest, np.inf)) if Fraction(nearest) < value else nearest
