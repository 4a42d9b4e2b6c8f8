"""Search for inputs on which the two networks differ most, on bit-exact execution.

A population of points for each objective (output and sign) makes moves along gradients, along codes and by
mixing, keeps what is better and starts again where it is stuck; then the best points are polished input by
input.  The answer is a lower bound with its witness, never more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import UsageError
from milpq.merge import Problem
from milpq.network.nodes import Affine
from milpq.search.budget import Budget
from milpq.search.codes import count_codes, levels_of
from milpq.search.execution import Execution, signed
from milpq.search.gradient import difference_gradient
from milpq.search.inputs import FeedableInputs
from milpq.search.moves import Moves
from milpq.search.pool import WitnessPool

_ELEMENTS = 2_000_000
"""Numbers that one generation of children may hold."""

_CHUNK_OPERATIONS = 2e8
"""Multiplications between two looks at the budget: a tenth of a second or so."""

_FEW_INPUTS = 16
"""With more inputs most of the effort goes to climbs."""

_EVOLVED, _DONE = 0.5, 0.9
"""Shares of the effort after which evolution, and climbing, end; the rest is for polishing."""

_CLIMBED = 3
"""Objectives that climbs are made for."""

_CLIMBERS, _JUMPS = 16, 24
"""Points that climb together, and children of each."""

_LEAST_CLIMB, _MIXED = 60, 15
"""Rounds that the effort must suffice for, or fewer points climb; how often the worse ones start anew."""

_GENERATIONS = 40
"""Generations that the effort must suffice for; the population is smaller where it would not."""


@dataclass(frozen=True, slots=True)
class WitnessOptions:
    """How hard to search.

    Parameters
    ----------
    evaluations : int
        Executions of both networks, roughly.
    seed : int
        The result is a function of the problem, the options and the points given, unless a time limit cuts
        it.
    population : int
        Points kept for each objective.
    brood : int
        Children of each point in a generation.
    patience : int
        Generations without progress after which a point starts again.
    each : bool
        Search for the extremes of every output alike; else the later half of the effort goes to the
        objectives that may still hold the largest difference of all.
    """

    evaluations: int = 200_000
    seed: int = 0
    population: int = 48
    brood: int = 32
    patience: int = 10
    each: bool = False

    def __post_init__(self) -> None:
        if min(self.evaluations, self.population, self.patience) < 1 or self.brood < 4:
            raise UsageError("witness search: counts must be positive and a brood at least 4")


def search_witnesses(
    problem: Problem,
    options: WitnessOptions | None = None,
    *,
    pool: WitnessPool | None = None,
    starts: Float64Array | None = None,
    budget: Budget | None = None,
) -> WitnessPool:
    """Search for a witness of every objective.

    Parameters
    ----------
    pool : WitnessPool, optional
        Witnesses known already; they are kept and started from.
    starts : float64, shape (points, inputs), optional
        Points to start from besides, such as a solver's; they are moved to the nearest feedable inputs.
    budget : Budget, optional
        Time limit and cancel flag; its evaluations, where set, take the place of the options'.

    Returns
    -------
    WitnessPool
        Never worse than the pool given, in any objective.
    """
    options = options or WitnessOptions()
    budget = budget or Budget()
    if budget.evaluations is None:
        budget.evaluations = options.evaluations
    search = _Search(problem, options, pool or WitnessPool.empty(problem), budget)
    search.sample(starts)
    many = problem.merged.input_size > _FEW_INPUTS
    search.evolve(_EVOLVED if many else _DONE)
    if many:
        search.climb(_DONE)
    search.polish()
    return search.pool


class _Search:
    """State of one search: the pool, and a population of points with their objectives and values."""

    def __init__(self, problem: Problem, options: WitnessOptions, pool: WitnessPool, budget: Budget) -> None:
        self._problem = problem
        self._options = options
        self._budget = budget
        self._inputs = FeedableInputs(problem)
        self._moves = Moves(self._inputs)
        self._execution = Execution(problem)
        self._generator = np.random.default_rng(options.seed)
        self._limit = budget.evaluations if budget.evaluations is not None else options.evaluations
        objectives, inputs = self._execution.objectives, self._inputs.size
        room = min(_ELEMENTS // inputs, self._limit // _GENERATIONS) // (options.brood * objectives)
        self._population = max(2, min(options.population, room))
        # Networks of hundreds of outputs have too many objectives for all of them to move at once.
        self._parents = max(1, _ELEMENTS // (inputs * options.brood))
        nodes = (node for node in problem.float_network.nodes if isinstance(node, Affine))
        weights = sum(float(term.matrix.size) for node in nodes for term in node.terms)
        self._chunk = int(min(max(_CHUNK_OPERATIONS / max(weights, 1.0), 16), 1 << 16))
        self.pool = pool
        self.points = np.zeros((0, inputs))
        self.values = np.zeros(0)
        self.objective: Int64Array = np.zeros(0, dtype=np.int64)

    def run(self, points: Float64Array) -> Float64Array:
        """Execute feedable points, remember the best, and return their objectives (points, objectives).

        Points that the budget does not reach have the value minus infinity; something is executed in any case.
        """
        values = np.full((len(points), self._execution.objectives), -np.inf)
        for start in range(0, len(points), self._chunk):
            if self._budget.used and (self._budget.out_of_time or self._budget.cancelled()):
                break
            part = points[start : start + self._chunk]
            levels = self._inputs.levels(part)
            difference = self._execution.run(part, None if self._problem.domain.integer is None else levels)
            self._budget.used += len(part)
            self.pool = self.pool.update(part, levels, difference, self._execution.error)
            values[start : start + len(part)] = signed(difference)
        return values

    def sample(self, starts: Float64Array | None) -> None:
        """Fill the population with the best of a first sample."""
        inputs = self._inputs
        most = max(64, _ELEMENTS // inputs.size)
        count = int(min(max(64, self._limit * 2 // 5), most, 1 << 16))
        uniform = inputs.random(self._generator, count // 2)
        corner = self._generator.integers(2, size=(count // 4, inputs.size))
        mixed = np.where(
            self._generator.random((count // 4, inputs.size)) < 0.5,
            np.where(self._generator.random((count // 4, inputs.size)) < 0.5, inputs.lower, inputs.upper),
            inputs.random(self._generator, count // 4),
        )
        known = self.pool.points[np.isfinite(self.pool.lower)]
        parts = [
            known,
            0.5 * (inputs.lower + inputs.upper)[None],
            _all_codes(self._problem, count) if inputs.on_codes else _grid(inputs, count // 4),
            np.where(corner == 1, inputs.upper, inputs.lower),
            mixed,
            uniform,
        ]
        if starts is not None and len(starts):
            parts.insert(0, starts[:most])
        points = inputs.snap(np.concatenate(parts))
        values = self.run(points)
        chosen = [_largest(values[:, k], self._population) for k in range(values.shape[1])]
        self.points = np.concatenate([points[rows] for rows in chosen])
        self.values = np.concatenate([values[rows, k] for k, rows in enumerate(chosen)])
        counts = [len(rows) for rows in chosen]
        self.objective = np.repeat(np.arange(len(chosen), dtype=np.int64), counts)
        if len(self.points) > self._parents:
            self._thin()

    def _thin(self) -> None:
        """Keep as many points as one generation can hold: those of the objectives with the largest values."""
        best = np.full(self._execution.objectives, -np.inf)
        np.maximum.at(best, self.objective, self.values)
        rows = np.lexsort((-self.values, -best[self.objective]))[: self._parents]
        self.points, self.values, self.objective = self.points[rows], self.values[rows], self.objective[rows]

    def evolve(self, until: float) -> None:
        """Let the population move until a share of the effort is spent."""
        age = np.zeros(len(self.points), dtype=np.int64)
        focused = self._options.each
        while self._budget.used < until * self._limit and not self._budget.spent:
            if not focused and self._budget.used > 0.5 * until * self._limit:
                focused = True
                age = age[self._focus()]
            children = self._moves.children(self._generator, self.points, self.objective, self._options.brood)
            count, brood, inputs = children.shape
            values = self.run(children.reshape(-1, inputs)).reshape(count, brood, -1)
            own = np.take_along_axis(values, self.objective[:, None, None], axis=2)[:, :, 0]
            best = np.argmax(own, axis=1)
            row = np.arange(count, dtype=np.int64)
            better = own[row, best] > self.values
            self.points = np.where(better[:, None], children[row, best], self.points)
            self.values = np.where(better, own[row, best], self.values)
            age = np.where(better, 0, age + 1)
            self._restart(age)

    def climb(self, until: float) -> None:
        """Climb from random points and witnesses, for some of the best objectives, until a share is spent."""
        start = self._budget.used
        left = until * self._limit - start
        best = np.argsort(-self.pool.lower, kind="stable")[:_CLIMBED].tolist()
        for done, objective in enumerate(best):
            self._climb_one(objective, start + left * (done + 1) / len(best))

    def _climb_one(self, objective: int, until: float) -> None:
        """Move a few points by jumps; now and then the worse half starts anew as mixtures of the better one."""
        generator, left = self._generator, until - self._budget.used
        count = int(np.clip(left / (_JUMPS * _LEAST_CLIMB), 4, _CLIMBERS))
        every = max(8, int(left / (_JUMPS * count)) // _MIXED)
        points, objectives = self._inputs.random(generator, count), np.full(count, objective, dtype=np.int64)
        points[0] = self.pool.points[objective]
        values, row = np.full(count, -np.inf), np.arange(count)
        values[0] = self.pool.lower[objective]
        rounds = 0
        while self._budget.used < until and not self._budget.spent:
            children = self._moves.jumps(generator, points, objectives, _JUMPS)
            found = self.run(children.reshape(-1, children.shape[2]))[:, objective].reshape(count, _JUMPS)
            best = found.argmax(axis=1)
            better = found[row, best] >= values
            points = np.where(better[:, None], children[row, best], points)
            values = np.where(better, found[row, best], values)
            rounds += 1
            if rounds % every == 0:
                order = np.argsort(-values, kind="stable")
                good, bad = order[: count // 2], order[count // 2 :]
                first, second = generator.choice(good, size=(2, len(bad)))
                share = generator.random((len(bad), points.shape[1])) < 0.5
                points[bad] = np.where(share, points[first], points[second])
                values[bad] = -np.inf

    def polish(self) -> None:
        """Try every value of every input on the best witnesses until none helps."""
        for objective in sorted(range(len(self.pool.lower)), key=lambda k: -float(self.pool.lower[k])):
            while not self._budget.spent and self._polish_once(objective):
                pass

    def _polish_once(self, objective: int) -> bool:
        before = float(self.pool.lower[objective])
        point = self.pool.points[objective]
        through_float = difference_gradient(self._problem, point[None], np.array([objective]))[1][0]
        if self._problem.domain.kind == "continuous":
            self.run(self._moves.to_cell_ends(point[None], through_float[None] > 0))
        dimensions = self._generator.permutation(self._inputs.size)
        for block in range(0, len(dimensions), 16):
            lines = [self._moves.line(point, through_float, int(d)) for d in dimensions[block : block + 16]]
            self.run(np.concatenate(lines))
            if self._budget.spent:
                break
        return bool(self.pool.lower[objective] > before)

    def _focus(self) -> Int64Array:
        """Keep the objectives within a half of the largest difference; return the rows kept."""
        lower = self.pool.lower
        promising = np.flatnonzero(lower >= lower.max() - 0.5 * abs(lower.max()))
        rows = np.flatnonzero(np.isin(self.objective, promising))
        if not len(rows):
            return np.arange(len(self.objective))
        self.points, self.values = self.points[rows], self.values[rows]
        self.objective = self.objective[rows]
        return rows

    def _restart(self, age: Int64Array) -> None:
        """Replace points without progress, in place, by new random ones; the best are safe in the pool."""
        stuck = np.flatnonzero(age > self._options.patience)
        if not len(stuck):
            return
        fresh = self._inputs.random(self._generator, len(stuck))
        # Half of the restarts are shaken copies of the best witness, which climb back quickly.
        near = self._generator.random(fresh.shape) < 0.3
        home = self.pool.points[self.objective[stuck]]
        local = self._generator.random((len(stuck), 1)) < 0.5
        fresh = np.where(local & ~near, home, fresh)
        self.points[stuck] = fresh
        values = self.run(fresh)
        self.values[stuck] = values[np.arange(len(stuck)), self.objective[stuck]]
        age[stuck] = 0


def _largest(values: Float64Array, count: int) -> Int64Array:
    """Return where the largest values are, the largest first and equal ones in order."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    rows = np.flatnonzero(values >= np.partition(values, len(values) - count)[len(values) - count])
    return rows[np.argsort(-values[rows], kind="stable")[:count]]


def _all_codes(problem: Problem, count: int) -> Float64Array:
    """Return every input of a domain of at most `count` code vectors, or a grid of them."""
    inputs, root = FeedableInputs(problem), problem.domain.root
    codes = int(count_codes(root)[0])
    if codes > count:
        return _grid(inputs, count // 4)
    levels = levels_of(root, 0, codes)[1]
    return inputs.points_of_levels(levels, np.zeros(levels.shape))


def _grid(inputs: FeedableInputs, count: int) -> Float64Array:
    """Return a full grid of at most `count` points, ends included; empty where the corners are too many."""
    steps = int(count ** (1.0 / inputs.size)) if count else 0
    if steps < 2:
        return np.zeros((0, inputs.size))
    share = np.array(list(itertools.product(np.linspace(0.0, 1.0, steps), repeat=inputs.size)))
    return inputs.lower + (inputs.upper - inputs.lower) * share
