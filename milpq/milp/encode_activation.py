"""Activation nodes: both sides of the merged value, and the rows that tie their difference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.planes import PlanePair
from milpq.bounds.values import ValueBounds
from milpq.merge.nodes import MergedActivation
from milpq.milp.encode_affine import whole_numbers_inside
from milpq.milp.encode_clamp import Kink, add_clamp
from milpq.milp.encode_curve import add_curve, add_planes, add_segment_planes
from milpq.milp.encode_pair import Pair, Rounding, add_cuts, add_pair_rows
from milpq.milp.encode_step import StepPart, encode_step, rounding_at_kink
from milpq.milp.faces import Faces, Part, Side, add_difference
from milpq.milp.model import ModelBuilder
from milpq.milp.staircase import Slopes
from milpq.network.curves import Curve


def encode_activation(
    builder: ModelBuilder,
    parts: list[Part],
    node: MergedActivation,
    slopes: Slopes | None,
    source: Faces,
    bounds: ValueBounds,
    before: ValueBounds,
    planes: Callable[[ValueBounds], PlanePair],
    *,
    cuts: bool,
) -> Faces:
    """Add the columns and rows of an activation node.

    Parameters
    ----------
    before : ValueBounds
        Bounds on the source.
    planes : callable
        Planes of the difference over bounds on the source.
    """
    float_known = bounds.float_side.lower[0], bounds.float_side.upper[0]
    known = bounds.quantized_side.lower[0], bounds.quantized_side.upper[0]
    if node.curve is not None:
        return _curve(builder, parts, node, node.curve, slopes, source, bounds, before, planes, cuts=cuts)
    float_side, float_kinks = add_clamp(
        builder, parts, node.name, "float", source.float_side, node.lower, node.upper, float_known
    )
    if node.step is None:
        quantized, kinks = add_clamp(
            builder, parts, node.name, "quantized", source.quantized, node.lower, node.upper, known
        )
        difference = _real_pair(builder, parts, node, source, float_kinks, kinks, bounds, cuts=cuts)
        return Faces(float_side, quantized, None, difference)
    assert slopes is not None
    assert node.scale_out is not None
    quantized, step = encode_step(
        builder, parts, node, slopes, source.quantized, whole_numbers_inside(*known, node.scale_out)
    )
    difference = add_difference(
        builder,
        parts,
        node.name,
        float_side,
        quantized,
        node.scale_out,
        (bounds.difference.lower[0], bounds.difference.upper[0]),
    )
    _integer_pair(builder, node, source, float_kinks, step, difference, cuts=cuts)
    return Faces(float_side, quantized, node.scale_out, difference)


def _curve(
    builder: ModelBuilder,
    parts: list[Part],
    node: MergedActivation,
    curve: Curve,
    slopes: Slopes | None,
    source: Faces,
    bounds: ValueBounds,
    before: ValueBounds,
    planes: Callable[[ValueBounds], PlanePair],
    *,
    cuts: bool,
) -> Faces:
    """Add a sigmoid or tanh of the float side, and the same or its table of the quantized one."""
    known = bounds.quantized_side.lower[0], bounds.quantized_side.upper[0]
    float_known = bounds.float_side.lower[0], bounds.float_side.upper[0]
    part = add_curve(
        builder, parts, node.name, "float", source.float_side, curve, float_known, segments=not cuts
    )
    float_side = part.result
    if node.step is None:
        quantized = add_curve(
            builder, parts, node.name, "quantized", source.quantized, curve, known, segments=False
        ).result
    else:
        assert slopes is not None and node.scale_out is not None
        levels = whole_numbers_inside(*known, node.scale_out)
        quantized, _ = encode_step(builder, parts, node, slopes, source.quantized, levels)
    unit = None if node.step is None else node.scale_out
    face = bounds.difference.lower[0], bounds.difference.upper[0]
    difference = add_difference(builder, parts, node.name, float_side, quantized, unit, face)
    if source.difference is not None:
        add_planes(builder, node.name, source.float_side, source.difference, difference, planes(before))
        add_segment_planes(builder, node.name, part, source.difference, difference, planes, before)
    return Faces(float_side, quantized, unit, difference)


def _real_pair(
    builder: ModelBuilder,
    parts: list[Part],
    node: MergedActivation,
    source: Faces,
    float_kinks: list[Kink],
    kinks: list[Kink],
    bounds: ValueBounds,
    *,
    cuts: bool,
) -> Side:
    """Tie the differences kink by kink, where both sides apply the same clamp."""
    difference = source.difference
    assert difference is not None
    for index, (first, second) in enumerate(zip(float_kinks, kinks, strict=True)):
        last = index == len(kinks) - 1
        # A clamp is nondecreasing and 1-Lipschitz, so its difference lies between 0 and d.
        known = np.minimum(difference.lower, 0.0), np.maximum(difference.upper, 0.0)
        if last:
            face = bounds.difference
            known = np.maximum(known[0], face.lower[0]), np.minimum(known[1], face.upper[0])
        name = node.name if last else f"{node.name}/kink{index}"
        result = _difference_of_kinks(builder, parts, name, first, second, difference, known)
        both = np.flatnonzero(first.unstable & second.unstable)
        if len(both):
            pair = Pair(
                f"{node.name}/kink{index}",
                both,
                first.kink,
                first.sign,
                first.source.at(both),
                second.source.lower[both],
                second.source.upper[both],
                difference.at(both),
                result.at(both),
                first.phase[both],
                second.phase[both],
            )
            _add_pair(builder, pair, Rounding.none(len(both)), cuts=cuts)
        difference = result
    return difference


def _difference_of_kinks(
    builder: ModelBuilder,
    parts: list[Part],
    name: str,
    first: Kink,
    second: Kink,
    before: Side,
    known: tuple[Float64Array, Float64Array],
) -> Side:
    """Return the difference after one kink: that in front of it where both sides pass it unchanged."""
    lower, upper = known
    fresh = np.flatnonzero(~(first.active & second.active))
    columns = before.columns.copy()
    if len(fresh):
        added = add_difference(
            builder,
            parts,
            name,
            first.result.at(fresh),
            second.result.at(fresh),
            None,
            (lower[fresh], upper[fresh]),
            neurons=fresh,
        )
        columns[fresh] = added.columns
        lower, upper = lower.copy(), upper.copy()
        lower[fresh], upper[fresh] = added.lower, added.upper
    return Side(columns, lower, upper)


def _integer_pair(
    builder: ModelBuilder,
    node: MergedActivation,
    source: Faces,
    float_kinks: list[Kink],
    step: StepPart,
    difference: Side,
    *,
    cuts: bool,
) -> None:
    """Tie the differences of neurons whose float side has one open kink where their step has an open end.

    Everything else is tied exactly already: with a stable float side ``δ − d`` is the rounding alone.
    """
    before = source.difference
    if before is None:
        return
    open_kinks = np.sum([kink.unstable for kink in float_kinks], axis=0) if float_kinks else None
    for index, kink in enumerate(float_kinks):
        assert open_kinks is not None
        phases = step.above_lowest if kink.sign > 0 else step.below_highest
        passed = np.all([other.active for other in float_kinks if other is not kink], axis=0)
        both = np.flatnonzero(kink.unstable & (phases >= 0) & (open_kinks == 1) & passed)
        if not len(both):
            continue
        accumulators = source.quantized.at(both)
        real = source.quantized_real()
        rounding = rounding_at_kink(node, both, accumulators, kink.kink, kink.sign)
        pair = Pair(
            f"{node.name}/kink{index}",
            both,
            kink.kink,
            kink.sign,
            kink.source.at(both),
            real[0][both],
            real[1][both],
            before.at(both),
            difference.at(both),
            kink.phase[both],
            phases[both],
        )
        _add_pair(builder, pair, rounding, cuts=cuts)


def _add_pair(builder: ModelBuilder, pair: Pair, rounding: Rounding, *, cuts: bool) -> None:
    add_pair_rows(builder, pair, rounding)
    if cuts:
        add_cuts(builder, pair, rounding)
