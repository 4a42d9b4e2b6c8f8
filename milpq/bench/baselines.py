"""What others do, to compare with: bounding the two networks apart, and the merged program without differences."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from milpq._arrays import Float64Array, Matrix, frozen
from milpq.bounds import interval, symbolic
from milpq.bounds.outward import down, up
from milpq.bounds.symbolic import never
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge import Cubes, Problem
from milpq.milp.backends import choose_backend
from milpq.milp.encode import Encoder, Encoding
from milpq.milp.model import LinearModel
from milpq.milp.solve import MilpOptions, MilpResult, maximize_outputs
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, FloatNode, Term
from milpq.region.box import Box


@dataclass(frozen=True, slots=True)
class Limits:
    """What a baseline may spend.

    Parameters
    ----------
    solver : str
        Name of a backend.
    time_s : float or None
        Seconds.
    threads, seed : int
    gap : float
        Relative.
    """

    solver: str = "auto"
    time_s: float | None = None
    threads: int = 1
    seed: int = 0
    gap: float = 1e-4


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a baseline gives.

    Parameters
    ----------
    upper : float
        On the largest ``|f_q − f|`` over the chosen outputs, real units.
    lower : float
        Attained by an executed input a solver has proposed; 0 where there was none.
    solver_trusted : bool
        Whether `upper` rests on a solver's claim.
    complete : bool
        False where the time ended a solve early; `upper` holds all the same.
    nodes : int or None
    time_s : float
    """

    upper: float
    lower: float
    solver_trusted: bool
    complete: bool
    nodes: int | None
    time_s: float


def separate(problem: Problem) -> Baseline:
    """Bound the outputs of each network by itself by backward linear bounds, and subtract.

    *Soundness:* each range is that of a checked bound; their difference is rounded outwards.
    """
    started = time.perf_counter()
    ranges: list[tuple[Float64Array, Float64Array]] = []
    for alone in _alone(problem):
        outputs = symbolic(alone, alone.domain.root).difference
        ranges.append((outputs.lower[0, problem.outputs], outputs.upper[0, problem.outputs]))
    upper = _apart(*ranges)
    return Baseline(upper, 0.0, False, True, None, time.perf_counter() - started)


def separate_milp(problem: Problem, limits: Limits) -> Baseline:
    """Find the range of each output of each network by itself by mixed-integer programs, and subtract."""
    started = time.perf_counter()
    ranges: list[tuple[Float64Array, Float64Array]] = []
    trusted, complete, nodes = False, True, 0
    for position, alone in enumerate(_alone(problem)):
        left = None
        if limits.time_s is not None:
            left = max(0.1, (limits.time_s - (time.perf_counter() - started)) / (2 - position))
        bounds = symbolic(alone, alone.domain.root)
        found = _maximize(alone, bounds, Encoder(alone), replace(limits, time_s=left))
        ends = {(result.position, result.sign): result.upper for result in found.objectives}
        chosen = range(len(problem.outputs))
        ranges.append((
            np.array([-ends[position, -1] for position in chosen]),
            np.array([ends[position, 1] for position in chosen]),
        ))  # fmt: skip
        trusted |= any(result.solver_trusted for result in found.objectives)
        complete &= all(result.outcome == "optimal" for result in found.objectives)
        nodes += found.nodes
    return Baseline(_apart(*ranges), 0.0, trusted, complete, nodes, time.perf_counter() - started)


def naive_milp(problem: Problem, limits: Limits) -> Baseline:
    """Maximize the output differences over both networks side by side, with big-M from interval bounds.

    No difference inside the networks has a column that anything binds, and the two output ranges are all that is
    known of the output difference beforehand.
    """
    started = time.perf_counter()
    bounds = _subtracted(interval(problem, problem.domain.root))
    found = _maximize(problem, bounds, _NaiveEncoder(problem), limits, largest_only=True)
    return Baseline(
        max(0.0, found.upper),
        max(0.0, found.attained),
        any(result.solver_trusted for result in found.objectives),
        all(result.outcome in {"optimal", "skipped", "stopped"} for result in found.objectives),
        found.nodes,
        time.perf_counter() - started,
    )


