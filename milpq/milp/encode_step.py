"""Step functions as rows: exact on integers, one integer column per undecided neuron where a line fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, Int64Array
from milpq.bounds.outward import TINY
from milpq.merge.nodes import MergedActivation
from milpq.milp.encode_pair import Rounding
from milpq.milp.faces import Part, Side, meet, narrow_to, scattered
from milpq.milp.model import ModelBuilder
from milpq.milp.staircase import Lines, Slopes, Window, best_lines
from milpq.rounding.step import StepFunction

_SLACK = 1e-6  # above the float64 error of a line at 32-bit accumulators, far below the margin


@dataclass(frozen=True, slots=True, eq=False)
class StepPart:
    """Fills the levels and the binaries of a step function.

    Parameters
    ----------
    above_lowest, below_highest : int64, shape (neurons,)
        Binary that is 1 where the level is not the lowest (highest) one; −1 for none.
    non_negative : int64, shape (neurons,)
        Binary that is 1 where the accumulator is not negative; −1 for none.
    stairs, stair_owners, stair_thresholds : int64, shape (stairs,)
        Binaries that are 1 from a threshold on, and the accumulator columns they look at.
    """

    step: StepFunction
    accumulators: Int64Array
    levels: Int64Array
    first: Float64Array
    last: Float64Array
    above_lowest: Int64Array
    below_highest: Int64Array
    non_negative: Int64Array
    stairs: Int64Array
    stair_owners: Int64Array
    stair_thresholds: Float64Array

    def fill(self, point: Float64Array) -> None:
        """Execute the step."""
        accumulator = point[self.accumulators]
        level = self.step(np.rint(accumulator).astype(np.int64)).astype(np.float64)
        point[self.levels] = level
        for columns, truth in (
            (self.above_lowest, level > self.first),
            (self.below_highest, level < self.last),
            (self.non_negative, accumulator >= 0.0),
        ):
            some = columns >= 0
            point[columns[some]] = truth[some]
        point[self.stairs] = point[self.stair_owners] >= self.stair_thresholds

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Execute the step on the ends of the accumulators, and the other way round; then the binaries."""
        x, y = self.accumulators, self.levels
        ends = (np.ceil(lower[x]).astype(np.int64), np.floor(upper[x]).astype(np.int64))
        narrow_to(lower, upper, y, *(level.astype(np.float64) for level in self.step.image(*ends)))
        levels = np.ceil(lower[y]).astype(np.int64), np.floor(upper[y]).astype(np.int64)
        first, last = (end.astype(np.float64) for end in self.step.preimage(*levels))
        narrow_to(lower, upper, x, first, last)
        level, accumulator = (lower[y], upper[y]), (lower[x], upper[x])
        for columns, yes, possible in (
            (self.above_lowest, level[0] > self.first, level[1] > self.first),
            (self.below_highest, level[1] < self.last, level[0] < self.last),
            (self.non_negative, accumulator[0] >= 0.0, accumulator[1] >= 0.0),
        ):
            some = columns >= 0
            narrow_to(lower, upper, columns[some], yes[some], possible[some])
        owners, thresholds = self.stair_owners, self.stair_thresholds
        narrow_to(lower, upper, self.stairs, lower[owners] >= thresholds, upper[owners] >= thresholds)


