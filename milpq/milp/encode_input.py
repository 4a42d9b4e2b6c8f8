"""The input of both networks as columns: shared, on codes, or real values behind a quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array
from milpq.bounds.outward import TINY, largest
from milpq.bounds.values import ValueBounds
from milpq.merge.domain import Cubes, Domain
from milpq.milp.faces import Faces, Part, Side, add_difference, meet, narrow_to, scattered
from milpq.milp.model import ModelBuilder


@dataclass(frozen=True, slots=True, eq=False)
class InputPart:
    """Fills the phases of the quantizer; the inputs and levels themselves are given.

    Parameters
    ----------
    above_lowest, below_highest : int64, shape (inputs,)
        Binary that is 0 where the input saturates at the lowest (highest) level; −1 for none.
    """

    levels: Int64Array
    first: Float64Array
    last: Float64Array
    above_lowest: Int64Array
    below_highest: Int64Array

    def fill(self, point: Float64Array) -> None:
        """Look at the levels."""
        level = point[self.levels]
        for columns, truth in (
            (self.above_lowest, level > self.first),
            (self.below_highest, level < self.last),
        ):
            some = columns >= 0
            point[columns[some]] = truth[some]

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Look at the ends of the levels."""
        low, high = lower[self.levels], upper[self.levels]
        for columns, yes, possible in (
            (self.above_lowest, low > self.first, high > self.first),
            (self.below_highest, high < self.last, low < self.last),
        ):
            some = columns >= 0
            narrow_to(lower, upper, columns[some], yes[some], possible[some])


def encode_input(
    builder: ModelBuilder,
    parts: list[Part],
    domain: Domain,
    cubes: Cubes,
    bounds: ValueBounds,
    *,
    need_difference: bool,
) -> Faces:
    """Add the input columns of one cube.

    *Soundness:* on codes ``f`` reads ``fl(float_scale·level)``, within one rounding of the product; the
    row gives that much.  Behind a quantizer every real input and its level satisfy the rows; inputs
    within some float32 roundings of a threshold satisfy them with the neighbouring level too.
    """
    reach = meet(
        "the input",
        (cubes.lower[0], cubes.upper[0]),
        (bounds.float_side.lower[0], bounds.float_side.upper[0]),
    )
    x = Side(builder.add_columns(*reach, count=len(reach[0]), name="input"), *reach)
    integer = domain.integer
    known = bounds.difference.lower[0], bounds.difference.upper[0]
    if integer is None:
        difference = None
        if need_difference:
            zero = np.zeros(x.size)
            columns = builder.add_columns(zero, zero, count=x.size, name="input/difference")
            difference = Side(columns, zero, zero)
            parts.append(_Zero(columns))
        return Faces(x, x, None, difference)
    first, last = cubes.level_lower[0].astype(np.float64), cubes.level_upper[0].astype(np.float64)
    levels = Side(
        builder.add_columns(first, last, count=x.size, integer=first < last, name="input/level"), first, last
    )
    none = np.full(x.size, -1, dtype=np.int64)
    if domain.kind == "codes":
        scale = integer.float_scale
        slack = 1.01 * UNIT_ROUNDOFF * scale * largest(first, last) + TINY
        builder.add_rows([(x.columns, 1.0), (levels.columns, -scale)], -slack, slack, name="input/code")
        parts.append(InputPart(levels.columns, first, last, none, none))
    else:
        parts.append(_add_quantizer(builder, domain, x, levels))
    difference = None
    if need_difference:
        difference = add_difference(builder, parts, "the input", x, levels, integer.scale, known)
    return Faces(x, levels, integer.scale, difference)


@dataclass(frozen=True, slots=True, eq=False)
class _Zero:
    columns: Int64Array

    def fill(self, point: Float64Array) -> None:
        point[self.columns] = 0.0

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Do nothing: the columns are fixed."""


def _add_quantizer(builder: ModelBuilder, domain: Domain, x: Side, levels: Side) -> InputPart:
    """Add ``α ≤ x − scale·level ≤ β`` for the inputs whose level is open, and binaries where they saturate.

    ``α`` and ``β`` are the extremes over all cells but the outer ends of the first and the last, where
    the box may go on beyond what the codes cover: there a binary lifts the side, as for a saturating step.
    """
    integer = domain.integer
    assert integer is not None
    assert integer.quantizer is not None
    above = np.full(x.size, -1, dtype=np.int64)
    below = above.copy()
    part = InputPart(levels.columns, levels.lower, levels.upper, above, below)
    open_ = np.flatnonzero(levels.lower < levels.upper)
    if not len(open_):
        return part
    first, last, scale = levels.lower[open_], levels.upper[open_], integer.scale[open_]
    inside = np.arange(int(first.min()), int(last.max()) + 1, dtype=np.int64)
    cells = integer.quantizer.cell(np.repeat(inside[:, None], x.size, axis=1))
    level = inside.astype(np.float64)[:, None]
    reading: Float64Array = scale * level
    slack = 4 * UNIT_ROUNDOFF * largest(x.lower, x.upper)[open_]
    slack = slack + 4 * UNIT_ROUNDOFF * scale * (largest(first, last) + 1.0) + TINY
    starts: Float64Array = np.where((level > first) & (level <= last), cells[0][:, open_] - reading, np.inf)
    stops: Float64Array = np.where((level >= first) & (level < last), cells[1][:, open_] - reading, -np.inf)
    low: Float64Array = starts.min(axis=0) - slack
    high: Float64Array = stops.max(axis=0) + slack
    # How far the ends of the box stick out; a little is no saturation but rounding of the thresholds.
    lift = low - (x.lower[open_] - scale * first) + slack
    drop = (x.upper[open_] - scale * last) - high + slack
    clamped_low, clamped_high = lift > 1e-3 * scale, drop > 1e-3 * scale
    low = np.where(clamped_low, low, low - np.maximum(lift, 0.0) - slack)
    high = np.where(clamped_high, high, high + np.maximum(drop, 0.0) + slack)
    phases: list[Int64Array] = []
    for clamped, columns in ((clamped_low, above), (clamped_high, below)):
        some = np.flatnonzero(clamped)
        if len(some):
            columns[open_[some]] = builder.add_columns(
                0.0, 1.0, count=len(some), integer=True, name="input/saturated"
            )
        phases.append(some)
    terms = [(x.columns[open_], np.ones(len(open_))), (levels.columns[open_], -scale)]
    lift, drop = np.where(clamped_low, lift, 0.0), np.where(clamped_high, drop, 0.0)
    for kind, term, row_lower, row_upper in (
        ("lower", scattered(above[open_], phases[0], -lift), low - lift - slack, np.inf),
        ("upper", scattered(below[open_], phases[1], drop), -np.inf, high + drop + slack),
    ):
        builder.add_rows([*terms, term], row_lower, row_upper, name=f"input/cell/{kind}", neurons=open_)
    width = last - first
    for some, columns, sign, end in ((phases[0], above, -1.0, first), (phases[1], below, 1.0, last)):
        rows = [(levels.columns[open_[some]], 1.0), (columns[open_[some]], sign * width[some])]
        sides = (-np.inf, end[some]) if sign < 0 else (end[some], np.inf)
        kind = "low" if sign < 0 else "high"
        builder.add_rows(rows, *sides, name=f"input/{kind}", neurons=open_[some])
    return part
