"""A requantization as what it is: a monotone step function with integer thresholds.

Every fixed-point or floating-point requantization that embedded runtimes use maps an int32 accumulator to a
code by a nondecreasing function; ReLU, ReLU6, saturation and monotone lookup tables are part of it.  A row of
sorted integer thresholds therefore describes it completely, and image, preimage and error band follow
exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from milpq._arrays import BoolArray, Float64Array, Int64Array, frozen
from milpq.errors import InvalidNetworkError

NEVER = np.int64(2**40)
"""Threshold of a value that no accumulator attains; ``-NEVER`` where every accumulator attains it."""


@dataclass(frozen=True, slots=True, eq=False)
class StepFunction:
    """One monotone step function per neuron, stored once per distinct *row* (channel).

    The value at accumulator ``acc`` of neuron ``i`` is
    ``values[rows[i], count(thresholds[rows[i]] <= acc)]``.

    Parameters
    ----------
    thresholds : int64, shape (distinct, steps)
        Nondecreasing along the last axis.  Equal neighbours are a jump over several values;
        ``NEVER`` and ``-NEVER`` pad values that lie outside the reachable accumulators.
    values : int64, shape (distinct, steps + 1)
        Nondecreasing along the last axis: the *levels* (code minus zero point) taken.
    rows : int64, shape (neurons,)
        Which row each neuron uses.
    bottom, top : float64, shape (distinct,)
        The least and the largest value that an accumulator can have; derived.
    starts : int64, shape (distinct, steps + 2)
        Where each plateau starts, the first at ``-NEVER``, and where the last ends; derived.
    """

    thresholds: Int64Array
    values: Int64Array
    rows: Int64Array
    _slope: Float64Array = field(init=False, repr=False)
    _offset: Float64Array = field(init=False, repr=False)
    _affine: BoolArray = field(init=False, repr=False)
    bottom: Float64Array = field(init=False, repr=False)
    top: Float64Array = field(init=False, repr=False)
    _keys: Int64Array = field(init=False, repr=False)
    _value_keys: Int64Array = field(init=False, repr=False)
    starts: Int64Array = field(init=False, repr=False)
    _is_table: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        thresholds = frozen(np.ascontiguousarray(self.thresholds, dtype=np.int64))
        values = frozen(np.ascontiguousarray(self.values, dtype=np.int64))
        rows = frozen(np.ascontiguousarray(self.rows, dtype=np.int64))
        if thresholds.ndim != 2 or values.shape != (thresholds.shape[0], thresholds.shape[1] + 1):
            raise InvalidNetworkError(
                f"step function: thresholds {thresholds.shape} and values {values.shape} do not match"
            )
        if (np.diff(thresholds, axis=1) < 0).any() or (np.diff(values, axis=1) < 0).any():
            raise InvalidNetworkError("step function: thresholds and values must be nondecreasing")
        if (np.abs(thresholds) > NEVER).any():
            raise InvalidNetworkError("step function: a threshold lies outside ±2^40")
        if rows.ndim != 1 or (rows.size and (rows.min() < 0 or rows.max() >= len(values))):
            raise InvalidNetworkError("step function: a neuron names a row that does not exist")
        bottom, top = _ends(thresholds, values)
        slope, offset, affine = _fit_staircase(thresholds, values, bottom, top)
        # A single sorted array answers every row's search at once: row r lives around r·4·NEVER.
        shift = np.arange(len(thresholds), dtype=np.int64)[:, None] * (4 * NEVER)
        keys = thresholds + shift
        border = np.full((len(thresholds), 1), NEVER)
        starts = np.concatenate([-border, thresholds, border], axis=1)
        # A table has a plateau of its own for every accumulator between its ends, so nothing needs to be searched.
        is_table = thresholds.shape[1] > 0 and bool((np.diff(thresholds, axis=1) == 1).all())
        object.__setattr__(self, "_is_table", is_table)
        for name, value in (
            ("thresholds", thresholds),
            ("values", values),
            ("rows", rows),
            ("_slope", frozen(slope)),
            ("_offset", frozen(offset)),
            ("_affine", frozen(affine)),
            ("bottom", frozen(bottom)),
            ("top", frozen(top)),
            ("_keys", frozen(keys.ravel())),
            ("_value_keys", frozen((values + shift).ravel())),
            ("starts", frozen(starts)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_function(
        cls,
        function: Callable[[Int64Array], Int64Array],
        accumulator_lower: Int64Array,
        accumulator_upper: Int64Array,
        value_lower: int,
        value_upper: int,
        rows: Int64Array | None = None,
    ) -> StepFunction:
        """Find the thresholds of an executable monotone requantization by bisection.

        Parameters
        ----------
        function : callable
            Maps accumulators of shape (distinct, k) to levels of the same shape, row ``r`` by channel ``r``.
            Must be nondecreasing in the accumulator on the range given.
        accumulator_lower, accumulator_upper : int64, shape (distinct,)
            The reachable accumulators; outside of them the function is never called.
        value_lower, value_upper : int
            Levels the function may return.
        rows : int64, shape (neurons,), optional
            Row of each neuron; one neuron per row when omitted.

        Raises
        ------
        InvalidNetworkError
            The function leaves ``[value_lower, value_upper]`` at an end of the accumulators, or falls between
            the ends.  What the function itself raises, for an accumulator it cannot take, passes through: the
            ends are always asked, so a range that is refused anywhere towards its ends is refused here.
        """
        ends = function(np.stack((accumulator_lower, accumulator_upper), axis=1).astype(np.int64))
        if ((ends < value_lower) | (ends > value_upper) | (ends[:, :1] > ends[:, 1:])).any():
            raise InvalidNetworkError(
                f"step function: levels {int(ends.min())} and {int(ends.max())} at the ends of the "
                f"accumulators are not in order within [{value_lower}, {value_upper}]"
            )
        distinct = len(accumulator_lower)
        targets = np.arange(value_lower + 1, value_upper + 1, dtype=np.int64)[None, :]
        low = np.repeat(accumulator_lower[:, None].astype(np.int64) - 1, targets.shape[1], axis=1)
        high = np.repeat(accumulator_upper[:, None].astype(np.int64) + 1, targets.shape[1], axis=1)
        # Invariant: function(low) < target <= function(high), the ends standing for -inf and +inf.
        while (high - low > 1).any():
            middle = np.clip((low + high) >> 1, accumulator_lower[:, None], accumulator_upper[:, None])
            reached = function(middle) >= targets
            open_ = high - low > 1
            high = np.where(open_ & reached, middle, high)
            low = np.where(open_ & ~reached, middle, low)
        high[high > accumulator_upper[:, None]] = NEVER
        high[high == accumulator_lower[:, None]] = -NEVER
        values = np.broadcast_to(
            np.arange(value_lower, value_upper + 1, dtype=np.int64), (distinct, targets.shape[1] + 1)
        )
        if rows is None:
            rows = np.arange(distinct, dtype=np.int64)
        return cls(high, values.copy(), rows)

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.rows)

    @property
    def value_lower(self) -> int:
        """Smallest level any row can take."""
        return int(self.values.min())

    @property
    def value_upper(self) -> int:
        """Largest level any row can take."""
        return int(self.values.max())

    def plateau(self, accumulator: Int64Array) -> Int64Array:
        """Return the index of the plateau (column of `values`) that holds each accumulator.

        `accumulator` has shape (..., neurons); so has the result.
        """
        return self._plateau(accumulator, self.rows)

    def _plateau(self, accumulator: Int64Array, rows: Int64Array) -> Int64Array:
        found = np.searchsorted(self._keys, accumulator + rows * (4 * NEVER), side="right")
        return found - rows * self.thresholds.shape[1]

    def __call__(self, accumulator: Int64Array) -> Int64Array:
        """Return the level of each accumulator, shape (..., neurons), exactly."""
        return self.values[self.rows, self.plateau(accumulator)]

    def evaluate_fast(self, accumulator: Float64Array) -> Float64Array:
        """Return the levels of integer-valued float64 accumulators, shape (points, neurons), exactly.

        Where the row is an affine staircase (checked at every threshold when the function was made) this is
        ``clip(floor(slope·acc + offset[acc >= 0]))``; the other rows are searched.
        """
        rows = self.rows
        if self._is_table:
            plateau = np.clip(accumulator - (self.thresholds[rows, 0] - 1), 0, self.thresholds.shape[1])
            return self.values[rows, plateau.astype(np.int64)].astype(np.float64)
        negative: Float64Array = self._offset[0, rows]
        other: Float64Array = self._offset[1, rows]
        product = accumulator * self._slope[rows]
        if np.array_equal(negative, other):
            product += other
        else:
            product += np.where(accumulator >= 0.0, other, negative)
        np.floor(product, out=product)
        # Twice as fast as one clip by arrays.
        np.maximum(product, self.bottom[rows], out=product)
        np.minimum(product, self.top[rows], out=product)
        searched = np.flatnonzero(~self._affine[rows])
        if len(searched):
            rows = rows[searched]
            product[:, searched] = self.values[
                rows, self._plateau(accumulator[:, searched].astype(np.int64), rows)
            ]
        return product

    def staircases(self, precision: type[np.float32 | np.float64]) -> tuple[Float64Array, BoolArray]:
        """Return each neuron's step as a staircase, and where it is that in a precision, for compiled execution.

        Returns
        -------
        stairs : float64 holding numbers of the precision, shape (neurons, 5)
            Slope, offset of negative accumulators, offset of others, smallest and largest value.
        exact : bool, shape (neurons,)
            Whether ``clip(floor(slope·acc + offset))``, each operation rounded to the precision, is the step at every
            accumulator that the precision holds.
        """
        slope, offset = self._slope.astype(precision), self._offset.astype(precision)
        parts = (slope, *offset, self.bottom, self.top)
        stairs = np.stack([part.astype(np.float64) for part in parts], axis=1)
        exact = _is_staircase(self.thresholds, self.values, slope, offset, self.bottom, self.top)
        # Integers up to 2^24 are numbers of single precision, so the ends and what lies between them are, too.
        exact &= np.maximum(np.abs(self.bottom), np.abs(self.top)) < 2.0**24
        return stairs[self.rows], exact[self.rows]

    @property
    def is_table(self) -> bool:
        """Whether all thresholds follow each other: each plateau but the first and the last has one accumulator."""
        return self._is_table

    def image(self, lower: Int64Array, upper: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the exact levels at the ends of accumulator intervals, shape (..., neurons) each."""
        return self(lower), self(upper)

    def preimage(self, lower: Int64Array, upper: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return the accumulators whose level lies in [lower, upper], as ends of one interval.

        Shapes (neurons,).  The ends are ``∓NEVER`` where the interval is unbounded; the interval is empty
        (its lower end above its upper) where no accumulator has such a level.
        """
        rows = self.rows
        width = self.values.shape[1]
        shift = rows * (4 * NEVER)
        ends = np.concatenate([np.asarray(lower, dtype=np.int64), np.asarray(upper, dtype=np.int64) + 1])
        # The first level from an end on; levels beyond the ends of all rows must not leave their row.
        ends = np.clip(ends, self.value_lower - 1, self.value_upper + 1) + np.concatenate([shift, shift])
        found = np.searchsorted(self._value_keys, ends, side="left")
        found = found.reshape(2, -1) - rows * width
        first, last = self.starts[rows, found]
        last = last - 1
        return first, last

    def select(self, neurons: Int64Array) -> StepFunction:
        """Return the step function of some of the neurons, in the order given."""
        # Everything but the rows is shared: checks and fit hold for any choice of neurons.
        chosen = object.__new__(StepFunction)
        for name in StepFunction.__slots__:
            object.__setattr__(chosen, name, getattr(self, name))
        object.__setattr__(chosen, "rows", frozen(np.ascontiguousarray(self.rows[neurons])))
        return chosen


def _fit_staircase(
    thresholds: Int64Array, values: Int64Array, bottom: Float64Array, top: Float64Array
) -> tuple[Float64Array, Float64Array, BoolArray]:
    """Fit ``value = floor(slope·acc + offset[acc >= 0])`` to each row, and say where it is exact.

    Two offsets, because roundings half away from zero mirror at zero.  The fit maximizes the margin between
    the staircase and the thresholds: the line must pass on or above ``(T, v)`` and below ``(T − 1, v)`` for
    every threshold ``T`` that reaches value ``v``.  The margin is concave in the slope, so a ternary search
    finds its maximum.  Exactness is then *tested* at both sides of every threshold and at the seam, with the
    float64 operations that evaluation uses.  Those are monotone in ``acc`` on each side of zero, so a row
    that passes is exact for every accumulator (|acc| <= 2^40 is exact in float64).

    Returns
    -------
    slope (distinct,), offset (2, distinct) for negative and for other accumulators, exact (distinct,)
    """
    real = np.abs(thresholds) < NEVER
    at = np.where(real, thresholds, 0).astype(np.float64)
    reached = values[:, 1:].astype(np.float64)
    sides = [(real & (at < 0), real & (at - 1.0 < 0)), (real & (at >= 0), real & (at - 1.0 >= 0))]

    def line(slope: Float64Array) -> list[tuple[Float64Array, Float64Array]]:
        tilted = reached - slope[:, None] * at
        return [
            (
                np.where(here, tilted, -np.inf).max(axis=1, initial=-np.inf),
                np.where(before, tilted + slope[:, None], np.inf).min(axis=1, initial=np.inf),
            )
            for here, before in sides
        ]

    def margin(slope: Float64Array) -> Float64Array:
        negative, other = (most - least for least, most in line(slope))
        return np.minimum(negative, other)

    count = real.sum(axis=1)
    span = np.where(real, at, -np.inf).max(axis=1, initial=-np.inf)
    span = span - np.where(real, at, np.inf).min(axis=1, initial=np.inf)
    guess = np.where(count > 1, (count - 1) / np.maximum(span, 1.0), 1.0)
    low, high = 0.5 * guess, 2.0 * guess
    for _ in range(90):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        better = margin(left) >= margin(right)
        high, low = np.where(better, right, high), np.where(better, low, left)
    constant = count == 0
    slope = np.where(constant, 0.0, 0.5 * (low + high))
    offset = np.empty((2, len(values)))
    for side, (lowest, highest) in enumerate(line(slope)):
        # A side without constraints of one kind stays clear of the other kind by one step.
        least = np.where(np.isfinite(lowest), lowest, highest - 1.0)
        most = np.where(np.isfinite(highest), highest, least + 1.0)
        offset[side] = np.where(np.isfinite(least), 0.5 * (least + most), np.nan)
    offset = np.where(np.isnan(offset), offset[::-1], offset)
    offset = np.where(constant, bottom, offset)

    return slope, offset, _is_staircase(thresholds, values, slope, offset, bottom, top)


def _is_staircase(
    thresholds: Int64Array,
    values: Int64Array,
    slope: npt.NDArray[np.floating],
    offset: npt.NDArray[np.floating],
    bottom: Float64Array,
    top: Float64Array,
) -> BoolArray:
    """Tell which rows are an affine staircase, as it is computed in the precision of `slope` and `offset`.

    Every operation is monotone in the accumulator on each side of zero, so what is right at both sides of every
    threshold, at the seam and at the ends is right at every accumulator that the precision holds.
    """
    precision = slope.dtype.type
    real = np.abs(thresholds) < NEVER

    def staircase(accumulator: Int64Array) -> Float64Array:
        negative, other = offset[0, :, None], offset[1, :, None]
        shift = np.where(accumulator >= 0, other, negative)
        with np.errstate(invalid="ignore", over="ignore"):
            step = np.floor(accumulator.astype(precision) * slope[:, None] + shift)
            return np.clip(step.astype(np.float64), bottom[:, None], top[:, None])

    # Beyond what the precision holds there are no accumulators; NEVER is beyond, too.
    held = 2**24 if precision is np.float32 else 2**40
    at = np.where(real & (np.abs(thresholds) < held), thresholds, 0)
    right_sides = (staircase(at) == values[:, 1:]) & (staircase(at - 1) == values[:, 1:] - 1)
    exact: BoolArray = (np.diff(values, axis=1) == 1).all(axis=1)
    exact &= (right_sides | ~(real & (np.abs(thresholds) < held))).all(axis=1)
    fixed = np.broadcast_to(np.array([[1 - held, -1, 0, held - 1]]), (len(values), 4))
    row = np.arange(len(values))[:, None]
    there = values[row, (thresholds[:, None, :] <= fixed[..., None]).sum(axis=2)]
    exact &= (staircase(fixed) == there).all(axis=1)
    return exact | ~real.any(axis=1)


def _ends(thresholds: Int64Array, values: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Return the values below the first and above the last threshold that an accumulator can meet."""
    row = np.arange(len(values))
    bottom = values[row, (thresholds == -NEVER).sum(axis=1)]
    top = values[row, values.shape[1] - 1 - (thresholds == NEVER).sum(axis=1)]
    return bottom.astype(np.float64), top.astype(np.float64)
