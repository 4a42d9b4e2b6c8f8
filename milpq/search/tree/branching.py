"""What to branch on: the places where a point of the relaxation is no execution, by what they are worth to the bound.

How far a point is from an execution says little about what deciding it brings.  The duals of the program that the
point comes from say what a unit of each column is worth to all that lies behind it, so distance times price is what a
decision promises, in the same unit for phases, levels and codes.  How much of its promise each neuron keeps is learned.

References: T. Achterberg, *Constraint Integer Programming*, 2007, sec. 5.4, for pseudo-costs and products.
"""

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

_NEAR = 1e-3
"""Least distance that counts."""

_LEAST = 1e-12
"""Least gain that counts."""

_NOTHING = 0.0, 0.0, 0.0, 0

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
    price : float
        What a unit is worth to the objective.
    """

    low: Decision
    high: Decision
    below: float
    above: float
    price: float

    @property
    def key(self) -> tuple[int, Face, int]:
        """What is branched on."""
        return self.low.value, self.low.face, self.low.neuron

    @property
    def distances(self) -> tuple[float, float]:
        """Of the low decision and of the high one; never zero."""
        return max(self.below, _NEAR), max(self.above, _NEAR)

    @property
    def promise(self) -> float:
        """The product of what both decisions promise."""
        below, above = self.distances
        return self.price * below * self.price * above


class Prices:
    """What columns are worth to what lies behind them."""

    __slots__ = ("_columns", "_encoding", "_rows", "_values")

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        model = encoding.model
        value_of_row = np.full(model.rows, -1, dtype=np.int64)
        for block in model.row_blocks:
            value_of_row[block.start : block.stop] = block.value
        value_of_column = np.full(model.columns, -1, dtype=np.int64)
        for value, faces in enumerate(encoding.faces):
            for side in (faces.float_side, faces.quantized, faces.difference):
                if side is not None:
                    value_of_column[side.columns] = value
        rows = model.entry_rows()
        behind = value_of_row[rows] > value_of_column[model.indices]
        self._rows, self._columns = rows[behind], model.indices[behind]
        self._values = model.values[behind]

    def of(
        self, objective: Float64Array, duals: Float64Array | None
    ) -> list[tuple[Float64Array, Float64Array]]:
        """Return the prices of a unit of the float and of the quantized side of each merged value.

        Parameters
        ----------
        objective : float64, shape (columns,)
        duals : float64, shape (rows,), or None
            Without any, a unit is worth its size in real units.

        Notes
        -----
        A side that moves takes its difference along.
        """
        encoding, result = self._encoding, list[tuple[Float64Array, Float64Array]]()
        worth = np.zeros(0)
        if duals is not None:
            y = np.where(np.isfinite(duals), duals, 0.0)
            behind = np.bincount(
                self._columns, weights=self._values * y[self._rows], minlength=encoding.model.columns
            )
            worth = objective - behind
        for value, faces in enumerate(encoding.faces):
            unit = np.ones(faces.quantized.size) if faces.unit is None else faces.unit
            if duals is None:
                result.append((np.ones(faces.float_side.size), unit))
                continue
            on_float, on_quantized = worth[faces.float_side.columns], worth[faces.quantized.columns]
            if value == 0:
                # A level of the input and the input behind it go together.
                on_quantized = on_quantized + unit * on_float
            elif faces.difference is not None:
                on_difference = worth[faces.difference.columns]
                on_float = on_float - on_difference
                on_quantized = on_quantized + unit * on_difference
            result.append((np.abs(on_float), np.abs(on_quantized)))
        return result


def branchings(
    encoding: Encoding,
    box: Box,
    point: Float64Array | None,
    output: int,
    prices: list[tuple[Float64Array, Float64Array]],
) -> list[Branching]:
    """Return the branchings that cut off a point of the relaxation, the most promising first.

    Parameters
    ----------
    point : float64, shape (columns,), or None
        Without one, or where it is an execution as far as can be told, what is left to decide is returned.
    output : int
        The network output asked about; steps and kinks of others do not matter.
    prices : list
        As of `Prices.of`.

    Notes
    -----
    Codes of the input come last where more of them are open than steps and phases: one of many says little about what
    the networks do.
    """
    found: list[Branching] = []
    if point is not None and bool(np.isfinite(point).all()):
        # A solver's point may lie anywhere.
        at = np.clip(point, box.lower, box.upper)
        found = _Finder(encoding, box, at, output, prices, anything=False).find()
    if not found:
        middle = 0.5 * box.lower + 0.5 * box.upper
        found = _Finder(encoding, box, middle, output, prices, anything=True).find()
    found.sort(key=lambda branching: -branching.promise)
    return found


@dataclass(slots=True)
class _Finder:
    """One search for branchings at a point."""

    encoding: Encoding
    box: Box
    point: Float64Array
    output: int
    prices: list[tuple[Float64Array, Float64Array]]
    anything: bool
    found: list[Branching] = field(default_factory=list[Branching])

    def find(self) -> list[Branching]:
        merged = self.encoding.problem.merged
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
        self._levels_of_input()
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
        open_ = lower < upper
        if 0 < len(self.found) < np.count_nonzero(open_):
            return
        wanted = open_ & ((distance > _WHOLE) | self.anything)
        price = self.prices[0][1]
        for neuron in _most(wanted, price * distance):
            self._between(0, neuron, float(lower[neuron]), float(upper[neuron]), float(at[neuron]))

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
        for neuron in _most(wanted, self.prices[value][1] * wrong):
            split = float(at[neuron])
            if distance[neuron] <= _WHOLE:
                # Whole, but the level of another accumulator: part them.
                split = float(whole[neuron]) + (0.5 if above[neuron] > below[neuron] else -0.5)
            self._between(value, neuron, float(lower[neuron]), float(upper[neuron]), split)

    def _between(self, value: int, neuron: int, lower: float, upper: float, split: float) -> None:
        """Add the branching of whole levels around a split."""
        last = min(max(float(np.floor(split)), lower), upper - 1.0)
        self.found.append(
            Branching(
                Decision(value, "quantized", neuron, lower, last),
                Decision(value, "quantized", neuron, last + 1.0, upper),
                max(split - last, 0.0),
                max(last + 1.0 - split, 0.0),
                float(self.prices[value][1][neuron]),
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
        prices = self.prices[value][0 if part.face == "float" else 1]
        for neuron in _most(wanted, prices * wrong):
            away = float(source[neuron]) - part.kink
            self.found.append(
                Branching(
                    Decision(node.source, part.face, neuron, float(lower[neuron]), part.kink),
                    Decision(node.source, part.face, neuron, part.kink, float(upper[neuron])),
                    max(away, 0.0) + float(wrong[neuron]),
                    max(-away, 0.0) + float(wrong[neuron]),
                    float(prices[neuron]),
                )
            )

    def _curve(self, value: int, node: MergedActivation, part: CurvePart) -> None:
        """Find results that are off their curve; the range of the source is cut where the point is."""
        columns = part.source.columns
        lower, upper = self.box.lower[columns], self.box.upper[columns]
        source, result = self.point[columns], self.point[part.result.columns]
        wrong = np.abs(result - part.curve.value(source))
        wanted = self._matters(value, node.size) & (upper - lower > _SHORT) & (wrong > _WHOLE)
        prices = self.prices[value][0 if part.face == "float" else 1]
        for neuron in _most(wanted, prices * wrong):
            low, high = float(lower[neuron]), float(upper[neuron])
            split = min(max(float(source[neuron]), 0.75 * low + 0.25 * high), 0.25 * low + 0.75 * high)
            self.found.append(
                Branching(
                    Decision(node.source, part.face, neuron, low, split),
                    Decision(node.source, part.face, neuron, split, high),
                    float(wrong[neuron]),
                    float(wrong[neuron]),
                    float(prices[neuron]),
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
                    1.0,
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
    """What branchings have gained so far, per unit of distance: pseudo-costs.

    Parameters
    ----------
    sums : dict from (objective, key, side) to (gained, promised, distance, count)
        The side is 0 for the low decision and 1 for the high one.  What is promised is distance times price.
    """

    sums: dict[tuple[int, tuple[int, Face, int], int], tuple[float, float, float, int]] = field(
        default_factory=dict[tuple[int, tuple[int, Face, int], int], tuple[float, float, float, int]]
    )
    _gained: float = field(init=False, default=0.0)
    _promised: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        for gained, promised, _, _ in self.sums.values():
            self._gained += gained
            self._promised += promised

    def add(self, objective: int, branching: Branching, side: int, gain: float | None) -> None:
        """Note what one decision has gained; None where it leaves nothing, which says nothing of other nodes."""
        key = objective, branching.key, side
        gained, promised, distance, count = self.sums.get(key, _NOTHING)
        if gain is None:
            self.sums[key] = gained, promised, distance, count + 1
            return
        way = branching.distances[side]
        promise = branching.price * way
        self.sums[key] = gained + gain, promised + promise, distance + way, count + 1
        self._gained += gain
        self._promised += promise

    def join(self, other: Gains) -> Gains:
        """Return those of both."""
        sums = dict(self.sums)
        for key, more in other.sums.items():
            known = sums.get(key, _NOTHING)
            sums[key] = (known[0] + more[0], known[1] + more[1], known[2] + more[2], known[3] + more[3])
        return Gains(sums)

    def tries(self, objective: int, branching: Branching) -> int:
        """Return how often the less tried side of a branching has been tried."""
        return min(self.sums.get((objective, branching.key, side), _NOTHING)[3] for side in (0, 1))

    def score(self, objective: int, branching: Branching) -> float:
        """Return the product of what both decisions can be expected to gain.

        That is the distance times what was gained per distance before, with one more try that keeps as much of its
        promise as is usual.
        """
        usual = self._gained / self._promised if self._promised > 0.0 else 1.0
        result = 1.0
        for side, way in enumerate(branching.distances):
            gained, _, distance, _ = self.sums.get((objective, branching.key, side), _NOTHING)
            result *= max((gained + usual * branching.price * way) / (distance + way) * way, _LEAST)
        return result
