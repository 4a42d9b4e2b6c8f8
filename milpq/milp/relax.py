"""Bounds by linear programs: on the outputs, and on the values inside (optimality-based bound tightening).

The solver proposes dual solutions; every bound is `milpq.milp.safe.safe_upper_bound` of these, evaluated
against the model that true points satisfy in exact arithmetic.  A solver that lies gives a weak bound,
never a wrong one.

References: A. Gleixner, T. Berthold, B. Müller and S. Weltge, *Three enhancements for optimization-based
bound tightening*, Journal of Global Optimization 67 (2017) (filtering by the points of earlier programs).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.bounds.outward import down, up
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge.domain import Cubes
from milpq.merge.nodes import MergedAffine
from milpq.merge.problem import Problem
from milpq.milp.backends.protocol import Backend, Session, SolveOptions
from milpq.milp.encode import Encoder, Encoding
from milpq.milp.faces import Faces
from milpq.milp.safe import safe_upper_bound
from milpq.milp.scaling import ScaledSession

_NEAR = 1e-3  # of its range: a column seen so close to its bound can hardly be tightened


@dataclass(frozen=True, slots=True, eq=False)
class LpBound:
    """Certified bounds on the differences of the chosen outputs.

    Parameters
    ----------
    lower, upper : float64, shape (chosen,)
        Real units; as sharp as the bounds the model was made of, or sharper.
    points : float64, shape (points, inputs)
        Inputs of the solutions: starts for a search, no more.
    complete : bool
        False where time ran out or the solver failed; the bounds hold all the same.
    time_s : float
    """

    lower: Float64Array
    upper: Float64Array
    points: Float64Array
    complete: bool
    time_s: float


def lp_bound(
    problem: Problem,
    cubes: Cubes,
    bounds: Bounds,
    backend: Backend,
    *,
    time_limit: float | None = None,
    encoder: Encoder | None = None,
) -> LpBound:
    """Bound the chosen outputs over one cube by two linear programs each.

    Parameters
    ----------
    bounds : Bounds
        Valid on the cube.
    encoder : Encoder, optional
        Of this problem, to encode with.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C, when the solver has stopped.

    *Soundness:* dual solutions evaluated with outward rounding, intersected with `bounds`.
    """
    started = time.perf_counter()
    encoding = (encoder or Encoder(problem)).encode(cubes, bounds, cuts=True)
    outputs = problem.outputs
    known = bounds.difference
    ends = {1: known.upper[0, outputs].copy(), -1: -known.lower[0, outputs]}
    points: list[Float64Array] = []
    complete = True
    order = [(position, sign) for position in range(len(outputs)) for sign in (1, -1)]
    # Where time runs out, it should not have been spent on differences that are small anyway.
    order.sort(key=lambda key: -float(ends[key[1]][key[0]]))
    with ScaledSession(backend, encoding.solver_model.relaxed()) as session:
        for position, sign in order:
            left = None if time_limit is None else time_limit - (time.perf_counter() - started)
            if left is not None and left <= 0.0:
                complete = False
                break
            objective = encoding.objective(position, sign)
            solution = session.maximize(objective, SolveOptions(time_limit=left))
            complete &= solution.status == "optimal"
            found = safe_upper_bound(encoding.model, objective, solution.duals)
            ends[sign][position] = min(ends[sign][position], found)
            if solution.point is not None and bool(np.isfinite(solution.point).all()):
                points.append(encoding.point_to_input(solution.point))
            if solution.interrupted:
                raise KeyboardInterrupt
    inputs = np.stack(points) if points else np.zeros((0, problem.merged.input_size))
    return LpBound(frozen(-ends[-1]), frozen(ends[1]), inputs, complete, time.perf_counter() - started)


def obbt(
    problem: Problem,
    cubes: Cubes,
    bounds: Bounds,
    backend: Backend,
    budget_s: float,
    *,
    encoder: Encoder | None = None,
) -> Bounds:
    """Tighten the pre-activations that matter by linear programs, layer by layer, and return all bounds.

    A layer's targets are the float side of unstable activations, the accumulators of undecided steps and the
    differences in front of either, widest first; then the model is made anew with what was found.

    Parameters
    ----------
    budget_s : float
        Seconds for all of it; when they are over, what has been found so far is returned.

    Raises
    ------
    SoundnessError
        A certified bound contradicts `bounds`.
    KeyboardInterrupt
        Ctrl-C, when the solver has stopped.

    *Soundness:* as `lp_bound`; bounds are only intersected.
    """
    deadline = time.perf_counter() + budget_s
    encoder = encoder or Encoder(problem)
    for index, node in enumerate(problem.merged.nodes):
        if not isinstance(node, MergedAffine) or time.perf_counter() >= deadline:
            continue
        value = index + 1
        encoding = encoder.encode(cubes, bounds, cuts=True)
        targets = _targets(encoding, value)
        if not targets:
            continue
        with ScaledSession(backend, encoding.solver_model.relaxed()) as session:
            found = _tighten(encoding, session, targets, deadline)
        if found:
            bounds = _with_columns(bounds, value, encoding.faces[value], found)
    return bounds


@dataclass(frozen=True, slots=True)
class _Target:
    """One column to bound on one side: its largest (sign 1) or smallest value."""

    column: int
    sign: int
    width: float


def _targets(encoding: Encoding, value: int) -> list[_Target]:
    """Return the columns of a value worth bounding, the most promising first."""
    faces = encoding.faces[value]
    wanted: list[_Target] = []
    followers = [
        encoding.faces[index + 1]
        for index, node in enumerate(encoding.problem.merged.nodes)
        if value in node.sources and not isinstance(node, MergedAffine)
    ]
    if value == encoding.problem.merged.output:
        assert faces.difference is not None
        chosen = faces.difference.at(encoding.problem.outputs)
        wanted.extend(_both_ends(chosen.columns, chosen.upper - chosen.lower))
    for follower in followers:
        # A stable side shares its column with the activation; a decided step has a level without freedom.
        float_open = (follower.float_side.columns != faces.float_side.columns) & (
            follower.float_side.lower < follower.float_side.upper
        )
        quantized_open = (follower.quantized.columns != faces.quantized.columns) & (
            follower.quantized.lower < follower.quantized.upper
        )
        for side, mask in (
            (faces.float_side, float_open),
            (faces.quantized, quantized_open),
            (faces.difference, float_open | quantized_open),
        ):
            assert side is not None
            some = side.at(np.flatnonzero(mask))
            unit = 1.0
            if side is faces.quantized and faces.unit is not None:
                unit = faces.unit[mask]
            wanted.extend(_both_ends(some.columns, (some.upper - some.lower) * unit))
    return sorted(wanted, key=lambda target: -target.width)


def _both_ends(columns: Int64Array, widths: Float64Array) -> list[_Target]:
    pairs = zip(columns.tolist(), widths.tolist(), strict=True)
    return [_Target(column, sign, width) for column, width in pairs for sign in (1, -1)]


def _tighten(
    encoding: Encoding, session: Session, targets: list[_Target], deadline: float
) -> dict[tuple[int, int], float]:
    """Return certified upper bounds on ``sign · column`` by column and sign, as far as time allows."""
    model = encoding.model
    most, least = np.full(model.columns, -np.inf), np.full(model.columns, np.inf)
    near = _NEAR * (model.upper - model.lower)
    found: dict[tuple[int, int], float] = {}
    for target in targets:
        column, sign = target.column, target.sign
        seen = most[column] >= model.upper[column] - near[column]
        if sign < 0:
            seen = least[column] <= model.lower[column] + near[column]
        left = deadline - time.perf_counter()
        if left <= 0.0:
            break
        if seen or (column, sign) in found:
            continue
        objective = model.objective(column, float(sign))
        solution = session.maximize(objective, SolveOptions(time_limit=left))
        if solution.interrupted:
            raise KeyboardInterrupt
        if solution.point is not None:
            most, least = np.maximum(most, solution.point), np.minimum(least, solution.point)
        found[column, sign] = safe_upper_bound(model, objective, solution.duals)
    return found


def _with_columns(bounds: Bounds, value: int, faces: Faces, found: dict[tuple[int, int], float]) -> Bounds:
    """Return the bounds intersected with bounds on columns of one value."""
    old = bounds.values[value]
    column_lower = {column: -end for (column, sign), end in found.items() if sign < 0}
    column_upper = {column: end for (column, sign), end in found.items() if sign > 0}

    def collect(columns: Int64Array) -> tuple[Float64Array, Float64Array]:
        return (
            np.array([column_lower.get(column, -np.inf) for column in columns.tolist()]),
            np.array([column_upper.get(column, np.inf) for column in columns.tolist()]),
        )

    float_side = collect(faces.float_side.columns)
    quantized = collect(faces.quantized.columns)
    if faces.unit is not None:
        # Accumulators are integers; their unit is within one rounding of the real scale.
        low, high = np.ceil(quantized[0]), np.floor(quantized[1])
        quantized = down(faces.unit * low, 3), up(faces.unit * high, 3)
        quantized = (
            np.where(np.isfinite(low), quantized[0], -np.inf),
            np.where(np.isfinite(high), quantized[1], np.inf),
        )
    assert faces.difference is not None
    difference = collect(faces.difference.columns)
    fresh = ValueBounds(
        *(Interval(low[None], high[None]) for low, high in (float_side, quantized, difference))
    )
    values = list(bounds.values)
    values[value] = old.intersect(fresh, f"value {value}")
    return Bounds(tuple(values), bounds.output)
