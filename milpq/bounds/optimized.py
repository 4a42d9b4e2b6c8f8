"""Bounds with optimized slopes: Lagrangian bounds of the pre-activations that matter, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bounds.forward import activation_bounds, affine_bounds, closed, residue_band
from milpq.bounds.lagrangian import Lagrangian, Objectives, output_objectives
from milpq.bounds.prepared import prepared
from milpq.bounds.settled import Settled
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine
from milpq.merge.problem import Problem

FIRST_STEP: Final = 0.012
"""First step of an ascent, as a part of the width of what is bounded: measured on three networks."""

_STEPS = 100

Spread: TypeAlias = Callable[[Callable[[slice], Float64Array], list[slice]], Iterable[Float64Array]]
"""Has a function work on every item, perhaps in several threads; results in order, as of ``map``."""

Inside: TypeAlias = Callable[[Bounds, int, Int64Array], ValueBounds | None]
"""Given bounds, a value and its open neurons: tighter bounds on these, or None where slopes will do."""


def optimized(
    problem: Problem,
    bounds: Bounds,
    *,
    steps: int = _STEPS,
    stop: Callable[[], bool] = lambda: False,
    spread: Spread = map,
    inside: Inside | None = None,
) -> Bounds:
    """Tighten bounds on the whole domain by optimized slopes, from the input to the output.

    In each layer both sides and the difference of the open neurons are bounded, with the bounds found in the
    layers before; the differences of the outputs asked about come last.

    Parameters
    ----------
    bounds : Bounds
        Valid on the root of the domain; one cube.
    steps : int
        Gradient steps for each bound.
    stop : callable
        Asked between batches; once it says True, the bounds so far are returned.
    spread : callable
        Where batches run.
    inside : callable, optional
        Bounds a layer in place of slopes alone, where it is worth it.

    *Soundness:* see `milpq.bounds.lagrangian`; bounds are only intersected.
    """
    merged, ready = problem.merged, prepared(problem.merged)
    values = list(bounds.values)
    for index, node in enumerate(merged.nodes):
        value = index + 1
        what = f"layer {node.name!r}"
        if isinstance(node, MergedAffine):
            fresh = affine_bounds(node, ready.sizes[index], values)
            values[value] = closed(values[value].intersect(fresh, what), node.name)
            neurons = open_neurons(problem.merged, values[value], value)
            if len(neurons) and not stop():
                relaxation = Lagrangian(problem, Bounds(tuple(values), bounds.output), value)
                # In front of the first activation interval bounds are exact.
                if relaxation.open:
                    found = None if inside is None else inside(relaxation.bounds, value, neurons)
                    if found is None:
                        found = tighten(relaxation, value, neurons, steps=steps, stop=stop, spread=spread)
                    values[value] = closed(values[value].intersect(found, what), node.name)
        else:
            residue = ready.residues[index]
            source = values[node.source]
            band = residue_band(node, residue, source)
            values[value] = values[value].intersect(activation_bounds(node, band, source), what)
    result = Bounds(tuple(values), bounds.output)
    if stop():
        return result
    relaxation = Lagrangian(problem, result)
    outputs = output_objectives(problem)
    upper = bound_objectives(relaxation, outputs, steps=3 * steps, stop=stop, spread=spread)
    chosen, known = problem.outputs, values[bounds.output]
    lower, higher = (end.copy() for end in (known.difference.lower, known.difference.upper))
    half = len(chosen)
    higher[0, chosen] = np.minimum(higher[0, chosen], upper[:half])
    lower[0, chosen] = np.maximum(lower[0, chosen], -upper[half:])
    difference = known.difference.intersect(Interval(lower, higher), "the output difference")
    values[bounds.output] = ValueBounds(known.float_side, known.quantized_side, difference)
    return Bounds(tuple(values), bounds.output)


def open_neurons(merged: Merged, bounds: ValueBounds, value: int) -> Int64Array:
    """Return the neurons of a value at which an activation that reads it is not settled over bounds on it."""
    found: list[Int64Array] = [np.zeros(0, dtype=np.int64)]
    for node, residue in zip(merged.nodes, prepared(merged).residues, strict=True):
        if isinstance(node, MergedActivation) and node.source == value:
            found.append(Settled.of(node, residue, bounds).neurons)
    return np.unique(np.concatenate(found))


def tighten(
    relaxation: Lagrangian,
    value: int,
    neurons: Int64Array,
    *,
    steps: int,
    stop: Callable[[], bool],
    spread: Spread = map,
) -> ValueBounds:
    """Return bounds on the three faces of some neurons of a value; the others keep what is known."""
    objectives = face_objectives(relaxation.problem, value, neurons)
    upper = bound_objectives(relaxation, objectives, steps=steps, stop=stop, spread=spread)
    return tightened(relaxation.bounds.values[value], objectives, upper)


def face_objectives(problem: Problem, value: int, neurons: Int64Array) -> Objectives:
    """Return both ends of ``a``, of ``d`` and, where rounding steps look at it, of ``v`` of some neurons."""
    faces = [(1.0, 0.0), (0.0, 1.0)]
    node = problem.merged.nodes[value - 1]
    assert isinstance(node, MergedAffine)
    if node.integer is not None:
        faces.append((1.0, 1.0))
    sign = np.tile(np.repeat([1.0, -1.0], len(neurons)), len(faces))
    on_float, on_difference = (np.repeat(part, 2 * len(neurons)) for part in np.transpose(faces))
    return Objectives(value, np.tile(neurons, 2 * len(faces)), sign * on_float, sign * on_difference)


def tightened(known: ValueBounds, objectives: Objectives, upper: Float64Array) -> ValueBounds:
    """Return bounds on a value, intersected with upper bounds on objectives about it, shape (objectives,)."""
    on_float, on_difference = objectives.on_float, objectives.on_difference
    faces: list[Interval] = []
    for side, about in (
        (known.float_side, on_difference == 0),
        (known.quantized_side, on_float == on_difference),
        (known.difference, on_float == 0),
    ):
        lower, higher = side.lower.copy(), side.upper.copy()
        above = about & (on_float + on_difference > 0)
        below = about & (on_float + on_difference < 0)
        np.minimum.at(higher[0], objectives.neurons[above], upper[above])
        np.maximum.at(lower[0], objectives.neurons[below], -upper[below])
        faces.append(side.intersect(Interval(lower, higher), "a tightened layer"))
    return ValueBounds(*faces)


def bound_objectives(
    relaxation: Lagrangian,
    objectives: Objectives,
    *,
    steps: int,
    stop: Callable[[], bool],
    spread: Spread = map,
) -> Float64Array:
    """Return upper bounds on objectives over the whole domain, shape (rows,); infinite where time ran out."""
    points = relaxation.points(relaxation.ranges)
    width = relaxation.widths(objectives)

    def bound(rows: slice) -> Float64Array:
        part = objectives.select(rows)
        if stop():
            return np.full(len(part), np.inf)
        nothing = np.zeros((len(part), 2 * relaxation.open), dtype=np.float32)
        found = relaxation.ascend(
            part, nothing, points, relaxation.ranges, FIRST_STEP * width[rows], steps, stop
        )
        return relaxation.certify(part, found.multipliers, points)

    batch = relaxation.rows
    parts = [slice(start, start + batch) for start in range(0, len(objectives), batch)]
    return np.concatenate([np.zeros(0), *spread(bound, parts)])
