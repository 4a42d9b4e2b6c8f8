"""The input quantizer: from real inputs to codes, exactly as a runtime's QUANTIZE operator does it.

Runtimes differ on ties and near them, so the rule is a component of its own.  Whatever the rule, the
quantizer of one input is a nondecreasing step function of a real number, and a row of real thresholds
describes it completely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.errors import InvalidNetworkError, RegionError, TargetError
from milpq.rounding.arithmetic import Float32Array, float32_fused, round_half_away

Rule: TypeAlias = Callable[[Float32Array, Float32Array, int], Float32Array]
"""float32 inputs, float32 scales and the zero point to integer-valued float32 levels, not yet clipped."""


def _half_away(value: Float32Array, scale: Float32Array, zero_point: int) -> Float32Array:
    del zero_point
    return round_half_away(value / scale)


def _rint_div(value: Float32Array, scale: Float32Array, zero_point: int) -> Float32Array:
    del zero_point
    return np.rint(value / scale)


def _rint_mul(value: Float32Array, scale: Float32Array, zero_point: int) -> Float32Array:
    del zero_point
    return np.rint(value * (np.float32(1) / scale))


def _rint_fma(value: Float32Array, scale: Float32Array, zero_point: int) -> Float32Array:
    return np.rint(float32_fused(value, np.float32(1) / scale, zero_point)) - np.float32(zero_point)


def _floor_div(value: Float32Array, scale: Float32Array, zero_point: int) -> Float32Array:
    del zero_point
    return np.floor(value / scale)


RULES: Final[dict[str, Rule]] = {
    "half-away": _half_away,
    "rint-div": _rint_div,
    "rint-mul": _rint_mul,
    "rint-fma": _rint_fma,
    "floor-div": _floor_div,
}
"""The rounding rules, all in float32 as the runtimes compute:

