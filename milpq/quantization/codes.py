"""Scales, zero points and code ranges: of activations from a range, of weights from a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError
from milpq.network.curves import SIGMOID, Curve
from milpq.rounding.kernels import Quantization
from milpq.rounding.requantization import CodeRange

_SMALLEST_SCALE = 2.0**-100
_LARGEST_SCALE = 2.0**100
"""Scales stay well inside float32, so that runtimes can multiply and divide them."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A code stands for ``scale · (code − zero_point)``.

    Parameters
    ----------
    scale : float32 value, held as float
    zero_point, lower, upper : int
        In codes.
    """

    bits: int
    scale: float
    zero_point: int
    lower: int
    upper: int

    @property
    def quantization(self) -> Quantization:
        """The codes as kernels take them."""
        return Quantization(self.scale, self.zero_point, CodeRange(self.lower, self.upper))

    def squared_error(self, values: Float64Array) -> float:
        """Return the mean squared error of coding these values, real units squared."""
        codes = np.clip(np.rint(values / self.scale) + self.zero_point, self.lower, self.upper)
        return float(np.square(self.scale * (codes - self.zero_point) - values).mean())

    def code(self, real: float) -> int:
        """Return the code of a real number, saturated; halves away from zero, in float32, as TFLite does."""
        if np.isinf(real):
            return self.upper if real > 0 else self.lower
        level = float(np.float32(real) / np.float32(self.scale))
        whole = np.trunc(level) + np.copysign(abs(level - np.trunc(level)) >= 0.5, level)
        return int(min(max(whole + self.zero_point, self.lower), self.upper))


def activation_codes(
    low: float, high: float, bits: int, *, symmetric: bool, power_of_two: bool, name: str
) -> Codes:
    """Return the codes that cover a range of real values and 0.

    Parameters
    ----------
    low, high : float
        Ends of the range, in any order with 0.  An empty range (only 0) gets the scale 1.

    Raises
    ------
    InvalidNetworkError
        The range is so wide that no float32 scale covers it.
    """
    lower, upper = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return Codes(bits, 1.0, 0, lower, upper)
    step = max(low / lower, high / upper) if symmetric else (high - low) / (upper - lower)
    scale = _float32_scale(step, power_of_two=power_of_two, name=name)
    zero_point = 0 if symmetric else min(max(round(lower - low / scale), lower), upper)
    return Codes(bits, scale, zero_point, lower, upper)


def curve_codes(curve: Curve, bits: int) -> Codes:
    """Return the codes that the kernels of a sigmoid or tanh give; with 8 bits those of the int8 specification."""
    lower, upper = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if curve == SIGMOID:
        return Codes(bits, 2.0**-bits, lower, lower, upper)
    return Codes(bits, 2.0 ** (1 - bits), 0, lower, upper)


def weight_levels(
    matrix: Matrix,
    bits: int,
    channel: Int64Array,
    *,
    symmetric: bool,
    power_of_two: bool,
    name: str,
) -> tuple[Matrix, Float64Array]:
    """Return the weight codes minus their zero point, and their scales.

    Parameters
    ----------
    channel : int64, shape (neurons,)
        Which scale each neuron has; all 0 for one scale.

    Returns
    -------
    levels : matrix of integers, shape (neurons, inputs)
        ``|matrix − scale·levels| <= scale/2`` everywhere.  With `symmetric`, within ``±(2^(bits−1) − 1)``;
        otherwise the levels of a channel span at most ``2^bits − 1`` and include 0.
    scales : float64 holding float32 values, shape (channels,)
        1 for a channel of zeros.
    """
    low, high = (
        -_largest(-matrix, channel),
        _largest(matrix, channel),
    )
    limit = 2 ** (bits - 1) - 1
    steps = np.maximum(-low, high) / limit if symmetric else (high - low) / (2**bits - 1)
    scales = np.array([
        _float32_scale(float(step), power_of_two=power_of_two, name=name, upward=not symmetric)
        if step > 0.0
        else 1.0
        for step in steps
    ])  # fmt: skip
    rows = scales[channel]
    if symmetric:
        first, last = np.full(len(rows), -float(limit)), np.full(len(rows), float(limit))
    else:
        # The zero point is an integer, so the levels span a window of integers around the range.
        first = np.rint(low / scales)[channel]
        last = first + (2**bits - 1)
    if isinstance(matrix, np.ndarray):
        levels: Matrix = np.clip(np.rint(matrix / rows[:, None]), first[:, None], last[:, None])
    else:
        in_row = np.diff(matrix.indptr)
        levels = matrix.copy()
        levels.data = np.clip(
            np.rint(matrix.data / np.repeat(rows, in_row)), np.repeat(first, in_row), np.repeat(last, in_row)
        )
    return levels, scales


def bias_levels(bias: Float64Array, unit: Float64Array) -> Int64Array:
    """Return biases in accumulator units, shape (neurons,), each within half a unit.

    Values beyond 2^62 are cut off there; such accumulators are refused later by name.
    """
    return np.clip(np.rint(bias / unit), -(2.0**62), 2.0**62).astype(np.int64)


def _largest(matrix: Matrix, channel: Int64Array) -> Float64Array:
    """Return the largest weight of each channel, at least 0, shape (channels,)."""
    if isinstance(matrix, np.ndarray):
        rows = matrix.max(axis=1, initial=0.0)
    else:
        rows = np.asarray(matrix.max(axis=1).toarray(), dtype=np.float64).ravel()
    found = np.zeros(int(channel.max()) + 1)
    np.maximum.at(found, channel, rows)
    return found


def _float32_scale(step: float, *, power_of_two: bool, name: str, upward: bool = False) -> float:
    """Return the scale for a step above 0: the nearest float32, or the power of two from it upwards."""
    if power_of_two:
        fraction, exponent = np.frexp(step)
        scale = float(np.ldexp(1.0, int(exponent) - (fraction == 0.5)))
    else:
        with np.errstate(over="ignore"):
            nearest = np.float32(step)
        if upward and float(nearest) < step:
            nearest = np.nextafter(nearest, np.float32(np.inf))
        scale = float(nearest)
    if not scale <= _LARGEST_SCALE:
        raise InvalidNetworkError(
            f"layer {name!r}: its values need a scale of {step:g}, which runtimes cannot multiply in float32"
        )
    return max(scale, _SMALLEST_SCALE)
