"""Leaves of few codes: every code vector of a leaf is executed, the float side enclosed around it.

In the domain ``codes`` the float side reads a point, and the error bound of its evaluation settles the leaf; a value
that this cannot tell from the claim is computed in fractions.  In a continuous domain a code vector stands for the box
of the real inputs that are read as it, and affine forms bound the float side over that box.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, gamma
from milpq.certificate.forms import (
    ROUNDED,
    TINY,
    Ends,
    Form,
    Symbols,
    affine,
    clamp_band,
    clamped,
    diagonal,
    middle,
)
from milpq.errors import CertificateError
from milpq.merge import Cubes, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, Smooth

MOST_CODES: Final = 10**10
"""Code vectors that one leaf may hold; more would take hours to execute."""

_CODES_AT_ONCE: Final = 1 << 13
_LEAVES_AT_ONCE: Final = 256
_SYMBOLS: Final = 1024
_MOST_FRACTIONS: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """Executes the codes of leaves of one problem.

    Parameters
    ----------
    claim : float64, shape (2·chosen,)
        What is to be proved of ``f_q − f`` and then of ``f − f_q``.
    """

    problem: Problem
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
        for first in range(0, len(leaves), _LEAVES_AT_ONCE):
            some = leaves.select(slice(first, first + _LEAVES_AT_ONCE))
            linear = self._linear(some)
            start, stop = int(ends[first] - counts[first]), int(ends[first + len(some) - 1])
            for begin in range(start, stop, _CODES_AT_ONCE):
                number = np.arange(begin, min(begin + _CODES_AT_ONCE, stop))
                owner = np.searchsorted(ends, number, side="right")
                levels = _code_vectors(leaves, owner, number - (ends - counts)[owner])
                value = self._execute(linear, some, owner - first, levels)
                new = np.flatnonzero(np.diff(owner, prepend=-1))
                result[owner[new]] = np.maximum(result[owner[new]], np.maximum.reduceat(value, new, axis=0))
        return result

    def _linear(self, leaves: Cubes) -> Linear:
        integer = self.problem.domain.integer
        assert integer is not None
        if self.problem.domain.kind == "codes":
            return Linear.of(
                self.problem.float_network,
                *map(integer.float_value, (leaves.level_lower, leaves.level_upper)),
            )
        return Linear.of(self.problem.float_network, leaves.lower, leaves.upper)

    def _execute(self, linear: Linear, leaves: Cubes, owner: Int64Array, levels: Int64Array) -> Float64Array:
        """Return bounds on the objectives at each code vector, shape (codes, 2·chosen).

        Where the linear enclosure of the leaf does not suffice for the claim, the code vector gets its own.
        """
        network, quantized = self.problem.float_network, self.problem.quantized
        assert isinstance(quantized, IntegerNetwork)
        on_codes = self.problem.domain.kind == "codes"
        if on_codes:
            lower = upper = quantized.input.float_value(levels)
        else:
            assert quantized.input.quantizer is not None
            cell_lower, cell_upper = quantized.input.quantizer.cell(levels)
            lower = np.maximum(cell_lower, leaves.lower[owner])
            upper = np.minimum(cell_upper, leaves.upper[owner])
        # A code whose cell lies outside of the leaf is read from none of its inputs.
        exists: BoolArray = np.all(lower <= upper, axis=1)
        executed = quantized.execute(levels)
        most = self._apart(executed, linear.ends(owner, lower, upper))[0]
        unclear = np.flatnonzero(exists & (most > self.claim).any(axis=1))
        if len(unclear) and on_codes:
            value, error = network.evaluate_with_error(lower[unclear])
            error = error + ROUNDED * np.abs(value)
            most[unclear] = self._settled(executed[unclear], (value - error, value + error), levels[unclear])
        elif len(unclear):
            ends = float_ends(network, lower[unclear], upper[unclear])
            most[unclear] = np.minimum(most[unclear], self._apart(executed[unclear], ends)[0])
        return np.where(exists[:, None], most, -np.inf)

    def _apart(self, executed: Float64Array, ends: Ends) -> tuple[Float64Array, Float64Array]:
        """Return the most and the least that the objectives can be, given output levels and ends of the float side."""
        chosen, quantized = self.problem.outputs, self.problem.quantized
        assert isinstance(quantized, IntegerNetwork)
        q = (executed * quantized.output_scale)[:, chosen]
        lower, upper = ends[0][:, chosen], ends[1][:, chosen]
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
        known: dict[int, list[Fraction]] = {}
        for row, objective in unclear.tolist():
            if row not in known:
                point = quantized.input.float_value(levels[row])
                known[row] = self.problem.float_network.evaluate_exact(point)
            output = int(chosen[objective % len(chosen)])
            scale = Fraction(float(quantized.output_scale[output]))
            difference = scale * int(executed[row, output]) - known[row][output]
            most[row, objective] = _rounded_up(difference if objective < len(chosen) else -difference)
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


def _code_vectors(leaves: Cubes, owner: Int64Array, number: Int64Array) -> Int64Array:
    """Return the code vectors with these numbers in their leaves; the last input changes fastest."""
    levels = np.empty((len(owner), leaves.level_lower.shape[1]), dtype=np.int64)
    for i in range(levels.shape[1] - 1, -1, -1):
        number, digit = np.divmod(number, (leaves.level_upper[:, i] - leaves.level_lower[:, i] + 1)[owner])
        levels[:, i] = leaves.level_lower[owner, i] + digit
    return levels


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A linear enclosure of `f` over each of some boxes: ``|f(x) − offset − slope·ε| <= radius``, x = middle + ε·half.

    Parameters
    ----------
    middle, half : float64, shape (boxes, inputs)
    slope : float64, shape (boxes, outputs, inputs)
    offset, radius : float64, shape (boxes, outputs)
    """

    middle: Float64Array
    half: Float64Array
    slope: Float64Array
    offset: Float64Array
    radius: Float64Array

    @classmethod
    def of(cls, network: FloatNetwork, lower: Float64Array, upper: Float64Array) -> Linear:
        """Enclose over boxes of shape (boxes, inputs)."""
        form = float_form(network, lower, upper)
        inputs = lower.shape[1]
        middle_, half = middle(lower, upper)
        rest = np.abs(form.shared[:, :, 1 + inputs :]).sum(axis=2) + form.error
        size = np.abs(form.shared).sum(axis=2)
        # 2γ for the sums here, as much for evaluating the enclosure, and ε itself within four roundings.
        radius = rest + (4 * gamma(form.shared.shape[2] + 8) + ROUNDED) * (size + rest) + TINY
        slope = form.shared[:, :, 1 : 1 + inputs].transpose(1, 0, 2)
        return cls(middle_, half, np.ascontiguousarray(slope), form.centre.T, radius.T)

    def ends(self, owner: Int64Array, lower: Float64Array, upper: Float64Array) -> Ends:
        """Return ends of `f` over parts of the boxes, one row a part, shape (parts, outputs)."""
        half = self.half[owner]
        low, high = (
            np.divide(end - self.middle[owner], half, out=np.zeros_like(half), where=half > 0)
            for end in (lower, upper)
        )
        slope = self.slope[owner]
        centre = self.offset[owner] + np.einsum("boi,bi->bo", slope, 0.5 * (low + high))
        spread = self.radius[owner] + np.einsum("boi,bi->bo", np.abs(slope), 0.5 * np.abs(high - low))
        return centre - spread, centre + spread


