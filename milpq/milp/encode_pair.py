"""Rows that tie the difference of two activations to the difference in front of them.

For one kink, in quantities tilted so that it is a ReLU at zero (`milpq.milp.encode_clamp`): ``a`` the
float pre-activation with phase ``p``, ``v = a + d`` the quantized one, ``h = relu(a)``, ``z`` the
quantized activation, ``δ = z − h``, and ``c`` the phase of ``z``: where ``c = 0``, ``z`` rests at its
lowest level ``z0``.  Let

    ``z − v ≤ e₁``  where ``c = 1``,    ``z − v ≥ e₀``  everywhere,    ``z ≥ z0``,    ``dl ≤ d ≤ du``.

(For a quantized side that applies the ReLU itself, ``z0 = e₀ = e₁ = 0``.)  Then

    (A) ``δ − d ≤ e₁c + (z0 − dl)(1 − c)``        (B) ``δ − d ≥ e₀p + (z0 − du)(1 − p)``
    (C) ``δ ≤ (du + e₁)c + z0(1 − c)``            (D) ``δ ≥ (dl + e₀)p + z0(1 − p)``

Proof.  ``h ≥ a`` and ``h ≥ 0`` always, ``h = a`` where ``p = 1`` and ``h = 0`` where ``p = 0``.
``δ − d = (z − v) + (a − h)``.
(A) ``c = 1``: both summands are at most ``e₁`` and 0.  ``c = 0``: ``δ − d = z0 − h − d ≤ z0 − dl``.
(B) ``p = 1``: ``a − h = 0``.  ``p = 0``: ``δ − d = z − d ≥ z0 − du``.
(C) ``c = 1``: by (A) ``δ ≤ d + e₁``.  ``c = 0``: ``δ = z0 − h ≤ z0``.
(D) ``p = 1``: by (B) ``δ ≥ d + e₀``.  ``p = 0``: ``δ = z ≥ z0``.  ∎

The big-M of these rows is the range of the *difference*, hundreds of times smaller than those of ``a``
and ``v``.

The cuts hold for the fractional phases of the linear relaxation too.  With ``e ≤ z − relu(v) ≤ ē``:

    U1 ``δ ≤ chord of max(d, 0) + ē``                 L1 ``δ ≥ chord of min(d, 0) + e``
    U2 ``δ ≤ d − dl(1 − a/ua) + ē``  if ``ua ≥ −dl``    L2 ``δ ≥ d − du(1 − v/uv) + e``  if ``uv ≥ du``
    U3 ``δ ≤ du(1 − a/la) + ē``      if ``−la ≥ du``    L3 ``δ ≥ dl(1 − v/lv) + e``      if ``lv ≤ dl``

for ``dl ≤ 0 ≤ du``, ``la < 0 < ua`` and ``lv < 0 < uv``; each is wrong without its guard.  Proofs, for
``r = relu(a + d) − relu(a)``, with slopes that need not be the exact quotients:

U2 reads ``r ≤ d − dl + g·a`` with ``max(−1, dl/ua) ≤ g ≤ 0``.  For ``a ≥ 0``, ``r = max(d, −a)``:
``g·a ≥ g·ua ≥ dl`` gives the first, ``d ≥ dl`` and ``g ≥ −1`` the second.  For ``a ≤ 0``,
``r = max(a + d, 0)``: ``a(1 − g) ≤ 0 ≤ −dl`` gives the first, ``d ≥ dl`` and ``g·a ≥ 0`` the second.

U3 reads ``r ≤ du + g·a`` with ``0 ≤ g ≤ du/−la``.  For ``a ≥ 0``, ``r ≤ du``.  For ``a ≤ 0``,
``r ≤ relu(a + du)``, convex in ``a``: at 0 equal to ``du``, at ``la`` it is 0 by the guard, and
``du + g·la ≥ 0``.

L2 and L3 are U2 and U3 with the two sides exchanged: ``a ↔ v``, ``d ↔ −d``, ``r ↔ −r``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.outward import TINY, down, largest, up
from milpq.milp.encode_clamp import tilted
from milpq.milp.faces import Side
from milpq.milp.model import ModelBuilder


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """What the quantized activation adds to the ReLU, tilted; each array of shape (neurons,), or zero.

    Parameters
    ----------
    rest_lower, rest_upper : ``z0`` rounded down and up
    least : ``e₀``
    most_active : ``e₁``
    band_lower, band_upper : of ``z − relu(v)``
    """

    rest_lower: Float64Array
    rest_upper: Float64Array
    least: Float64Array
    most_active: Float64Array
    band_lower: Float64Array
    band_upper: Float64Array

    @classmethod
    def none(cls, size: int) -> Rounding:
        """Return the rounding of a quantized side that applies the ReLU itself."""
        zero = np.zeros(size)
        return cls(zero, zero, zero, zero, zero, zero)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The columns around one kink of neurons whose two phases are both open; each side restricted to them.

    Parameters
    ----------
    name : str
    neurons : int64
        Of the merged value.
    float_side, difference, result_difference : Side
        ``a``, ``d`` and ``δ`` (not tilted).
    quantized_lower, quantized_upper : float64
        Range of ``v``, real units.
    float_phase, quantized_phase : int64
        Columns of ``p`` and ``c``.
    """

    name: str
    neurons: Int64Array
    kink: float
    sign: int
    float_side: Side
    quantized_lower: Float64Array
    quantized_upper: Float64Array
    difference: Side
    result_difference: Side
    float_phase: Int64Array
    quantized_phase: Int64Array


