"""Bounds with optimized slopes: Lagrangian bounds of the pre-activations that matter, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bounds.forward import activation_bounds, affine_bounds, closed, residue_band
from milpq.bounds.lagrangian import Lagrangian, Objectives, output_objectives
from milpq.bounds.prepared import prepared
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.merge.nodes import MergedAffine
from milpq.merge.problem import Problem

FIRST_STEP: Final = 0.012
"""First step of an ascent, as a part of the width of what is bounded: measured on three networks."""

_STEPS = 100

Spread: TypeAlias = Callable[[Callable[[slice], Float64Array], list[slice]], Iterable[Float64Array]]
"""Has a function work on every item, perhaps in several threads; results in order, as of ``map``."""


def optimized(
    problem: Problem,
    bounds: Bounds,
    *,
    steps: int = _STEPS,
    stop: Callable[[], bool] = lambda: False,
    spread: Spread = map,
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
            if not stop():
                relaxation = Lagrangian(problem, Bounds(tuple(values), bounds.output))
                for layer, source in zip(relaxation.layers, relaxation.sources, strict=True):
                    # In front of the first activation interval bounds are exact.
                    if source == value and relaxation.before(value) and len(layer.neurons):
                        found = tighten(
                            relaxation, value, layer.neurons, steps=steps, stop=stop, spread=spread
                        )
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
    known = relaxation.bounds.values[value]
    integer = relaxation.problem.merged.nodes[value - 1]
    assert isinstance(integer, MergedAffine)
    faces = [(1.0, 0.0), (0.0, 1.0)]
    if integer.integer is not None:
        faces.append((1.0, 1.0))  # rounding steps look at v alone
    ends: list[Interval] = []
    for on_float, on_difference in faces:
        count = len(neurons)
        sign = np.repeat([1.0, -1.0], count)
        objectives = Objectives(value, np.tile(neurons, 2), sign * on_float, sign * on_difference)
        upper = bound_objectives(relaxation, objectives, steps=steps, stop=stop, spread=spread)
        side = (
            known.float_side
            if on_difference == 0
            else known.difference
            if on_float == 0
            else known.quantized_side
        )
        lower, higher = side.lower.copy(), side.upper.copy()
        higher[0, neurons] = np.minimum(higher[0, neurons], upper[:count])
        lower[0, neurons] = np.maximum(lower[0, neurons], -upper[count:])
        ends.append(side.intersect(Interval(lower, higher), "a tightened layer"))
    quantized = ends[2] if len(ends) > 2 else known.quantized_side
    return ValueBounds(ends[0], quantized, ends[1])


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