def _maximize(
    problem: Problem, bounds: Bounds, encoder: Encoder, limits: Limits, *, largest_only: bool = False
) -> MilpResult:
    options = MilpOptions(
        time_limit=limits.time_s,
        gap_relative=max(limits.gap / 3, 1e-9),
        threads=limits.threads,
        seed=limits.seed,
        largest_only=largest_only,
    )
    backend = choose_backend(limits.solver).backend
    found = maximize_outputs(problem, problem.domain.root, bounds, backend, options, encoder=encoder)
    if found.interrupted:
        raise KeyboardInterrupt
    return found


def _alone(problem: Problem) -> tuple[Problem, Problem]:
    """Return each network against one that is zero everywhere, so that the difference is the network itself."""
    zero = _zero(problem.float_network)
    outputs = problem.outputs.tolist()
    root, domain = problem.domain.root, problem.domain
    float_box = Box(root.lower[0], root.upper[0])
    first = Problem.create(zero, problem.float_network, float_box, None, outputs)
    kind = None if domain.integer is None else domain.kind
    return first, Problem.create(zero, problem.quantized, domain.box, kind, outputs)


def _zero(network: FloatNetwork) -> FloatNetwork:
    nodes: list[FloatNode] = []
    for node in network.nodes:
        if isinstance(node, Affine):
            terms = tuple(Term(term.source, _zeros(term.matrix)) for term in node.terms)
            nodes.append(Affine(node.name, terms, np.zeros_like(node.bias)))
        else:
            nodes.append(node)
    return FloatNetwork(network.input_size, tuple(nodes), network.output, "zero")


def _zeros(matrix: Matrix) -> Matrix:
    return np.zeros_like(matrix) if isinstance(matrix, np.ndarray) else matrix * 0.0


def _apart(first: tuple[Float64Array, Float64Array], second: tuple[Float64Array, Float64Array]) -> float:
    """Return the largest distance of points of two ranges, rounded upwards."""
    above, below = second[1] - first[0], first[1] - second[0]
    return float(np.nextafter(np.maximum(above, below), np.inf).max())


def _subtracted(bounds: Bounds) -> Bounds:
    """Return the bounds with every difference known only from the two sides."""

    def apart(value: ValueBounds) -> ValueBounds:
        a, v = value.float_side, value.quantized_side
        return ValueBounds(a, v, Interval(down(v.lower - a.upper), up(v.upper - a.lower)))

    return Bounds(tuple(apart(value) for value in bounds.values), bounds.output)


class _NaiveEncoder(Encoder):
    """Encodes a cube and leaves out every row that binds a difference other than that of the outputs."""

    __slots__ = ()

    def encode(
        self, cubes: Cubes, bounds: Bounds, *, cuts: bool = False, stop: Callable[[], bool] = never
    ) -> Encoding:
        """Encode one cube."""
        encoding = super().encode(cubes, bounds, cuts=cuts, stop=stop)
        faces, output = encoding.faces, self.problem.merged.output
        allowed = np.ones(encoding.model.columns, dtype=np.bool_)
        for index, face in enumerate(faces):
            if face.difference is not None and index != output:
                allowed[face.difference.columns] = False
        last = faces[output]
        assert last.difference is not None
        tied = np.zeros(encoding.model.columns, dtype=np.bool_)
        tied[last.difference.columns] = True
        sides = np.concatenate([last.float_side.columns, last.quantized.columns, last.difference.columns])
        of_output = np.zeros(encoding.model.columns, dtype=np.bool_)
        of_output[sides] = True
        model = encoding.model
        rows = model.entry_rows()
        lost = np.zeros(model.rows, dtype=np.bool_)
        lost[rows[~allowed[model.indices]]] = True
        # Of the output difference only the row that defines it stays, not those that bind it to phases.
        binding = np.zeros(model.rows, dtype=np.bool_)
        binding[rows[tied[model.indices]]] = True
        foreign = np.zeros(model.rows, dtype=np.bool_)
        foreign[rows[~of_output[model.indices]]] = True
        keep = ~(lost | (binding & foreign))
        return replace(encoding, model=_rows(model, keep), solver_model=_rows(encoding.solver_model, keep))


def _rows(model: LinearModel, keep: np.ndarray) -> LinearModel:
    """Return the model with some of its rows only."""
    entries = keep[model.entry_rows()]
    counts = np.diff(model.indptr)[keep]
    return replace(
        model,
        row_lower=frozen(model.row_lower[keep]),
        row_upper=frozen(model.row_upper[keep]),
        indptr=frozen(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
        indices=frozen(model.indices[entries]),
        values=frozen(model.values[entries]),
    )