def add_pair_rows(builder: ModelBuilder, pair: Pair, rounding: Rounding) -> None:
    """Add the rows (A) to (D).

    *Soundness:* the coefficient of a binary is rounded so that both of its values give a valid row.
    """
    dl, du = tilted(pair.sign, 0.0, pair.difference.lower, pair.difference.upper)
    delta, d, sign = pair.result_difference.columns, pair.difference.columns, float(pair.sign)
    p, c = pair.float_phase, pair.quantized_phase
    low, high = rounding.rest_lower, rounding.rest_upper
    apart = [(delta, sign), (d, -sign)]
    slope = up(rounding.most_active + dl - low, 2)
    name, neurons = pair.name, pair.neurons
    builder.add_rows([*apart, (c, -slope)], -np.inf, up(high - dl), name=f"{name}/A", neurons=neurons)
    slope = down(rounding.least + du - high, 2)
    builder.add_rows([*apart, (p, -slope)], down(low - du), np.inf, name=f"{name}/B", neurons=neurons)
    slope = up(du + rounding.most_active - low, 2)
    builder.add_rows([(delta, sign), (c, -slope)], -np.inf, high, name=f"{name}/C", neurons=neurons)
    slope = down(dl + rounding.least - high, 2)
    builder.add_rows([(delta, sign), (p, -slope)], low, np.inf, name=f"{name}/D", neurons=neurons)


def add_cuts(builder: ModelBuilder, pair: Pair, rounding: Rounding) -> None:
    """Add the cuts U1 to U3 and L1 to L3 where their guards allow."""
    dl, du = tilted(pair.sign, 0.0, pair.difference.lower, pair.difference.upper)
    al, au = tilted(pair.sign, pair.kink, pair.float_side.lower, pair.float_side.upper)
    vl, vu = tilted(pair.sign, pair.kink, pair.quantized_lower, pair.quantized_upper)
    _add_chords(builder, pair, rounding, dl, du)
    straddles = (dl <= 0) & (du >= 0)
    _add_cut(
        builder, pair, _slope_u2(dl, au), straddles & (au > 0) & (au >= -dl), 1.0, -dl, rounding.band_upper
    )
    _add_cut(
        builder, pair, _slope_u3(du, al), straddles & (al < 0) & (-al >= du), 0.0, du, rounding.band_upper
    )
    # The lower cuts, as cuts on −δ in terms of v = a + d and −d.
    _add_cut(
        builder,
        pair,
        _slope_u2(-du, vu),
        straddles & (vu > 0) & (vu >= du),
        1.0,
        du,
        -rounding.band_lower,
        lower=True,
    )
    _add_cut(
        builder,
        pair,
        _slope_u3(-dl, vl),
        straddles & (vl < 0) & (-vl >= -dl),
        0.0,
        -dl,
        -rounding.band_lower,
        lower=True,
    )


