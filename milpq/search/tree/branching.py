"""What to branch on: the places where a point of the relaxation is no execution."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import BoolArray, Float64Array
from milpq.merge import MergedActivation
from milpq.milp.encode import Encoding
from milpq.milp.encode_clamp import Face, Kink
from milpq.milp.encode_curve import CurvePart
from milpq.milp.encode_step import StepPart
from milpq.search.tree.leaf import Decision
from milpq.search.tree.region import Box

_WHOLE = 1e-6
"""A level this close to an integer is taken for it."""

_MOST = 24
"""Branchings of one layer that are looked at."""

_SHORT = 1e-6
"""Ranges of a curve shorter than this are not cut."""

_RELATIVE = 1e-7
"""A real interval narrower than this share of the root's is not split."""


@dataclass(frozen=True, slots=True)
class Branching:
    """Two decisions that cover everything, and how far the point of the relaxation is from each.

    Parameters
    ----------
    low, high : Decision
    below, above : float
        Distances, in the unit of the column, that the point must move to satisfy `low` and `high`.
    weight : float
        How much the place violates what an execution does, in real units.
    """

    low: Decision
    high: Decision
    below: float
    above: float
    weight: float

    @property
    def key(self) -> tuple[int, Face, int]:
        """What is branched on."""
        return self.low.value, self.low.face, self.low.neuron


def branchings(encoding: Encoding, box: Box, point: Float64Array | None, output: int) -> list[Branching]:
    """Return the branchings that cut off a point of the relaxation, the most violated first.

    Parameters
    ----------
    point : float64, shape (columns,), or None
        Without one, or where it is an execution as far as can be told, what is left to decide is returned.
    output : int
        The network output asked about; steps and kinks of others do not matter.
    """
    found: list[Branching] = []
    if point is not None and bool(np.isfinite(point).all()):
        # A solver's point may lie anywhere.
        found = _Finder(encoding, box, np.clip(point, box.lower, box.upper), output, anything=False).find()
    if not found:
        middle = 0.5 * box.lower + 0.5 * box.upper
        found = _Finder(encoding, box, middle, output, anything=True).find()
    found.sort(key=lambda branching: -branching.weight)
    return found


@dataclass(slots=True)
class _Finder:
    """One search for branchings at a point."""

    encoding: Encoding
    box: Box
    point: Float64Array
    output: int
    anything: bool
    found: list[Branching] = field(default_factory=list[Branching])

    def find(self) -> list[Branching]:
        merged = self.encoding.problem.merged
        self._levels_of_input()
        for value, part in zip(self.encoding.values, self.encoding.parts, strict=True):
            node = merged.nodes[value - 1] if value else None
            if not isinstance(node, MergedActivation):
                continue
            if isinstance(part, StepPart):
                self._step(value, node, part)
            elif isinstance(part, Kink):
                self._kink(value, node, part)
            elif isinstance(part, CurvePart):
                self._curve(value, node, part)
        if not self.found and self.anything:
            self._inputs()
        return self.found

    def _matters(self, value: int, size: int) -> BoolArray:
        """Tell which neurons of a value the output depends on, shape (size,)."""
        if value != self.encoding.problem.merged.output:
            return np.ones(size, dtype=np.bool_)
        return np.arange(size) == self.output

    def _levels_of_input(self) -> None:
        levels = self.encoding.levels
        if levels is None:
            return
        integer = self.encoding.problem.domain.integer
        assert integer is not None
        lower, upper, at = self.box.lower[levels], self.box.upper[levels], self.point[levels]
        distance = np.abs(at - np.rint(at))
        wanted = (lower < upper) & ((distance > _WHOLE) | self.anything)
        for neuron in _most(wanted, integer.scale * distance):
            weight = float(integer.scale[neuron] * distance[neuron])
            self._between(0, neuron, float(lower[neuron]), float(upper[neuron]), float(at[neuron]), weight)

    def _step(self, value: int, node: MergedActivation, part: StepPart) -> None:
        """Find levels that are fractional, or not those of their accumulators."""
        assert node.scale_in is not None
        assert node.scale_out is not None
        lower, upper = self.box.lower[part.levels], self.box.upper[part.levels]
        at, accumulator = self.point[part.levels], self.point[part.accumulators]
        whole = np.rint(at)
        distance = np.abs(at - whole)
        true = part.step(np.rint(accumulator).astype(np.int64)).astype(np.float64)
        first, last = part.step.preimage(whole.astype(np.int64), whole.astype(np.int64))
        below, above = first - accumulator, accumulator - last
        # A whole level may be that of another accumulator.
        apart = np.maximum(np.maximum(below, above), 0.0) * node.scale_in / node.scale_out
        wrong = np.where(distance > _WHOLE, np.abs(at - true), apart)
        wanted = self._matters(value, node.size) & (lower < upper) & ((wrong > _WHOLE) | self.anything)
        for neuron in _most(wanted, node.scale_out * wrong):
            split = float(at[neuron])
            if distance[neuron] <= _WHOLE:
                # Whole, but the level of another accumulator: part them.
                split = float(whole[neuron]) + (0.5 if above[neuron] > below[neuron] else -0.5)
            weight = float(node.scale_out[neuron] * wrong[neuron])
            self._between(value, neuron, float(lower[neuron]), float(upper[neuron]), split, weight)

    def _between(
        self, value: int, neuron: int, lower: float, upper: float, split: float, weight: float
    ) -> None:
        """Add the branching of whole levels around a split."""
        last = min(max(float(np.floor(split)), lower), upper - 1.0)
        self.found.append(
            Branching(
                Decision(value, "quantized", neuron, lower, last),
                Decision(value, "quantized", neuron, last + 1.0, upper),
                max(split - last, 0.0),
                max(last + 1.0 - split, 0.0),
                weight,
            )
        )

    def _kink(self, value: int, node: MergedActivation, part: Kink) -> None:
        """Find kinks whose result is not that of their source."""
        faces = self.encoding.faces[node.source]
        side = faces.float_side if part.face == "float" else faces.quantized
        columns = side.columns
        lower, upper = self.box.lower[columns], self.box.upper[columns]
        clamp = np.maximum if part.sign > 0 else np.minimum
        source, result = self.point[part.source.columns], self.point[part.result.columns]
        wrong = np.abs(result - clamp(source, part.kink))
        open_ = part.unstable & (lower < part.kink) & (part.kink < upper)
        wanted = (
            self._matters(value, node.size) & open_ & ((wrong > _RELATIVE * (upper - lower)) | self.anything)
        )
        for neuron in _most(wanted, wrong):
            away = float(source[neuron]) - part.kink
            self.found.append(
                Branching(
                    Decision(node.source, part.face, neuron, float(lower[neuron]), part.kink),
                    Decision(node.source, part.face, neuron, part.kink, float(upper[neuron])),
                    max(away, 0.0) + float(wrong[neuron]),
                    max(-away, 0.0) + float(wrong[neuron]),
                    float(wrong[neuron]),
                )
            )

    def _curve(self, value: int, node: MergedActivation, part: CurvePart) -> None:
        """Find results that are off their curve; the range of the source is cut where the point is."""
        columns = part.source.columns
        lower, upper = self.box.lower[columns], self.box.upper[columns]
        source, result = self.point[columns], self.point[part.result.columns]
        wrong = np.abs(result - part.curve.value(source))
        wanted = self._matters(value, node.size) & (upper - lower > _SHORT) & (wrong > _WHOLE)
        for neuron in _most(wanted, wrong):
            low, high = float(lower[neuron]), float(upper[neuron])
            split = min(max(float(source[neuron]), 0.75 * low + 0.25 * high), 0.25 * low + 0.75 * high)
            self.found.append(
                Branching(
                    Decision(node.source, part.face, neuron, low, split),
                    Decision(node.source, part.face, neuron, split, high),
                    float(wrong[neuron]),
                    float(wrong[neuron]),
                    float(wrong[neuron]),
                )
            )

    def _inputs(self) -> None:
        """Split the widest real input, the last resort."""
        problem = self.encoding.problem
        if problem.domain.kind == "codes":
            return
        columns, root = self.encoding.inputs, problem.domain.root
        lower, upper = self.box.lower[columns], self.box.upper[columns]
        width = upper - lower
        share = width / np.maximum(root.upper[0] - root.lower[0], np.finfo(np.float64).tiny)
        neuron = int(np.argmax(width))
        middle = float(0.5 * lower[neuron] + 0.5 * upper[neuron])
        if share[neuron] > _RELATIVE and lower[neuron] < middle < upper[neuron]:
            half = 0.5 * float(width[neuron])
            self.found.append(
                Branching(
                    Decision(0, "float", neuron, float(lower[neuron]), middle),
                    Decision(0, "float", neuron, middle, float(upper[neuron])),
                    half,
                    half,
                    half,
                )
            )


