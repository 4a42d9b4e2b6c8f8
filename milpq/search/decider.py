"""Trees of decisions: each bound of a claim proved by deciding steps and phases, each leaf with its multipliers.

Where inputs are too many to be split, what the networks do is decided instead: on which side of a threshold an
accumulator lies, on which side of its kink a neuron.  The branch and bound on linear programs
(`milpq.search.tree`) finds the decisions, and the duals of its leaves are the multipliers that the checker takes.
Nothing here needs to be believed: what a leaf proves is computed by the checker's own methods, and a leaf that does
not prove enough is worked on further.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.certificate.execution import Execution
from milpq.certificate.format import BOUND, DUAL, EXECUTED
from milpq.certificate.slopes import dual_upper
from milpq.certificate.traces import Trace
from milpq.certificate.tree import Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError, DisjointBoundsError, SoundnessError
from milpq.merge import Cubes, MergedActivation, MergedAffine, Problem
from milpq.milp.backends.protocol import Backend
from milpq.milp.encode import Encoder
from milpq.milp.model import RowBlock
from milpq.milp.scaling import ScaledSession
from milpq.search.budget import Budget
from milpq.search.checkpoint import Arrays
from milpq.search.codes import count_codes
from milpq.search.execution import execution_s
from milpq.search.proof import DUAL_SLACK, SLACK, Tree, raised, sizes
from milpq.search.tree import Decision, Evidence, EvidenceKind, Node, TreeOptions, TreeResult, tree_search
from milpq.search.tree.branching import Branching, Prices, branchings
from milpq.search.tree.jobs import Done
from milpq.search.tree.region import Box
from milpq.search.tree.state import NamedNode, pack_nodes, unpack_nodes

_FAR: Final = 1e5
"""Largest multiplier that shows a leaf to have no inputs, in goals."""

_LEAST: Final = 1e-13
"""Multipliers below this share of the largest are dropped."""

_SEARCH_SHARE: Final = 0.6
"""Of the time, for a branch and bound."""

_MOST_CODES, _EXECUTION_S = 4096, 0.1
"""Code vectors of a leaf that are executed, or more that take no longer than so many processor seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A leaf of the branch and bound with the names of the rows that its duals belong to."""

    node: Node
    rows: tuple[RowBlock, ...]

    @property
    def is_ray(self) -> bool:
        """Whether the duals show that there are no inputs."""
        return self.node.evidence.kind == "infeasible"


_Name: TypeAlias = tuple[int, tuple[Decision, ...]]


def _name(node: Node) -> _Name:
    return node.objective, node.decisions


class Leaves:
    """Collects the leaves of a branch and bound, for a certificate to be made of them."""

    def __init__(self) -> None:
        # By what a node is, not by the object: an id can be given again.
        self._rows: dict[_Name, tuple[RowBlock, ...]] = {}
        self._done: list[Found] = []
        self._open: list[Found] = []
        self.upper = np.inf

    def add(self, done: Done) -> None:
        """Take the leaves of a job."""
        for node in done.leaves:
            self._done.append(Found(node, done.row_blocks or self._rows.get(_name(node), ())))
        self._rows.update((_name(node), done.row_blocks) for node in done.open)

    def finish(self, result: TreeResult) -> None:
        """Take what has stayed open; the search may go on from there."""
        self._rows = {_name(node): self._rows.get(_name(node), ()) for node in result.open}
        self._open = [Found(node, self._rows[_name(node)]) for node in result.open]
        self.upper = float(result.upper.max())

    def arrays(self, nodes: tuple[Node, ...]) -> Arrays:
        """Return what a journal keeps: the leaves, and the open nodes of the search, with their evidence."""
        done = pack_nodes([(found.node, found.rows) for found in self._done], "leaves")
        return done | pack_nodes([(node, self._rows.get(_name(node), ())) for node in nodes], "open")

    @classmethod
    def restored(cls, arrays: Arrays, nodes: Sequence[NamedNode]) -> Leaves:
        """Return the leaves that a journal has kept; `nodes` are the open ones that the search goes on with."""
        result = cls()
        result._done = [Found(node, rows) for node, rows in unpack_nodes(arrays, "leaves")]
        result._rows = {_name(node): rows for node, rows in nodes}
        return result

    def of(self, objective: int) -> list[Found]:
        """Return what covers the domain for one objective."""
        return [found for found in (*self._done, *self._open) if found.node.objective == objective]


class Decider:
    """Proves the bounds of a claim one by one.

    Parameters
    ----------
    backend : Backend
        Solves the linear programs; its answers are hints.
    bounds : Bounds
        Of the root cube.
    """

    def __init__(self, problem: Problem, zonotope: Zonotope, backend: Backend, bounds: Bounds) -> None:
        self._problem, self._zonotope, self._backend, self._bounds = problem, zonotope, backend, bounds
        self._splitter = Splitter(problem.domain, zonotope.whole)
        self._encoder = Encoder(problem)
        self._batch = zonotope.leaves_in(1 << 21)
        self._few = max(_MOST_CODES, int(_EXECUTION_S / execution_s(problem)))
        self._goal = np.inf
        self._trees: list[Tree] = []
        self._open: list[tuple[float, int, int, tuple[Decision, ...]]] = []
        self._quantity: dict[int, tuple[int, MergedActivation]] = {}
        row = 0
        for index, node in enumerate(problem.merged.nodes):
            if isinstance(node, MergedActivation):
                # Kinks are decided on what an activation reads, levels on what it gives.
                self._quantity.setdefault(node.source, (row, node))
                self._quantity[index + 1] = row, node
                row += 2 * node.size

    def run(
        self,
        goal: float,
        budget: Budget,
        on_progress: Callable[[float, int, int], None] | None,
        known: Leaves | None = None,
    ) -> tuple[Tree, ...]:
        """Decide until every leaf of every tree is within the goal or the budget spent, the worst leaves first.

        Parameters
        ----------
        known : Leaves, optional
            Of a branch and bound that has been done; where it is within the goal no other one is.
        """
        self._goal = goal
        root = self._splitter.root()
        trace = self._zonotope.trace(self._splitter.cubes([root]), None)
        upper = raised(self._zonotope.bounds(trace), sizes(self._problem, trace), SLACK)[0]
        self._trees = [Tree(root, objective, 1) for objective in range(len(upper))]
        for objective, tree in enumerate(self._trees):
            tree.settle(0, BOUND, upper[objective : objective + 1])
        missed = np.flatnonzero(upper > goal).tolist()
        try:
            if missed and (known is None or known.upper > goal):
                known = self._search(upper, budget)
            for objective in missed:
                self._plant(objective, [] if known is None else known.of(objective))
            self._refine(budget, on_progress)
        except KeyboardInterrupt:
            pass
        for tree in self._trees:
            tree.prune()
        return tuple(self._trees)

    def _search(self, upper: Float64Array, budget: Budget) -> Leaves:
        """Return the leaves of a branch and bound that stops at the goal, or early."""
        leaves = Leaves()
        left = None if budget.time_limit_s is None else budget.time_limit_s - budget.elapsed_s
        result = tree_search(
            self._problem,
            self._bounds,
            self._backend,
            TreeOptions(tolerance=self._goal, witness_evaluations=0),
            upper=upper,
            budget=Budget(None if left is None else _SEARCH_SHARE * left),
            on_done=leaves.add,
        )
        if result.status == "interrupted":
            raise KeyboardInterrupt
        leaves.finish(result)
        return leaves

    def _plant(self, objective: int, found: list[Found]) -> None:
        """Make the tree of an objective of the leaves that were found, and bound its own leaves."""
        leaves: dict[int, Found] = {}
        stack = [(0, 0, found)]
        while stack:
            number, depth, here = stack.pop()
            ways = {entry.node.decisions[depth] for entry in here if len(entry.node.decisions) > depth}
            low = min(ways, key=lambda decision: decision.lower, default=None)
            halves = None if len(ways) != 2 or low is None else self._halve(objective, number, low)
            if halves is None:
                # One leaf, or decisions that a certificate cannot state: what is below is left out.
                leaves[number] = here[0] if here else self._root(objective)
                if len(here) > 1:
                    node = here[0].node
                    leaves[number] = Found(replace(node, decisions=node.decisions[:depth]), ())
                continue
            for side in (0, 1):
                part = [entry for entry in here if (entry.node.decisions[depth] == low) == (side == 0)]
                stack.append((halves[side], depth + 1, part))
        self._bound(objective, leaves)

    def _root(self, objective: int) -> Found:
        return Found(Node(objective, (), np.inf, Evidence("root", 0)), ())

    def _halve(self, objective: int, number: int, low: Decision) -> list[int] | None:
        """Split a leaf as a decision does; None where a certificate cannot state it."""
        tree, inputs = self._trees[objective], self._problem.merged.input_size
        if low.value == 0:
            dimension, cut = low.neuron, low.upper
        elif low.value in self._quantity:
            row, node = self._quantity[low.value]
            on_quantized = low.face == "quantized"
            dimension, cut = inputs + row + low.neuron + (node.size if on_quantized else 0), low.upper
            if node.step is not None and on_quantized and node.source != low.value:
                level = np.full(node.size, int(low.upper), dtype=np.int64)
                cut = float(node.step.preimage(level, level)[1][low.neuron])
        else:
            return None
        try:
            halves = self._splitter.split(tree.parts([number])[0], dimension, cut)
        except CertificateError:
            return None
        return tree.split(number, dimension, cut, halves)

    def _bound(self, objective: int, leaves: dict[int, Found]) -> None:
        """Bound leaves by what their nodes rest on, and keep those open that miss the goal."""
        tree, numbers = self._trees[objective], list(leaves)
        for start in range(0, len(numbers), self._batch):
            some = numbers[start : start + self._batch]
            parts = tree.parts(some)
            cubes = self._splitter.cubes(parts)
            trace = self._zonotope.trace(cubes, self._splitter.limits(parts))
            size = sizes(self._problem, trace)[:, objective]
            bounds = self._zonotope.bounds(trace)[:, objective]
            self._settle(tree, some, BOUND, raised(bounds, size, SLACK))
            given = [self._multipliers(leaves[number]) for number in some]
            # Solvers differ in the sign of rays.
            for sign in (1.0, -1.0) if any(leaves[number].is_ray for number in some) else (1.0,):
                signed = [(quantity, sign * weight) for quantity, weight in given]
                dense = np.zeros((len(self._zonotope.whole), len(signed)))
                for leaf, (quantity, weight) in enumerate(signed):
                    dense[quantity, leaf] = weight
                upper = dual_upper(self._problem, trace, objective, dense)
                self._settle(tree, some, DUAL, raised(upper, size, DUAL_SLACK), signed)
            self._execute(tree, some, cubes, size)
            for number in some:
                bound = float(tree.bound(number)[0])
                if bound > self._goal:
                    heapq.heappush(self._open, (-bound, objective, number, leaves[number].node.decisions))

    def _settle(
        self,
        tree: Tree,
        numbers: list[int],
        kind: int,
        upper: Float64Array,
        multipliers: list[tuple[Int64Array, Float64Array]] | None = None,
    ) -> None:
        """Note bounds that are better than what is proved, where that is not good enough."""
        for leaf, number in enumerate(numbers):
            proved = tree.proved(number)[0]
            if proved > self._goal and upper[leaf] < proved:
                given = None if multipliers is None else multipliers[leaf]
                tree.settle(number, kind, upper[leaf : leaf + 1], given)

    def _execute(self, tree: Tree, numbers: list[int], cubes: Cubes, size: Float64Array) -> None:
        """Execute the codes of leaves that miss the goal and hold few."""
        if self._problem.domain.kind == "real":
            return
        here = np.flatnonzero(
            [tree.bound(number)[0] > self._goal for number in numbers] & (count_codes(cubes) <= self._few)
        )
        if len(here):
            goal = np.full(2 * len(self._problem.outputs), self._goal)
            execution = Execution(self._problem, self._zonotope, goal)
            some = cubes.select(here)
            upper = raised(execution.upper(some)[:, tree.objective], size[here], SLACK)
            self._settle(tree, [numbers[leaf] for leaf in here.tolist()], EXECUTED, upper)

    def _refine(self, budget: Budget, on_progress: Callable[[float, int, int], None] | None) -> None:
        """Solve the linear program of each open leaf, the worst first; decide further where that is not enough."""
        while self._open and not budget.spent:
            bound, objective, number, decisions = heapq.heappop(self._open)
            tree = self._trees[objective]
            found, ways = self._program(objective, number, decisions)
            self._bound(objective, {number: found})
            if tree.bound(number)[0] > self._goal:
                self._open = [entry for entry in self._open if entry[1:3] != (objective, number)]
                heapq.heapify(self._open)
                for way in ways:
                    halves = self._halve(objective, number, way.low)
                    if halves is not None:
                        for half, decision in zip(halves, (way.low, way.high), strict=True):
                            below = (*decisions, decision)
                            heapq.heappush(self._open, (-float(tree.bound(half)[0]), objective, half, below))
                        break
            if on_progress is not None:
                leaves = sum(tree.leaves for tree in self._trees)
                on_progress(-bound, len(self._open), leaves - len(self._open))

    def _program(
        self, objective: int, number: int, decisions: tuple[Decision, ...]
    ) -> tuple[Found, list[Branching]]:
        """Return what a linear program gives on the checker's ranges, and what could be decided there, best first."""
        part = self._trees[objective].parts([number])
        cubes = self._splitter.cubes(part)
        trace = self._zonotope.trace(cubes, self._splitter.limits(part))
        try:
            encoding = self._encoder.encode(cubes, self._ranges(trace), cuts=True)
        except (DisjointBoundsError, SoundnessError):
            return Found(Node(objective, decisions, np.inf, Evidence("root", 0)), ()), []
        chosen = len(self._problem.outputs)
        box = Box(encoding.model.lower, encoding.model.upper)
        aim = encoding.objective(objective % chosen, 1 if objective < chosen else -1)
        with ScaledSession(self._backend, encoding.solver_model.relaxed()) as session:
            solution = session.maximize(aim)
        if solution.interrupted:
            raise KeyboardInterrupt
        kind: EvidenceKind = "dual" if solution.duals is not None else "infeasible"
        duals = solution.duals if solution.duals is not None else solution.ray
        duals = np.zeros(0) if duals is None else np.nan_to_num(duals)
        rows = np.flatnonzero(duals)
        node = Node(
            objective, decisions, np.inf, Evidence(kind, len(decisions), len(decisions), rows, duals[rows])
        )
        output = int(self._problem.outputs[objective % chosen])
        prices = Prices(encoding).of(aim, solution.duals)
        return Found(node, encoding.model.row_blocks), branchings(
            encoding, box, solution.point, output, prices
        )

    def _ranges(self, trace: Trace) -> Bounds:
        """Return what the checker knows of all values of one leaf."""
        ends = [[*sides, None] for sides in trace.sides]
        layers = iter(trace.layers)
        for node in self._problem.merged.nodes:
            if isinstance(node, MergedActivation):
                layer = next(layers)
                ends[node.source] = [layer.a, layer.v, layer.d]
        values: list[ValueBounds] = []
        for a, v, d in ends:
            assert a is not None
            assert v is not None
            apart = d or (np.nextafter(v[0] - a[1], -np.inf), np.nextafter(v[1] - a[0], np.inf))
            values.append(ValueBounds(*(Interval(low.T, high.T) for low, high in (a, v, apart))))
        return Bounds(tuple(values), self._problem.merged.output)

    def _multipliers(self, found: Found) -> tuple[Int64Array, Float64Array]:
        """Return quantities and multipliers: the duals of the rows of affine maps.

        A row states ``W·h + b − a = 0``; its dual ``y`` adds ``y·a`` to what is bounded, so the multiplier is ``−y``.
        """
        evidence = found.node.evidence
        if evidence.rows is None or evidence.duals is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        names: dict[tuple[int, str], tuple[int, Float64Array | None]] = {}
        for value, (row, node) in self._quantity.items():
            source = self._problem.merged.nodes[value - 1] if value == node.source else None
            if isinstance(source, MergedAffine):
                names[value, f"{source.name}/float"] = row, None
                names[value, f"{source.name}/quantized"] = row + node.size, source.scale
        quantities: list[Int64Array] = []
        weights: list[Float64Array] = []
        for block in found.rows:
            if (block.value, block.name) not in names:
                continue
            row, unit = names[block.value, block.name]
            here = np.flatnonzero((evidence.rows >= block.start) & (evidence.rows < block.stop))
            neuron = block.neurons[evidence.rows[here] - block.start]
            quantities.append(row + neuron)
            weights.append(-evidence.duals[here] / (1.0 if unit is None else unit[neuron]))
        none = np.zeros(0)
        quantity = np.concatenate([none.astype(np.int64), *quantities])
        weight = np.concatenate([none, *weights])
        if found.is_ray:
            # A ray, at whose end what is bounded is far below any goal.
            weight *= _FAR * self._goal / max(float(np.abs(weight).max(initial=0.0)), 1e-300)
        return quantity, weight
