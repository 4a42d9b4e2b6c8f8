"""Nodes of the search over phases and rounding steps: ranges of the open neurons, and where to cut them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bounds.hull import OpenActivation, Ranges
from milpq.bounds.lagrangian import Lagrangian
from milpq.bounds.outward import down, up
from milpq.bounds.residue import Residue
from milpq.bounds.sweep import Choice, Float32Array
from milpq.bounds.values import Interval

_A, _V = 0, 2
"""Rows of `Ranges.array` where the bounds of ``a`` and of ``v`` begin."""

_MARGIN = 1e-3  # of its range: a cut closer to an end than that is none


@dataclass(frozen=True, slots=True, eq=False)
class PhaseNodes:
    """Some nodes.

    Parameters
    ----------
    ranges : float64, shape (nodes, 6, open)
        As `Ranges.array`.
    multipliers : float32, shape (nodes, 2·open)
        Of the bound.
    objective : int64, shape (nodes,)
    upper : float64, shape (nodes,)
        Bound of the objective over the node.
    stalled : int64, shape (nodes,)
        Cuts since the bound last came down: its ascent may have been too short.
    neuron : int64, shape (nodes,)
        The open neuron to cut; −1 where no cut promises anything.
    side : int64, shape (nodes,)
        Which range to cut, as a row of the array.
    below, above : float64, shape (nodes,)
        The upper end of the lower part, and the lower end of the upper part.
    """

    ranges: Float64Array
    multipliers: Float32Array
    objective: Int64Array
    upper: Float64Array
    stalled: Int64Array
    neuron: Int64Array
    side: Int64Array
    below: Float64Array
    above: Float64Array

    def __len__(self) -> int:
        return len(self.upper)

    def select(self, rows: Int64Array) -> PhaseNodes:
        """Return copies of some nodes."""
        return PhaseNodes(*(getattr(self, part.name)[rows] for part in fields(self)))

    @staticmethod
    def concatenate(parts: list[PhaseNodes]) -> PhaseNodes:
        """Return several batches as one."""
        return PhaseNodes(
            *(np.concatenate([getattr(part, name.name) for part in parts]) for name in fields(PhaseNodes))
        )

    @property
    def size_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(getattr(self, part.name).nbytes for part in fields(self))

    def halves(self) -> tuple[Ranges, Int64Array]:
        """Return the ranges of the two parts of each node that is cut, and the node each came from.

        *Soundness:* the parts overlap or meet, but for a step, where nothing lies between.
        """
        rows = np.flatnonzero(self.neuron >= 0)
        low, high = self.ranges[rows], self.ranges[rows]
        place = np.arange(len(rows))
        neuron, side = self.neuron[rows], self.side[rows]
        low[place, side + 1, neuron] = np.minimum(low[place, side + 1, neuron], self.below[rows])
        high[place, side, neuron] = np.maximum(high[place, side, neuron], self.above[rows])
        return Ranges(np.concatenate([low, high])), np.concatenate([rows, rows])


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """A cut of each of some nodes; fields as in `PhaseNodes`."""

    neuron: Int64Array
    side: Int64Array
    below: Float64Array
    above: Float64Array

    def of(self, nodes: PhaseNodes) -> PhaseNodes:
        """Return nodes that these are the cuts of."""
        return replace(nodes, neuron=self.neuron, side=self.side, below=self.below, above=self.above)


@dataclass(frozen=True, slots=True, eq=False)
class Offers:
    """Where some nodes could be cut.

    Parameters
    ----------
    gain : float64, shape (nodes, offers)
        What the relaxation takes more than the graph at the mean choice; 0 where there is nothing to cut.
    neuron, side : int64, shape (offers,)
    below, above : float64, shape (nodes, offers)
    """

    gain: Float64Array
    neuron: Int64Array
    side: Int64Array
    below: Float64Array
    above: Float64Array

    def take(self, rows: Int64Array, columns: Int64Array) -> Cuts:
        """Return cuts of nodes by their offers; none, with a neuron of −1, where nothing is gained."""
        neuron = np.where(self.gain[rows, columns] > 0, self.neuron[columns], -1)
        return Cuts(neuron, self.side[columns], self.below[rows, columns], self.above[rows, columns])


def offer_cuts(relaxation: Lagrangian, ranges: Ranges, mean: Choice) -> Offers:
    """Return a cut of each range of each open neuron.

    Parameters
    ----------
    ranges : Ranges
        Of the nodes.
    mean : Choice
        Of an ascent.
    """
    parts = [_none(len(ranges))]
    for layer, span in zip(relaxation.layers, relaxation.spans, strict=True):
        if span.stop == span.start:
            continue
        part = Ranges(ranges.array[:, :, span])
        a, d, h, delta = (side[:, span].astype(np.float64) for side in mean.points)
        on_h, on_delta = (side[:, span].astype(np.float64) for side in mean.weights)
        a, v = np.clip(a, *part.a), np.clip(a + d, *part.v)
        true_h, true_z = layer.image(a, v)
        if layer.residue is None:
            gain = on_h * (h - true_h) + on_delta * (delta - (true_z - true_h))
            offers = [(_A, gain, *_kink_cut(layer, part, on_delta))]
        else:
            rounding = on_delta * (h + delta - true_z)
            offers = [
                (_V, rounding, *_step_cut(layer.residue, part, v)),
                (_A, (on_h - on_delta) * (h - true_h), *_kink_cut(layer, part, on_delta)),
            ]
        for side, gain, below, above in offers:
            low, high = part.array[:, side], part.array[:, side + 1]
            possible = (high > low) & (above > low) & (below < high)
            if side == _A:
                margin = _MARGIN * (high - low)
                possible &= (above > low + margin) & (below < high - margin)
            gain = np.where(possible, np.maximum(gain, 0.0), 0.0)
            neuron = np.arange(span.start, span.stop, dtype=np.int64)
            parts.append(Offers(gain, neuron, np.full(neuron.shape, side), below, above))
    return Offers(
        *(np.concatenate([getattr(part, name.name) for part in parts], axis=-1) for name in fields(Offers))
    )


def _none(nodes: int) -> Offers:
    """Return an offer without gain, so that there always is one."""
    nothing, zero = np.zeros((nodes, 1)), np.zeros(1, dtype=np.int64)
    return Offers(nothing, zero, zero, nothing, nothing)


def _kink_cut(
    layer: OpenActivation, ranges: Ranges, on_delta: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return where to cut the float side: at a kink, moved by an end of ``d`` to where that helps the most.

    A curve, which has no kink, is cut in the middle of its range.

    Between ``kink − du`` and ``kink − dl`` the two phases differ.  On the side that the objective does not
    reward, ``δ`` of that strip can be bounded with the rest; so the cut goes to the other end of the strip.
    """
    (al, au), (dl, du) = ranges.a, ranges.d
    margin = _MARGIN * (au - al)
    middle = 0.5 * (al + au)
    best, distance = middle, np.full(al.shape, np.inf)
    for kink in layer.kinks:
        at, early, late = np.full(al.shape, kink), kink - du, kink - dl
        grows = on_delta > 0
        one_sign = np.where(dl >= 0, np.where(grows, early, at), np.where(grows, late, at))
        cut = np.where((dl < 0) & (du > 0), np.where(grows, early, late), one_sign)
        for other in (cut, at, early, late):
            outside = (cut <= al + margin) | (cut >= au - margin)
            cut = np.where(outside, other, cut)
        outside = (cut <= al + margin) | (cut >= au - margin)
        far = np.where(outside, np.inf, np.abs(middle - cut))
        best, distance = np.where(far < distance, cut, best), np.minimum(far, distance)
    return best, best


def _step_cut(residue: Residue, ranges: Ranges, v: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the two ends of the threshold next to ``v``: the accumulators just below and just above."""
    step, unit = residue.step, residue.scale_in
    low, high = residue.accumulators(Interval(*ranges.v))
    first, last = step.plateau(low), step.plateau(high)
    accumulator = np.clip(np.rint(v / unit).astype(np.int64), low, high)
    plateau = step.plateau(accumulator)
    # Thresholds first + 1 .. last lie inside; the one below the plateau of v has its number.
    lower, upper = np.maximum(plateau, first + 1), np.minimum(plateau + 1, last)
    lower, upper = np.minimum(lower, np.maximum(last, 1)), np.maximum(upper, np.minimum(first + 1, last))
    columns = step.thresholds.shape[1]
    ends = [step.thresholds[step.rows, np.clip(end - 1, 0, columns - 1)] for end in (lower, upper)]
    nearer = np.abs(accumulator - ends[0]) <= np.abs(ends[1] - accumulator)
    threshold = np.where(nearer, ends[0], ends[1])
    open_ = first < last
    below = np.where(open_, up(unit * (threshold - 1), 2), ranges.v[1])
    above = np.where(open_, down(unit * threshold, 2), ranges.v[0])
    return below, above