def _most(wanted: BoolArray, weight: Float64Array) -> list[int]:
    """Return the wanted neurons of the largest weights."""
    neurons = np.flatnonzero(wanted)
    if len(neurons) > _MOST:
        neurons = neurons[np.argpartition(-weight[neurons], _MOST)[:_MOST]]
    return neurons.tolist()


@dataclass(slots=True)
class Gains:
    """What branchings have gained so far, per unit of distance: the usual pseudo-costs.

    Parameters
    ----------
    sums : dict from (objective, key, side) to (gain per distance, count)
        The side is 0 for the low decision and 1 for the high one.
    """

    sums: dict[tuple[int, tuple[int, Face, int], int], tuple[float, int]] = field(
        default_factory=dict[tuple[int, tuple[int, Face, int], int], tuple[float, int]]
    )

    def add(self, objective: int, branching: Branching, side: int, gain: float) -> None:
        """Note what one decision has gained."""
        distance = max(branching.below if side == 0 else branching.above, 1e-3)
        total, count = self.sums.get((objective, branching.key, side), (0.0, 0))
        self.sums[objective, branching.key, side] = total + gain / distance, count + 1

    def join(self, other: Gains) -> Gains:
        """Return those of both."""
        sums = dict(self.sums)
        for key, (total, count) in other.sums.items():
            known = sums.get(key, (0.0, 0))
            sums[key] = known[0] + total, known[1] + count
        return Gains(sums)

    def tries(self, objective: int, branching: Branching) -> int:
        """Return how often the less tried side of a branching has been tried."""
        return min(self.sums.get((objective, branching.key, side), (0.0, 0))[1] for side in (0, 1))

    def score(self, objective: int, branching: Branching, otherwise: float) -> float:
        """Return what a branching promises; `otherwise` is the gain per distance of what has not been tried."""
        result = 1.0
        for side, distance in ((0, branching.below), (1, branching.above)):
            total, count = self.sums.get((objective, branching.key, side), (otherwise, 1))
            result *= max(total / max(count, 1) * max(distance, 1e-3), 1e-12)
        return result

    def usual(self) -> float:
        """Return the mean gain per distance."""
        count = sum(count for _, count in self.sums.values())
        return sum(total for total, _ in self.sums.values()) / count if count else 1.0