half-away
    ``round(x / s)``, halves away from zero (TFLite's reference kernels, TensorFlow Lite Micro).
rint-div
    ``rint(x / s)``, halves to even (ONNX Runtime).
rint-mul
    ``rint(x · (1 / s))``, halves to even (XNNPACK; TFLite's optimized kernels on x86).
rint-fma
    ``rint(x · (1 / s) + z) − z`` with one rounding before ``rint``, so that a half goes to the even *code*
    (torch with FBGEMM's vector code).
floor-div
    ``floor(x / s)`` (programs that truncate).
"""

REACH = 2.0**30
"""Level at which inputs begin to be refused: from 2^31 on, TFLite's conversion to int32 wraps."""

_LARGEST_KEY = int(np.array(np.finfo(np.float32).max).view(np.int32))


@dataclass(frozen=True, slots=True, eq=False)
class InputQuantizer:
    """The step function from each real input to its *level*: code minus zero point.

    A real input is first rounded to the nearest float32, ties to even, because that is what the runtime is
    handed; the float32 rule follows.  The level of input ``i`` is therefore ``level_lower`` plus the number
    of float32 values among the steps of row ``i`` that the rounded input reaches.  In real numbers, each step
    lies halfway between two neighbouring float32 values: that midpoint is the threshold.

    Parameters
    ----------
    thresholds : float64, shape (inputs, codes − 1), real units
        Nondecreasing along the last axis.  A real input above the threshold is on the upper side, one below
        it on the lower side; the midpoint itself goes where the even float32 lies, so both closed sides are
        sound to assume.  ``-inf`` and ``inf`` where every or no float32 reaches the level.
    level_lower : int
        Smallest level: smallest code minus zero point.
    reach : float64, shape (inputs,), real units, optional
        Largest magnitude of an input for which the thresholds hold; every input when omitted.

    Raises
    ------
    InvalidNetworkError
        A finite threshold is not the midpoint of neighbouring float32 values, or rows are not sorted.
    """

    thresholds: Float64Array
    level_lower: int
    reach: Float64Array | None = None
    _tables: tuple[Float64Array, ...] = field(init=False, repr=False)
    _members: tuple[Int64Array, ...] = field(init=False, repr=False)
    _rows: Int64Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        thresholds = frozen(np.array(self.thresholds, dtype=np.float64))
        if thresholds.ndim != 2:
            raise InvalidNetworkError(f"input quantizer: thresholds must be 2-d, not {thresholds.shape}")
        if np.isnan(thresholds).any() or (thresholds[:, 1:] < thresholds[:, :-1]).any():
            raise InvalidNetworkError("input quantizer: thresholds must be numbers in nondecreasing order")
        distinct, rows = np.unique(thresholds, axis=0, return_inverse=True)
        rows = rows.reshape(-1).astype(np.int64)
        first = _first_float32_above(distinct)
        if self.reach is not None:
            reach = frozen(np.array(self.reach, dtype=np.float64))
            if reach.shape != thresholds.shape[:1] or not (reach > 0).all():
                raise InvalidNetworkError("input quantizer: reach must be positive and have shape (inputs,)")
            object.__setattr__(self, "reach", reach)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "_tables", tuple(frozen(row.copy()) for row in first))
        object.__setattr__(self, "_members", tuple(np.flatnonzero(rows == row) for row in range(len(first))))
        object.__setattr__(self, "_rows", frozen(rows))

    @classmethod
    def from_rule(
        cls, rule: str, scale: Float64Array, zero_point: Int64Array, code_lower: int, code_upper: int
    ) -> InputQuantizer:
        """Find the thresholds of a rounding rule by bisection over all float32 values.

        Parameters
        ----------
        rule : a key of `RULES`
        scale : float64 holding float32 values, shape (inputs,)
        zero_point : int64, shape (inputs,), in codes
            All equal: levels share one `level_lower`.
        code_lower, code_upper : int
            The codes the runtime saturates at.

        Raises
        ------
        TargetError
            Unknown rule.
        InvalidNetworkError
            Scales that are not positive normal float32 values, or zero points that differ.
        """
        if rule not in RULES:
            raise TargetError(f"input quantizer: {rule!r} is none of the rules {', '.join(RULES)}")
        scale = np.asarray(scale, dtype=np.float64)
        zero_point = np.asarray(zero_point, dtype=np.int64)
        if scale.ndim != 1 or not scale.size or zero_point.shape != scale.shape:
            raise InvalidNetworkError(
                f"input quantizer: scale {scale.shape}, zero point {zero_point.shape} are not one per input"
            )
        narrow = scale.astype(np.float32)
        if not (np.isfinite(narrow) & (narrow >= np.finfo(np.float32).tiny) & (narrow == scale)).all():
            raise InvalidNetworkError("input quantizer: a scale is not a positive normal float32 value")
        if (zero_point != zero_point[0]).any():
            raise InvalidNetworkError("input quantizer: the inputs have different zero points; give them one")
        if code_lower >= code_upper:
            raise InvalidNetworkError(f"input quantizer: codes {code_lower} to {code_upper} leave no step")
        level_lower = code_lower - int(zero_point[0])
        levels = np.arange(level_lower + 1, code_upper - int(zero_point[0]) + 1, dtype=np.int64)
        distinct, rows = np.unique(narrow, return_inverse=True)
        thresholds = _bisect(RULES[rule], distinct, int(zero_point[0]), levels)
        return cls(thresholds[rows], level_lower, scale * REACH)

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return len(self.thresholds)

    @property
    def level_upper(self) -> int:
        """Largest level."""
        return self.level_lower + self.thresholds.shape[1]

    @property
    def tables(self) -> tuple[Float64Array, Int64Array]:
        """First float32 number of each level but the lowest, shape (distinct, codes − 1), and each input's row."""
        return np.stack(self._tables), self._rows

    def check_reach(self, x: Float64Array) -> None:
        """Raise a `RegionError` if an input is NaN or beyond `reach`."""
        reach = np.float64(np.inf) if self.reach is None else self.reach
        # Written so that NaN fails it.
        if not (np.abs(x) <= reach).all():
            raise RegionError(
                f"an input is NaN or more than 2^{int(np.log2(REACH))} times its scale, where runtimes wrap; "
                "narrow the input region"
            )

    def __call__(self, x: Float64Array) -> Int64Array:
        """Return the levels of real inputs, shape (..., inputs), exactly.

        Raises
        ------
        RegionError
            An input is NaN or beyond `reach`.
        """
        x = np.asarray(x, dtype=np.float64)
        self.check_reach(x)
        with np.errstate(over="ignore"):
            narrow = x.astype(np.float32).astype(np.float64)
        if len(self._tables) == 1:
            return np.searchsorted(self._tables[0], narrow, side="right") + self.level_lower
        levels = np.empty(x.shape, dtype=np.int64)
        for table, members in zip(self._tables, self._members, strict=True):
            levels[..., members] = np.searchsorted(table, narrow[..., members], side="right")
        return levels + self.level_lower

    def cell(self, levels: Int64Array) -> tuple[Float64Array, Float64Array]:
        """Return the closed interval that contains every real input with these levels.

        Parameters
        ----------
        levels : int64, shape (..., inputs)

        Returns
        -------
        lower, upper : float64, shape (..., inputs), real units
            ``∓inf`` at the end levels.  A level no float32 takes has an empty or degenerate interval.

        Raises
        ------
        RegionError
            A level is out of range.
        """
        index = np.asarray(levels, dtype=np.int64) - self.level_lower
        steps = self.thresholds.shape[1]
        if (index < 0).any() or (index > steps).any():
            raise RegionError(f"an input level lies outside [{self.level_lower}, {self.level_upper}]")
        ends = np.full((self.inputs, 1), np.inf)
        padded = np.concatenate((-ends, self.thresholds, ends), axis=1)
        column = np.arange(self.inputs)
        return padded[column, index], padded[column, index + 1]

    def level_range(self, lower: Float64Array, upper: Float64Array) -> tuple[Int64Array, Int64Array]:
        """Return the smallest and largest level of the real inputs in [lower, upper], shape (..., inputs)."""
        return self(lower), self(upper)


def _bisect(rule: Rule, scales: Float32Array, zero_point: int, levels: Int64Array) -> Float64Array:
    """Return the real thresholds of each scale and level, shape (scales, levels)."""
    shape = (len(scales), len(levels))
    low = np.full(shape, -_LARGEST_KEY - 1, dtype=np.int64)
    high = np.full(shape, _LARGEST_KEY + 1, dtype=np.int64)
    column = scales[:, None]
    # Keys number the float32 values in order.  Invariant: the level is reached at `high` and not at `low`.
    while (high - low > 1).any():
        # Rows that are done ask their upper end again, which changes nothing.
        middle = (low + high + 1) >> 1
        with np.errstate(over="ignore", under="ignore"):
            reached = rule(_float32_of_key(middle), column, zero_point) >= levels
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    thresholds = 0.5 * (_float32_of_key(low).astype(np.float64) + _float32_of_key(high).astype(np.float64))
    thresholds[high == -_LARGEST_KEY] = -np.inf
    thresholds[high == _LARGEST_KEY + 1] = np.inf
    return thresholds


def _float32_of_key(key: Int64Array) -> Float32Array:
    """Return the float32 value with an order number: bit pattern and its negative for negative values."""
    magnitude = np.minimum(np.abs(key), _LARGEST_KEY).astype(np.int32).view(np.float32)
    return np.where(key < 0, -magnitude, magnitude)


def _first_float32_above(thresholds: Float64Array) -> Float64Array:
    """Return the float32 value right above each midpoint; ``∓inf`` stay."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
        above = np.where(nearest > thresholds, nearest, np.nextafter(nearest, np.float32(np.inf)))
        below = np.nextafter(above, np.float32(-np.inf))
    middle = 0.5 * (above.astype(np.float64) + below.astype(np.float64))
    finite = np.isfinite(thresholds)
    if (middle != thresholds)[finite].any():
        raise InvalidNetworkError(
            "input quantizer: a threshold is not halfway between neighbouring float32 values; "
            "build the quantizer from a rule"
        )
    return np.where(finite, above.astype(np.float64), thresholds)