def _slope_u2(dl: Float64Array, ua: Float64Array) -> Float64Array:
    """Return ``dl/ua`` rounded up, at most 0."""
    return np.minimum(up(dl / np.where(ua > 0, ua, 1.0)), 0.0)


def _slope_u3(du: Float64Array, la: Float64Array) -> Float64Array:
    """Return ``du/−la`` rounded down, at least 0."""
    return np.maximum(down(du / np.where(la < 0, -la, 1.0)), 0.0)


def _add_chords(
    builder: ModelBuilder, pair: Pair, rounding: Rounding, dl: Float64Array, du: Float64Array
) -> None:
    """Add U1 and L1: lines of any slope in [0, 1], with the offset that makes them valid at both ends.

    ``max(d, 0) − m·d`` is convex, so its largest value lies at an end of the range of ``d``; L1 likewise.
    """
    sign = float(pair.sign)
    delta, d = pair.result_difference.columns, pair.difference.columns
    width = np.where(du > dl, du - dl, 1.0)
    upper_slope = np.clip(du / width, 0.0, 1.0)
    offset = np.maximum(
        up(np.maximum(dl, 0.0) - upper_slope * dl, 2), up(np.maximum(du, 0.0) - upper_slope * du, 2)
    )
    side = up(offset + rounding.band_upper)
    builder.add_rows(
        [(delta, sign), (d, -sign * upper_slope)],
        -np.inf,
        side + _rest(dl, du),
        name=f"{pair.name}/U1",
        neurons=pair.neurons,
    )
    lower_slope = np.clip(-dl / width, 0.0, 1.0)
    offset = np.minimum(
        down(np.minimum(dl, 0.0) - lower_slope * dl, 2), down(np.minimum(du, 0.0) - lower_slope * du, 2)
    )
    side = down(offset + rounding.band_lower)
    builder.add_rows(
        [(delta, sign), (d, -sign * lower_slope)],
        side - _rest(dl, du),
        np.inf,
        name=f"{pair.name}/L1",
        neurons=pair.neurons,
    )


def _rest(dl: Float64Array, du: Float64Array) -> Float64Array:
    """Return a slack above four roundings of a product of the difference and a slope of at most one."""
    return 2.0**-50 * largest(dl, du) + TINY


def _add_cut(
    builder: ModelBuilder,
    pair: Pair,
    slope: Float64Array,
    valid: BoolArray,
    whole: float,
    offset: Float64Array,
    band: Float64Array,
    *,
    lower: bool = False,
) -> None:
    """Add ``r ≤ whole·d + offset + slope·a + band`` and the rounding.

    With `lower`, ``−r ≤ −whole·d + offset + slope·v + band``.

    Parameters
    ----------
    whole : 1 for U2 and L2, 0 for U3 and L3
    valid : where the guard holds
    """
    at = np.flatnonzero(valid)
    if not len(at):
        return
    sign, kink = float(pair.sign), pair.kink
    slope, offset, band = slope[at], offset[at], band[at]
    delta, d, a = (side.columns[at] for side in (pair.result_difference, pair.difference, pair.float_side))
    # Tilted, x̃ = sign·(x − kink); slope·kink goes to the right-hand side, ṽ = ã + d̃.
    shift = slope * sign * kink
    weight = slope - whole if lower else np.full(len(at), whole)
    size = largest(pair.difference.lower[at], pair.difference.upper[at])
    slack = 2.0**-50 * (np.abs(shift) + np.abs(offset) + np.abs(band) + size * (1.0 + np.abs(slope))) + TINY
    builder.add_rows(
        [(delta, -sign if lower else sign), (d, -sign * weight), (a, -sign * slope)],
        -np.inf,
        offset + band - shift + slack,
        name=f"{pair.name}/{'L' if lower else 'U'}{2 if abs(whole) == 1.0 else 3}",
        neurons=pair.neurons[at],
    )