def encode_step(
    builder: ModelBuilder,
    parts: list[Part],
    node: MergedActivation,
    slopes: Slopes,
    source: Side,
    known: tuple[Float64Array, Float64Array],
) -> tuple[Side, StepPart]:
    """Add the level columns of a step node and the rows that tie them to the accumulators.

    A neuron whose range meets no threshold is a constant; one that multiplies by an integer is a row.
    One threshold, two of a saturating neuron, and
    thresholds that follow no line become *stairs*, one binary each; the others a line
    (`milpq.milp.staircase`).

    Parameters
    ----------
    source : Side
        Accumulators; integer ranges.
    known : (lower, upper), float64, shape (neurons,)
        Further bounds on the levels.

    Returns
    -------
    levels : Side
    part : StepPart
        Its `above_lowest` and `below_highest` are the phases of saturation, as far as there are any.
    """
    step, size = node.step, node.size
    assert step is not None
    assert node.scale_in is not None
    assert node.scale_out is not None
    everyone = np.arange(size)
    window = Window.of(step, everyone, source.lower, source.upper)
    reach = meet(f"the levels of {node.name}", (window.first, window.last), known)
    steps = window.steps
    straight = window.straight
    on_line = np.flatnonzero((steps > 1) & ~straight)
    ideal = (node.scale_out / node.scale_in)[on_line]
    lines = best_lines(step, on_line, window.at(on_line), slopes, ideal)
    few = (steps[on_line] == 2) & (lines.clamped_low | lines.clamped_high | lines.split)
    chosen = lines.usable & ~few
    lines, on_line = lines.at(np.flatnonzero(chosen)), on_line[chosen]
    climbing = np.setdiff1d(np.flatnonzero((steps > 0) & ~straight), on_line)
    integer = np.zeros(size, dtype=np.bool_)
    integer[on_line] = True
    levels = builder.add_columns(*reach, count=size, integer=integer, name=f"{node.name}/level")
    _add_straight(builder, window, straight, source.columns, levels)
    none = np.full(size, -1, dtype=np.int64)
    above, below, sign = none.copy(), none.copy(), none.copy()
    above[on_line], below[on_line], sign[on_line] = _add_lines(
        builder, node.name, window.at(on_line), lines, on_line, source.columns[on_line], levels[on_line]
    )
    stairs, owners, thresholds, lowest = _add_stairs(
        builder, node.name, window.at(climbing), climbing, source.columns[climbing], levels[climbing]
    )
    above[climbing] = lowest
    part = StepPart(
        step,
        source.columns,
        levels,
        window.first,
        window.last,
        above,
        below,
        sign,
        stairs,
        owners,
        thresholds,
    )
    parts.append(part)
    return Side(levels, *reach), part


def _add_straight(
    builder: ModelBuilder,
    window: Window,
    straight: BoolArray,
    accumulators: Int64Array,
    levels: Int64Array,
) -> None:
    """Add ``level = first + rise·(acc − lower)`` where that is the step at every accumulator of the range."""
    at = np.flatnonzero(straight)
    if not len(at):
        return
    rise = (window.last - window.first)[at] / (window.upper - window.lower)[at]
    offset = window.first[at] - rise * window.lower[at]
    builder.add_rows([(levels[at], 1.0), (accumulators[at], -rise)], offset, offset)


