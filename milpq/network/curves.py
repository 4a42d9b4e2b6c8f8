"""Sigmoid and tanh: near values in float64, and enclosures of any precision.

Both are one curve, ``f(x) = centre + amplitude·tanh(rate·x/2)``: odd around its centre, convex below 0, concave
above, steepest at 0.  With ``t = e^(−rate·|x|)`` it is ``centre ± amplitude·(1 − t)/(1 + t)``, and its slope is
``2·amplitude·rate·t/(1 + t)²``; amplitude and rate are powers of two, which multiply exactly.

The exponential is computed here, in additions, multiplications and divisions that IEEE 754 rounds correctly, so
that no bound depends on a C library.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from milpq._arrays import Float64Array

CURVE_ERROR = 2.0**-50
"""How far `Curve.value`, `Curve.odd` and `Curve.slope` can be from what they stand for.

*Proof.* With ``u = 2^-53``: of ``x' = −rate·|x|``, clipped to −40 (which moves ``t`` by less than ``e^-40 < u/20``),
``k·ln 2`` is taken off in two parts, ``k = rint(x'·log₂e)``.  The first part has 32 significant bits, so its product
with ``|k| <= 58`` is exact.  The two differences are below 0.36 and err by ``0.36u`` each; what the second part and
its product are short of is below ``2^-24·u``.  So the remainder ``r``, ``|r| < 0.35``, errs by less than ``0.75u``,
and ``e^r`` with it.  The Taylor polynomial of degree 13 leaves out less than ``0.35^14/14!·1.5 < 0.08u``.  Horner's
rule ends in ``1 + r·(1 + r·q)`` with ``|r·q| < 0.23``: the inner sum errs by at most ``1.23u + 0.23u + 0.1u``, its
product with ``r`` by at most ``0.35·1.56u + 0.43u``, the last sum by ``u·e^r``, all of it less than ``2u + u·e^r``:
below ``4u`` relatively, as ``e^r > 0.7``.  The product with ``2^k`` is exact.  So ``t`` is known within ``6u·t``.

``w = (1 − t)/(1 + t)`` has ``|dw/dt|·t = 2t/(1 + t)² <= 1/2``: it errs by ``3u`` and three roundings, below ``6u``; the
amplitude is at most 1 and the centre's sum adds ``u``.  The slope is at most ``4·t/(1 + t)²`` and
``t·|d/dt (t/(1 + t)²)| < 0.1``: it errs by ``2.4u`` and five roundings of a number at most 1.  All of this is below
``8u = 2^-50``.
"""

FARTHEST = 40.0
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.6931471803691238
"""The first 32 bits of ln 2 (those of fdlibm)."""
LN2_LOW = 1.9082149292705877e-10
TAYLOR = tuple(
    1.0 / float(n)
    for n in (6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2)
)

_BITS = 192
_HALVINGS = 16
_FAR = 250


@dataclass(frozen=True, slots=True)
class Curve:
    """A smooth activation.

    Parameters
    ----------
    name : str
        ``sigmoid`` or ``tanh``.
    centre, amplitude, rate : float
        ``centre + amplitude·tanh(rate·x/2)``.
    """

    name: str
    centre: float
    amplitude: float
    rate: float

    @property
    def lower(self) -> float:
        """What all values lie above."""
        return self.centre - self.amplitude

    @property
    def upper(self) -> float:
        """What all values lie below."""
        return self.centre + self.amplitude

    @property
    def steepest(self) -> float:
        """The slope at 0, which is the largest."""
        return 0.5 * self.amplitude * self.rate

    def odd(self, x: Float64Array) -> Float64Array:
        """Return ``f(x) − centre`` within `CURVE_ERROR`; exactly odd, and within the amplitude."""
        t = _exponential(self.rate * np.minimum(np.abs(x), FARTHEST))
        return np.copysign(self.amplitude * ((1.0 - t) / (1.0 + t)), x)

    def value(self, x: Float64Array) -> Float64Array:
        """Return ``f(x)`` within `CURVE_ERROR`."""
        return self.centre + self.odd(x)

    def slope(self, x: Float64Array) -> Float64Array:
        """Return ``f'(x)`` within `CURVE_ERROR`; exactly even."""
        t = _exponential(self.rate * np.minimum(np.abs(x), FARTHEST))
        return 2.0 * self.amplitude * self.rate * (t / ((1.0 + t) * (1.0 + t)))

    def slopes(self, lower: Float64Array, upper: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return bounds on the slope over intervals: the slope falls with the distance from 0."""
        nearest = np.maximum(np.maximum(lower, -upper), 0.0)
        farthest = np.maximum(-lower, upper)
        least, most = self.slope(farthest) - CURVE_ERROR, self.slope(nearest) + CURVE_ERROR
        return np.maximum(least, 0.0), np.minimum(most, self.steepest)

    def touching(self, slope: Float64Array) -> Float64Array:
        """Return about where the curve has a slope, on the side above 0; a hint, not a bound."""
        # With w = (1 − t)/(1 + t), the slope is steepest·(1 − w²).
        w = np.sqrt(np.clip(1.0 - slope / self.steepest, 0.0, 1.0 - 2.0**-52))
        return np.log1p(2.0 * w / (1.0 - w)) / self.rate

    def enclose(self, lower: Fraction, upper: Fraction) -> tuple[Fraction, Fraction]:
        """Return numbers at most ``f(lower)`` and at least ``f(upper)``, about 50 decimals apart from them."""
        return self._end(lower, below=True), self._end(upper, below=False)

    def _end(self, x: Fraction, *, below: bool) -> Fraction:
        least, most = _enclose_exponential(abs(x) * Fraction(self.rate))
        one = 1 << _BITS
        # (1 − t)/(1 + t) falls in t.
        t, down = (most, True) if below == (x >= 0) else (least, False)
        quotient = ((one - t) << _BITS) // (one + t)
        if not down:
            quotient += 1
        sign = 1 if x >= 0 else -1
        return Fraction(self.centre) + sign * Fraction(self.amplitude) * Fraction(quotient, one)


SIGMOID = Curve("sigmoid", 0.5, 0.5, 1.0)
TANH = Curve("tanh", 0.0, 1.0, 2.0)

CURVES = {curve.name: curve for curve in (SIGMOID, TANH)}


def _exponential(y: Float64Array) -> Float64Array:
    """Return ``e^−y`` of ``y >= 0``; see `CURVE_ERROR`.  NaN stays NaN."""
    x = -np.minimum(y, FARTHEST)
    k = np.rint(x * LOG2_E)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    total = np.full_like(r, TAYLOR[0])
    for coefficient in TAYLOR[1:]:
        total *= r
        total += coefficient
    # Degrees 1 and 0.
    total *= r
    total += 1.0
    total *= r
    total += 1.0
    with np.errstate(invalid="ignore"):
        return np.ldexp(total, k.astype(np.int64))


def _enclose_exponential(y: Fraction) -> tuple[int, int]:
    """Return integers around ``e^−y · 2^_BITS`` for ``y >= 0``.

    ``e^−y = (e^(−y/2^h))^(2^h)``; the inner one by its alternating series, whose terms fall, so that the first left
    out bounds the rest.
    """
    if y > _FAR:
        # 2^-360 < e^-250.
        return 0, 1 << max(_BITS - 360, 0)
    scaled = y * Fraction(1 << (_BITS - _HALVINGS))
    first = scaled.numerator // scaled.denominator
    last = first if scaled.denominator == 1 else first + 1
    least, most = _series(last)[0], _series(first)[1]
    for _ in range(_HALVINGS):
        least = (least * least) >> _BITS
        most = -((-most * most) >> _BITS)
    return least, most


@cache
def _series(y: int) -> tuple[int, int]:
    """Return integers around ``e^−y``, both scaled by ``2^_BITS``, for ``0 <= y < 2^(_BITS − 8)``."""
    least = most = low = high = 1 << _BITS
    sign, n = -1, 1
    while high > 1:
        low = low * y // (n << _BITS)
        high = -((-high * y) // (n << _BITS))
        least += sign * (high if sign < 0 else low)
        most += sign * (low if sign < 0 else high)
        sign, n = -sign, n + 1
    return least - high, most + high
