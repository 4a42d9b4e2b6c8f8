"""Enclosures of the slopes of the float side over cubes, and the bounds they give.

The float side is piecewise smooth, so along any segment of a cube its change is an average of its gradients
there (mean value theorem for Lipschitz functions: F. H. Clarke, *Optimization and Nonsmooth Analysis*,
Thm. 2.3.7 and Prop. 2.6.5).  Where every activation is stable over the cube the enclosure is a single
gradient and the bound is exact.
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, gamma
from milpq.bounds.outward import times
from milpq.bounds.values import Bounds, Interval
from milpq.merge import Cubes, MergedAffine, Problem
from milpq.network.nodes import absolute
from milpq.search.execution import Execution

_TINY = 1e-300


def float_slopes(problem: Problem, bounds: Bounds) -> Float64Array:
    """Return bounds on ``|∂f_j/∂x_i|`` over each cube, shape (cubes, chosen, inputs).

    Parameters
    ----------
    bounds : Bounds
        Bounds on every merged value over the cubes; the float sides of the inputs of activations are used.

    *Soundness:* interval arithmetic in centre and radius form by reverse mode, each product's rounding added
    to the radius.  An activation passes 1 where its input is inside the clamp over the whole cube, 0 where
    it is outside, and anything between otherwise; a curve any of its slopes over the cube.
    """
    merged = problem.merged
    cubes, chosen = len(bounds.difference.lower), len(problem.outputs)
    centres: list[Float64Array | None] = [None] * (len(merged.nodes) + 1)
    radii: list[Float64Array | None] = [None] * (len(merged.nodes) + 1)
    seed = np.zeros((cubes, chosen, merged.output_size))
    seed[:, np.arange(chosen), problem.outputs] = 1.0
    centres[merged.output], radii[merged.output] = seed, np.zeros_like(seed)
    for index in range(len(merged.nodes), 0, -1):
        centre, radius = centres[index], radii[index]
        centres[index] = radii[index] = None
        if centre is None or radius is None:
            continue
        node = merged.nodes[index - 1]
        if isinstance(node, MergedAffine):
            for term in node.terms:
                size = absolute(term.float_matrix)
                error = gamma(node.size + 4)
                part = times(centre, term.float_matrix)
                spread = times(radius + error * (np.abs(centre) + radius), size) * (1 + 2 * error) + _TINY
                _add(centres, radii, term.source, part, spread)
        elif node.curve is not None:
            source = bounds.values[node.source].float_side
            least, most = (end[:, None, :] for end in node.curve.slopes(source.lower, source.upper))
            part = centre * (0.5 * (least + most))
            # Three roundings of the centre's size, and as many of each product.
            spread = (radius * most + np.abs(centre) * (0.5 * (most - least))) * (1 + 8 * UNIT_ROUNDOFF)
            spread = spread + 8 * UNIT_ROUNDOFF * np.abs(centre) * most + _TINY
            _add(centres, radii, node.source, part, spread)
        else:
            source = bounds.values[node.source].float_side
            inside, outside = _phases(source, node.lower, node.upper)
            # The hull of [c − r, c + r] and 0 where the activation may switch.
            low, high = np.minimum(centre - radius, 0.0), np.maximum(centre + radius, 0.0)
            hull_centre = 0.5 * (low + high)
            hull_radius = (
                (high - hull_centre) * (1 + 4 * UNIT_ROUNDOFF) + 4 * UNIT_ROUNDOFF * np.abs(centre) + _TINY
            )
            part = np.where(inside, centre, np.where(outside, 0.0, hull_centre))
            spread = np.where(inside, radius, np.where(outside, 0.0, hull_radius))
            _add(centres, radii, node.source, part, spread)
    centre, radius = centres[0], radii[0]
    if centre is None or radius is None:
        return np.zeros((cubes, chosen, merged.input_size))
    return (np.abs(centre) + radius) * (1 + 4 * UNIT_ROUNDOFF)


def influence(problem: Problem, bounds: Bounds) -> Float64Array:
    """Return how strongly each input can move the outputs over a cube, shape (cubes, inputs).

    The product of the absolute weights of both sides through activations that are not off.  A score for
    splitting, never a bound.
    """
    merged = problem.merged
    cubes = len(bounds.difference.lower)
    parts: list[Float64Array | None] = [None] * (len(merged.nodes) + 1)
    seed = np.zeros((cubes, merged.output_size))
    seed[:, problem.outputs] = 1.0
    parts[merged.output] = seed
    for index in range(len(merged.nodes), 0, -1):
        part = parts[index]
        parts[index] = None
        if part is None:
            continue
        node = merged.nodes[index - 1]
        if isinstance(node, MergedAffine):
            for term in node.terms:
                known = parts[term.source]
                more = times(part, absolute(term.float_matrix))
                parts[term.source] = more if known is None else known + more
        else:
            source = bounds.values[node.source].float_side
            if node.curve is not None:
                more = part * node.curve.slopes(source.lower, source.upper)[1]
            else:
                _, outside = _phases(source, node.lower, node.upper)
                more = np.where(outside[:, 0], 0.0, part)
            known = parts[node.source]
            parts[node.source] = more if known is None else known + more
    part = parts[0]
    return np.zeros((cubes, merged.input_size)) if part is None else part


def mean_value_bound(
    execution: Execution, cubes: Cubes, slopes: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Bound the objectives over cubes of a single code each, from one execution at the centre.

    Parameters
    ----------
    cubes : Cubes
        With ``level_lower == level_upper``: the integer side is constant on each.
    slopes : float64, shape (cubes, chosen, inputs)
        Bounds on ``|∂f_j/∂x_i|`` over each cube.

    Returns
    -------
    upper : float64, shape (cubes, objectives)
    centre : float64, shape (cubes, chosen)
        The executed difference at the centres.

    *Soundness:* rounded upwards.
    """
    middle = np.clip(0.5 * cubes.lower + 0.5 * cubes.upper, cubes.lower, cubes.upper)
    radius = np.maximum(cubes.upper - middle, middle - cubes.lower) * (1 + 2 * UNIT_ROUNDOFF)
    difference = execution.run(middle, cubes.level_lower)
    reach = np.einsum("cji,ci->cj", slopes, radius) * (1 + 2 * gamma(radius.shape[1] + 2)) + _TINY
    reach = (reach + execution.error) * (1 + 4 * UNIT_ROUNDOFF)
    upper = np.concatenate([difference + reach, -difference + reach], axis=1)
    return np.nextafter(upper, np.inf), difference


def _phases(source: Interval, lower: float, upper: float) -> tuple[BoolArray, BoolArray]:
    """Tell where a clamp passes its input over the whole cube, and where none of it; (cubes, 1, neurons)."""
    inside = (source.lower >= lower) & (source.upper <= upper)
    outside = (source.upper <= lower) | (source.lower >= upper)
    return inside[:, None, :], (outside & ~inside)[:, None, :]


def _add(
    centres: list[Float64Array | None],
    radii: list[Float64Array | None],
    index: int,
    centre: Float64Array,
    radius: Float64Array,
) -> None:
    known, known_radius = centres[index], radii[index]
    if known is None or known_radius is None:
        centres[index], radii[index] = centre, radius
        return
    total = known + centre
    centres[index] = total
    radii[index] = (known_radius + radius) * (1 + 2 * UNIT_ROUNDOFF) + UNIT_ROUNDOFF * np.abs(total) + _TINY
