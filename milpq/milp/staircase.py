"""Step functions as lines: ``α ≤ acc − ρ·k ≤ α + ρ`` holds at an integer ``acc`` for its own level alone.

Let the step reach levels above ``k' = before`` and up to ``k = after`` at the threshold ``T``.  The line
is right at this threshold when the point below it misses the next level and the point on it has its own,

    ``T − 1 − ρ(before + 1) < α ≤ T − ρ·after``.

This suffices for jumps over several levels and for both ends of each plateau, because the upper side is
the lower one moved by ``ρ``: for ``k > R(acc)`` the smallest threshold that reaches ``k`` gives ``acc −
ρk < α``, and for ``k < R(acc)`` the largest one that leaves ``k`` gives ``acc − ρk > α + ρ``.  The
*margin* is half the distance between the largest left and the smallest right side; ``α`` goes to the
middle, so a point must violate its row by the margin before it is taken for another.

A closed half-interval ``±½`` would fail at ties, and a margin fixed in advance for large shifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array, frozen
from milpq.rounding.step import NEVER, StepFunction

MARGIN = 1e-4
"""Least margin of a row in accumulator units: five orders above the feasibility tolerance of the solvers, and
two above the float64 error of ``T − ρk`` for 32-bit accumulators."""

_ROUNDS = 48


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The thresholds that accumulator ranges reach, one row a neuron, padded on the right.

    Parameters
    ----------
    lower, upper : float64, shape (neurons,)
        The accumulators at the ends: integers.
    first, last : float64, shape (neurons,)
        The levels there.
    thresholds, before, after : float64, shape (neurons, steps)
        Threshold, level below it, level from it on.
    inside : bool, shape (neurons, steps)
        Which entries are thresholds inside the range at which the level changes.
    """

    lower: Float64Array
    upper: Float64Array
    first: Float64Array
    last: Float64Array
    thresholds: Float64Array
    before: Float64Array
    after: Float64Array
    inside: BoolArray

    @classmethod
    def of(cls, step: StepFunction, neurons: Int64Array, lower: Float64Array, upper: Float64Array) -> Window:
        """Cut the window of some neurons; `lower` and `upper` are theirs."""
        rows = step.rows[neurons]
        start, stop = (_plateaus(step, neurons, end) for end in (lower, upper))
        index = start[:, None] + np.arange(max(int((stop - start).max(initial=0)), 1))
        within = index < stop[:, None]
        index = np.minimum(index, max(step.thresholds.shape[1] - 1, 0))
        if step.thresholds.shape[1] == 0:
            empty = np.zeros((len(neurons), 0))
            value = step.values[rows, 0].astype(np.float64)
            return cls(lower, upper, value, value, empty, empty, empty, empty.astype(np.bool_))
        before, after = step.values[rows[:, None], index], step.values[rows[:, None], index + 1]
        return cls(
            lower,
            upper,
            step.values[rows, start].astype(np.float64),
            step.values[rows, stop].astype(np.float64),
            step.thresholds[rows[:, None], index].astype(np.float64),
            before.astype(np.float64),
            after.astype(np.float64),
            within & (after > before),
        )

    def at(self, which: Int64Array) -> Window:
        """Return some of the neurons."""
        return Window(
            self.lower[which],
            self.upper[which],
            self.first[which],
            self.last[which],
            self.thresholds[which],
            self.before[which],
            self.after[which],
            self.inside[which],
        )

    @property
    def steps(self) -> Int64Array:
        """Number of thresholds inside, shape (neurons,)."""
        return self.inside.sum(axis=1)

    @property
    def straight(self) -> BoolArray:
        """Where every accumulator of the range has a level of its own, all the same number of levels apart."""
        several = self.upper > self.lower
        rise = self.after - self.before
        least = np.where(self.inside, rise, np.inf).min(axis=1, initial=np.inf)
        most = np.where(self.inside, rise, -np.inf).max(axis=1, initial=-np.inf)
        return several & (self.steps == self.upper - self.lower) & (least == most)

    def sides(self) -> tuple[BoolArray, BoolArray]:
        """Return the thresholds with both neighbours below zero, and those with both at or above zero."""
        return self.inside & (self.thresholds < 0), self.inside & (self.thresholds > 0)

    def offsets(self, slope: Float64Array, inside: BoolArray) -> tuple[Float64Array, Float64Array]:
        """Return the open interval ``(low, high]`` of right offsets ``α``, infinite where nothing binds."""
        low = self.thresholds - 1.0 - slope[:, None] * (self.before + 1.0)
        high = self.thresholds - slope[:, None] * self.after
        return (
            np.where(inside, low, -np.inf).max(axis=1, initial=-np.inf),
            np.where(inside, high, np.inf).min(axis=1, initial=np.inf),
        )

    def fit(self, *, two_sided: bool) -> Float64Array:
        """Return the slopes ``ρ`` of the largest margin, shape (neurons,).

        The margin is concave in ``ρ``; thirds of an interval that holds every slope of a positive margin.
        """
        span = np.where(self.inside, self.thresholds, -np.inf).max(axis=1, initial=-np.inf)
        span = span - np.where(self.inside, self.thresholds, np.inf).min(axis=1, initial=np.inf)
        low_level = np.where(self.inside, self.after, np.inf).min(axis=1, initial=np.inf)
        high_level = np.where(self.inside, self.after, -np.inf).max(axis=1, initial=-np.inf)
        several = span > 0
        rise = np.where(several, high_level - low_level, 1.0)
        span = np.where(several, span, 1.0)
        low, high = np.maximum(span - 1.0, 0.25) / rise, (span + 1.0) / np.maximum(rise - 1.0, 1.0)
        sides = self.sides() if two_sided else (self.inside,)

        def margin(slope: Float64Array) -> Float64Array:
            widths = [np.subtract(*self.offsets(slope, side)[::-1]) for side in sides]
            return np.minimum.reduce(widths)

        for _ in range(_ROUNDS):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            better = margin(left) >= margin(right)
            high, low = np.where(better, right, high), np.where(better, low, left)
        return 0.5 * (low + high)


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """Slopes fitted to all thresholds of each row of a step function, once for all cubes: (distinct,)."""

    single: Float64Array
    double: Float64Array

    @classmethod
    def of(cls, step: StepFunction) -> Slopes:
        """Fit both kinds of line to every row."""
        distinct = len(step.values)
        real = np.abs(step.thresholds) < NEVER
        before, after = step.values[:, :-1], step.values[:, 1:]
        zero = np.zeros(distinct)
        window = Window(
            zero,
            zero,
            zero,
            zero,
            step.thresholds.astype(np.float64),
            before.astype(np.float64),
            after.astype(np.float64),
            real & (after > before),
        )
        if step.thresholds.shape[1] == 0:
            return cls(frozen(zero + 1.0), frozen(zero + 1.0))
        return cls(frozen(window.fit(two_sided=False)), frozen(window.fit(two_sided=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines for the neurons of a window; arrays of shape (neurons,).

    Parameters
    ----------
    offset : ``α`` for accumulators below zero and at or above, shape (2, neurons)
        Equal where one line does for both.
    clamped_low, clamped_high : bool
        The line cannot hold the lowest (highest) plateau, which needs a binary of its own.
    margin : accumulator units
        Below `MARGIN` the line must not be used.
    """

    slope: Float64Array
    offset: Float64Array
    clamped_low: BoolArray
    clamped_high: BoolArray
    margin: Float64Array

    @property
    def usable(self) -> BoolArray:
        """Where the margin suffices."""
        return self.margin >= MARGIN

    @property
    def split(self) -> BoolArray:
        """Where the two sides of zero have lines of their own."""
        return self.offset[0] != self.offset[1]

    def at(self, which: Int64Array) -> Lines:
        """Return the lines of some of the neurons."""
        return Lines(
            self.slope[which],
            self.offset[:, which],
            self.clamped_low[which],
            self.clamped_high[which],
            self.margin[which],
        )

    def replaced(self, which: Int64Array, fresh: Lines) -> Lines:
        """Return these lines with those of some neurons replaced."""
        order = np.arange(len(self.slope))
        order[which] = len(order) + np.arange(len(which))
        return Lines(
            np.concatenate([self.slope, fresh.slope])[order],
            np.concatenate([self.offset, fresh.offset], axis=1)[:, order],
            np.concatenate([self.clamped_low, fresh.clamped_low])[order],
            np.concatenate([self.clamped_high, fresh.clamped_high])[order],
            np.concatenate([self.margin, fresh.margin])[order],
        )


def single_lines(window: Window, slope: Float64Array) -> Lines:
    """Fit one line to each neuron.

    The plateaus at both ends are cut by the range: their outer corners ``(lower, first)`` and ``(upper,
    last)`` must be on the line, or the plateau needs a binary.
    """
    low, high = window.offsets(slope, window.inside)
    low_end, high_end = window.upper - slope * (window.last + 1.0), window.lower - slope * window.first
    clamped_low = high_end < low + 2 * MARGIN
    clamped_high = low_end > high - 2 * MARGIN
    tight_low = np.where(clamped_high, low, np.maximum(low, low_end))
    tight_high = np.where(clamped_low, high, np.minimum(high, high_end))
    both = tight_high - tight_low < 2 * MARGIN
    tight_low, tight_high = np.where(both, low, tight_low), np.where(both, high, tight_high)
    offset = 0.5 * (tight_low + tight_high)
    return Lines(
        slope,
        np.stack([offset, offset]),
        clamped_low | both,
        clamped_high | both,
        _half(tight_low, tight_high),
    )


def double_lines(window: Window, slope: Float64Array, at_seam: tuple[Float64Array, Float64Array]) -> Lines:
    """Fit two parallel lines, below zero and from zero on: roundings half away from zero mirror there.

    Parameters
    ----------
    at_seam : float64, shape (neurons,)
        Levels of the accumulators −1 and 0.  Their corners are exact requirements, so the seam needs no
        binary.
    """
    negative, other = window.sides()
    low, high = window.offsets(slope, negative)
    low = np.maximum(low, -1.0 - slope * (at_seam[0] + 1.0))
    high_end = window.lower - slope * window.first
    clamped_low = high_end < low + 2 * MARGIN
    high = np.where(clamped_low, high, np.minimum(high, high_end))
    high = np.minimum(high, low + slope)
    first = 0.5 * (low + high), _half(low, high)
    low, high = window.offsets(slope, other)
    high = np.minimum(high, 0.0 - slope * at_seam[1])
    low_end = window.upper - slope * (window.last + 1.0)
    clamped_high = low_end > high - 2 * MARGIN
    low = np.where(clamped_high, low, np.maximum(low, low_end))
    low = np.maximum(low, high - slope)
    second = 0.5 * (low + high), _half(low, high)
    across = (window.lower < 0) & (window.upper >= 0)
    margin = np.where(across, np.minimum(first[1], second[1]), -np.inf)
    return Lines(slope, np.stack([first[0], second[0]]), clamped_low, clamped_high, margin)


def _half(low: Float64Array, high: Float64Array) -> Float64Array:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(0.5 * (high - low), nan=-np.inf, posinf=np.inf, neginf=-np.inf)


def best_lines(
    step: StepFunction, neurons: Int64Array, window: Window, slopes: Slopes, ideal: Float64Array
) -> Lines:
    """Return the line of each neuron, the first of these that has margin.

    One line or two; of the `ideal` slope (scale out over scale in), of the slope fitted to the whole
    step, or of a slope fitted to the window.  The ideal slope is not the one of the largest margin, but
    with it the row is a multiple of ``v − scale_out·level``: any other leaves, once the solver's presolve
    substitutes one column for another, coefficients of the size of the misfit (1e-9), which it may divide
    by.

    Neurons without `usable` lines remain where the thresholds follow no line at all.
    """
    rows = step.rows[neurons]
    lines = single_lines(window, ideal)
    candidates: list[tuple[Float64Array | None, bool]] = [
        (ideal, True),
        (slopes.single[rows], False),
        (slopes.double[rows], True),
        (None, False),
        (None, True),
    ]
    for slope, two_sided in candidates:
        failed = np.flatnonzero(~lines.usable)
        if not len(failed):
            break
        part = window.at(failed)
        chosen = part.fit(two_sided=two_sided) if slope is None else slope[failed]
        if two_sided:
            fresh = double_lines(part, chosen, _seam(step, neurons[failed]))
        else:
            fresh = single_lines(part, chosen)
        lines = lines.replaced(failed, fresh)
    return lines


def _plateaus(step: StepFunction, neurons: Int64Array, accumulators: Float64Array) -> Int64Array:
    """Return the plateau of one accumulator of each of some neurons."""
    everyone = np.zeros(step.size, dtype=np.int64)
    everyone[neurons] = accumulators.astype(np.int64)
    return step.plateau(everyone)[neurons]


def _seam(step: StepFunction, neurons: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Return the levels of the accumulators −1 and 0."""
    everyone = np.zeros(step.size, dtype=np.int64)
    before, at = step(everyone - 1), step(everyone)
    return before[neurons].astype(np.float64), at[neurons].astype(np.float64)
