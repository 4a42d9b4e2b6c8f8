"""Float activations as rows: a clamp is at most two kinks in a row, each a ReLU up to sign and shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.outward import down, up
from milpq.milp.faces import Part, Side, meet, narrow_to
from milpq.milp.model import ModelBuilder

Face: TypeAlias = Literal["float", "quantized"]


@dataclass(frozen=True, slots=True, eq=False)
class Kink:
    """``y = kink + sign·relu(sign·(x − kink))``: ``max(x, kink)`` for sign 1, ``min(x, kink)`` for sign −1.

    Parameters
    ----------
    source, result : Side
        The result shares the column of its source where the kink is out of reach (`active`).
    phase : int64, shape (neurons,)
        The binary column that is 1 on the sloped part; −1 where the phase is known.
    active : bool, shape (neurons,)
        Only the sloped part is reachable.
    face : Face
        Which side of the merged value it is on.
    """

    kink: float
    sign: int
    source: Side
    result: Side
    phase: Int64Array
    active: BoolArray
    face: Face

    @property
    def unstable(self) -> BoolArray:
        """Where both parts are reachable, shape (neurons,)."""
        return self.phase >= 0

    def fill(self, point: Float64Array) -> None:
        """Clamp."""
        value = point[self.source.columns]
        point[self.result.columns] = (
            np.maximum(value, self.kink) if self.sign > 0 else np.minimum(value, self.kink)
        )
        open_ = np.flatnonzero(self.unstable)
        point[self.phase[open_]] = self.sign * (value[open_] - self.kink) > 0

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Clamp the bounds; on either side of the kink, the phase is known."""
        source, clamp = self.source.columns, np.maximum if self.sign > 0 else np.minimum
        narrow_to(
            lower,
            upper,
            self.result.columns,
            clamp(lower[source], self.kink),
            clamp(upper[source], self.kink),
        )
        open_ = np.flatnonzero(self.unstable)
        source = source[open_]
        sloped, flat = lower[source] >= self.kink, upper[source] <= self.kink
        if self.sign < 0:
            sloped, flat = flat, sloped
        # At the kink itself both phases are points of the model.
        narrow_to(lower, upper, self.phase[open_], sloped, ~flat | sloped)


def tilted(
    sign: int, kink: float, lower: Float64Array, upper: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the range of ``sign·(x − kink)``, rounded outwards (exact for kink 0)."""
    if sign < 0:
        lower, upper = -upper, -lower
    if kink == 0.0:
        return lower, upper
    return down(lower - sign * kink), up(upper - sign * kink)


def add_kink(
    builder: ModelBuilder,
    parts: list[Part],
    name: str,
    face: Face,
    source: Side,
    kink: float,
    sign: int,
    known: tuple[Float64Array, Float64Array] | None,
) -> Kink:
    """Add the columns and rows of one kink.

    With ``x̃ = sign·(x − kink)`` in ``[l, u]`` and the phase ``p``, in tilted quantities:
    ``ỹ ≥ x̃``, ``ỹ ≥ 0``, ``ỹ ≤ x̃ − l(1 − p)``, ``ỹ ≤ u·p``.

    Parameters
    ----------
    known : (lower, upper), optional
        Bounds on the result, each of shape (neurons,).
    """
    extreme = np.maximum if sign > 0 else np.minimum
    lower, upper = extreme(source.lower, kink), extreme(source.upper, kink)
    if known is not None:
        lower, upper = meet(name, (lower, upper), known)
    active = source.lower >= kink if sign > 0 else source.upper <= kink
    dead = ~active & (source.upper <= kink if sign > 0 else source.lower >= kink)
    columns = source.columns.copy()
    phase = np.full(source.size, -1, dtype=np.int64)
    fresh = np.flatnonzero(~active)
    if len(fresh):
        columns[fresh] = builder.add_columns(lower[fresh], upper[fresh], count=len(fresh), name=name)
    open_ = np.flatnonzero(~active & ~dead)
    if len(open_):
        phase[open_] = builder.add_columns(0.0, 1.0, count=len(open_), integer=True, name=f"{name}/phase")
        low, high = tilted(sign, kink, source.lower[open_], source.upper[open_])
        x, y, p = source.columns[open_], columns[open_], phase[open_]
        for kind, terms, row_lower, row_upper in (
            ("above", [(y, sign), (x, -sign)], 0.0, np.inf),
            ("sloped", [(y, sign), (x, -sign), (p, -low)], -np.inf, -low),
            ("flat", [(y, sign), (p, -high)], -np.inf, sign * kink),
        ):
            builder.add_rows(terms, row_lower, row_upper, name=f"{name}/{kind}", neurons=open_)
    result = Kink(kink, sign, source, Side(columns, lower, upper), phase, active, face)
    parts.append(result)
    return result


def add_clamp(
    builder: ModelBuilder,
    parts: list[Part],
    name: str,
    face: Face,
    source: Side,
    lower: float,
    upper: float,
    known: tuple[Float64Array, Float64Array],
) -> tuple[Side, list[Kink]]:
    """Add ``min(max(x, lower), upper)`` as the kinks at its finite ends, the lower one first.

    Parameters
    ----------
    known : (lower, upper), float64, shape (neurons,)
        Bounds on the result.
    """
    ends = [(end, sign) for end, sign in ((lower, 1), (upper, -1)) if np.isfinite(end)]
    kinks: list[Kink] = []
    side = source
    for index, (end, sign) in enumerate(ends):
        last = index == len(ends) - 1
        kinks.append(
            add_kink(
                builder, parts, f"{name}/{face}/kink{index}", face, side, end, sign, known if last else None
            )
        )
        side = kinks[-1].result
    return side, kinks