def float_form(network: FloatNetwork, lower: Float64Array, upper: Float64Array) -> Form:
    """Return the outputs of `f` over boxes of shape (boxes, inputs): one symbol an input, one an unsettled clamp."""
    inputs = lower.shape[1]
    symbols = Symbols(_SYMBOLS)
    symbols.shared = 1 + inputs
    box = diagonal(*middle(lower.T, upper.T))
    values: list[Form | None] = [Form(box, box[:, :, :0], np.zeros(box.shape[:2]))]
    for position, node in enumerate(network.nodes):
        forms = [form for form in (values[source] for source in node.sources) if form is not None]
        if isinstance(node, Affine):
            terms = [(term.matrix, form, 0.0) for term, form in zip(node.terms, forms, strict=True)]
            values.append(affine(terms, node.bias, np.zeros_like(node.bias), symbols))
        elif isinstance(node, Smooth):
            raise CertificateError(f"layer {node.name!r}: certificates do not cover a {node.curve.name}")
        else:
            spread = forms[0].spread()
            size = np.abs(forms[0].centre) + spread
            band = clamp_band(forms[0].ends(spread), node.lower, node.upper)
            values.append(clamped(forms[0], size, band, symbols)[0])
        for source in node.sources:
            if network.graph.last_use[source] == position:
                values[source] = None
    output = values[network.output]
    assert output is not None
    return output


def float_ends(network: FloatNetwork, lower: Float64Array, upper: Float64Array) -> Ends:
    """Return ends of the outputs of `f` over boxes, shape (boxes, outputs)."""
    form = float_form(network, lower, upper)
    ends = form.ends(form.spread())
    return ends[0].T, ends[1].T


def _rounded_up(value: Fraction) -> float:
    nearest = float(value)
    return float(np.nextafter(nearest, np.inf)) if Fraction(nearest) < value else nearest