def _add_lines(
    builder: ModelBuilder,
    name: str,
    window: Window,
    lines: Lines,
    neurons: Int64Array,
    accumulators: Int64Array,
    levels: Int64Array,
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Add ``α ≤ acc − ρ·k ≤ α + ρ``, each side lifted where a binary says that the neuron saturates there.

    With ``c`` (not at the lowest level), ``g`` (not at the highest) and ``w`` (accumulator not negative):
    ``acc − ρk ≥ α(w) − M(1 − c)``, ``acc − ρk ≤ α(w) + ρ + M'(1 − g)``, and the level at its end where the
    binary is 0.

    Returns
    -------
    columns of c, g and w, −1 for none, shape (neurons,) each
    """
    size = len(accumulators)
    low, high, split = (np.flatnonzero(mask) for mask in (lines.clamped_low, lines.clamped_high, lines.split))
    result = [np.full(size, -1, dtype=np.int64) for _ in range(3)]
    for columns, which, what in zip(result, (low, high, split), ("low", "high", "sign"), strict=True):
        if len(which):
            columns[which] = builder.add_columns(
                0.0, 1.0, count=len(which), integer=True, name=f"{name}/{what}"
            )
    c, g, w = result
    slope, offset = lines.slope, lines.offset
    jump = offset[1] - offset[0]
    if len(split):
        x, side = accumulators[split], w[split]
        owners = neurons[split]
        builder.add_rows(
            [(x, 1.0), (side, window.lower[split])],
            window.lower[split],
            np.inf,
            name=f"{name}/sign/lower",
            neurons=owners,
        )
        builder.add_rows(
            [(x, 1.0), (side, -window.upper[split] - 1.0)],
            -np.inf,
            -1.0,
            name=f"{name}/sign/upper",
            neurons=owners,
        )
    lift = np.zeros(size)
    lift[low] = np.maximum(
        offset.max(axis=0)[low] - (window.lower[low] - slope[low] * window.first[low]) + _SLACK, 0.0
    )
    builder.add_rows(
        [(accumulators, 1.0), (levels, -slope), scattered(c, low, -lift), scattered(w, split, -jump)],
        offset[0] - lift,
        np.inf,
        name=f"{name}/line/lower",
        neurons=neurons,
    )
    drop = np.zeros(size)
    drop[high] = np.maximum(
        (window.upper[high] - slope[high] * window.last[high]) - (offset.min(axis=0) + slope)[high] + _SLACK,
        0.0,
    )
    builder.add_rows(
        [(accumulators, 1.0), (levels, -slope), scattered(g, high, drop), scattered(w, split, -jump)],
        -np.inf,
        offset[0] + slope + drop,
        name=f"{name}/line/upper",
        neurons=neurons,
    )
    if len(low):
        reach = window.last[low] - window.first[low]
        builder.add_rows(
            [(levels[low], 1.0), (c[low], -reach)],
            -np.inf,
            window.first[low],
            name=f"{name}/low",
            neurons=neurons[low],
        )
    if len(high):
        reach = window.last[high] - window.first[high]
        builder.add_rows(
            [(levels[high], 1.0), (g[high], reach)],
            window.last[high],
            np.inf,
            name=f"{name}/high",
            neurons=neurons[high],
        )
    return c, g, w


def _add_stairs(
    builder: ModelBuilder,
    name: str,
    window: Window,
    neurons: Int64Array,
    accumulators: Int64Array,
    levels: Int64Array,
) -> tuple[Int64Array, Int64Array, Float64Array, Int64Array]:
    """Add one binary ``y_j = [acc ≥ T_j]`` per threshold, in order.

    ``level = first + Σ (rise at T_j) y_j``, ``acc ≥ lower + Σ (T_j − T_{j−1}) y_j`` with ``T_0 = lower``,
    ``acc ≤ T_1 − 1 + Σ (T_{j+1} − T_j) y_j`` with ``T_{J+1} = upper + 1``, and ``y_j ≥ y_{j+1}``.  All
    numbers are integers, a point must be wrong by half a unit to be taken for another, and the relaxation
    is the convex hull.

    Returns
    -------
    stairs, owners : int64, shape (stairs,); thresholds : float64, shape (stairs,)
        Binary columns, accumulator columns and thresholds.
    lowest : int64, shape (neurons,)
        The first binary of each neuron.

    References: G. Dantzig's incremental (delta) form of piecewise linear functions.
    """
    size = len(accumulators)
    neuron, step = np.nonzero(window.inside)
    count = len(neuron)
    if not count:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, np.zeros(0), nothing
    thresholds = window.thresholds[neuron, step]
    rise = window.after[neuron, step] - window.before[neuron, step]
    follows = np.zeros(count, dtype=np.bool_)
    follows[1:] = neuron[1:] == neuron[:-1]
    ends = np.append(~follows[1:], True)
    previous = np.where(follows, np.roll(thresholds, 1), window.lower[neuron])
    following = np.where(ends, window.upper[neuron] + 1.0, np.roll(thresholds, -1))
    stairs = builder.add_columns(0.0, 1.0, count=count, integer=True, name=f"{name}/stairs")

    def spread(values: Float64Array) -> tuple[Int64Array, sp.csr_array]:
        return stairs, sp.csr_array((values, (neuron, np.arange(count))), shape=(size, count))

    for kind, column, coefficients, low, high in (
        ("sum", levels, -rise, window.first, window.first),
        ("lower", accumulators, previous - thresholds, window.lower, np.inf),
        ("upper", accumulators, thresholds - following, -np.inf, thresholds[~follows] - 1.0),
    ):
        builder.add_rows(
            [(column, 1.0), spread(coefficients)], low, high, name=f"{name}/stairs/{kind}", neurons=neurons
        )
    ordinal = np.arange(count) - np.maximum.accumulate(np.where(follows, 0, np.arange(count)))
    for number in range(1, int(ordinal.max()) + 1):
        later = np.flatnonzero(ordinal == number)
        builder.add_rows(
            [(stairs[later - 1], 1.0), (stairs[later], -1.0)],
            0.0,
            np.inf,
            name=f"{name}/stairs/order{number}",
            neurons=neurons[neuron[later]],
        )
    return stairs, accumulators[neuron], thresholds, stairs[~follows]


def rounding_at_kink(
    node: MergedActivation, neurons: Int64Array, source: Side, kink: float, sign: int
) -> Rounding:
    """Return what the steps of some neurons add to the ReLU at a kink (`milpq.milp.encode_pair.Rounding`).

    Parameters
    ----------
    source : Side
        Accumulators of these neurons.

    *Soundness:* on a plateau the level is constant and the clamp nondecreasing, so the extremes lie at
    plateau ends, all of which are visited; widened by eight roundings of the operands.
    """
    step, unit_in, unit_out = node.step, node.scale_in, node.scale_out
    assert step is not None
    assert unit_in is not None
    assert unit_out is not None
    window = Window.of(step, neurons, source.lower, source.upper)
    infinite = np.full((len(neurons), 1), np.inf)
    starts = np.concatenate(
        [window.lower[:, None], np.where(window.inside, window.thresholds, -infinite)], axis=1
    )
    levels = np.concatenate([window.first[:, None], window.after], axis=1)
    valid = np.isfinite(starts)
    # The last accumulator of a plateau is one below the next valid threshold.
    behind = np.concatenate([np.where(window.inside, window.thresholds - 1.0, infinite), infinite], axis=1)
    stops = np.minimum.accumulate(behind[:, ::-1], axis=1)[:, ::-1]
    stops = np.minimum(stops, window.upper[:, None])
    starts = np.where(valid, starts, window.lower[:, None])
    z = unit_out[neurons, None] * levels
    v_start, v_stop = unit_in[neurons, None] * starts, unit_in[neurons, None] * stops
    slack = 8 * UNIT_ROUNDOFF * (np.abs(z) + np.maximum(np.abs(v_start), np.abs(v_stop)) + abs(kink)) + TINY

    def extremes(value_start: Float64Array, value_stop: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return ``z − value`` at its least and at its most on each plateau."""
        return np.where(valid, z - value_stop - slack, np.inf), np.where(
            valid, z - value_start + slack, -np.inf
        )

    least, most = extremes(v_start, v_stop)
    clamp = np.maximum if sign > 0 else np.minimum
    band_least, band_most = extremes(clamp(v_start, kink), clamp(v_stop, kink))
    if sign > 0:
        at_rest = levels == window.first[:, None]
        rest = unit_out[neurons] * window.first - kink
        found = least.min(axis=1), np.where(at_rest, -np.inf, most).max(axis=1)
        band = band_least.min(axis=1), band_most.max(axis=1)
    else:
        at_rest = levels == window.last[:, None]
        rest = kink - unit_out[neurons] * window.last
        found = -most.max(axis=1), -np.where(at_rest, np.inf, least).min(axis=1)
        band = -band_most.max(axis=1), -band_least.min(axis=1)
    rest_slack = 4 * UNIT_ROUNDOFF * (np.abs(rest) + abs(kink)) + TINY
    return Rounding(rest - rest_slack, rest + rest_slack, *found, *band)
