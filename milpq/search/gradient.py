"""Gradients of the difference at points: a direction for the witness search, never a bound."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bounds.outward import times
from milpq.merge import MergedAffine, Problem
from milpq.merge.nodes import MergedActivation
from milpq.network.nodes import apply_matrix


def difference_gradient(
    problem: Problem, points: Float64Array, objective: Int64Array
) -> tuple[Float64Array, Float64Array]:
    """Differentiate one objective at each point, by reverse mode on the merged network.

    The integer side is seen through its straight-through view: the same affine maps in real units, a step
    function as the clamp to its range, or as the curve it rounds.

    Parameters
    ----------
    points : float64, shape (points, inputs)
    objective : int64, shape (points,)
        Objective of each point, in the order of ``milpq.search.execution.signed``.

    Returns
    -------
    through_quantized, through_float : float64, shape (points, inputs)
        The parts of the gradient that come through either side; their sum is the gradient.  Inside one cell
        of the input quantizer only the second is felt.
    """
    merged = problem.merged
    chosen = len(problem.outputs)
    integer = problem.domain.integer
    read = points if integer is None else problem.quantized_levels(points) * integer.scale
    float_values, quantized_values = [points], [read]
    masks: list[tuple[np.ndarray, np.ndarray] | None] = [None]
    for node in merged.nodes:
        if isinstance(node, MergedAffine):
            value, other = node.float_bias, node.quantized_bias
            for term in node.terms:
                value = value + apply_matrix(term.float_matrix, float_values[term.source])
                other = other + apply_matrix(term.quantized_matrix, quantized_values[term.source])
            masks.append(None)
        elif node.curve is not None:
            source, quantized_source = float_values[node.source], quantized_values[node.source]
            value, other = node.curve.value(source), node.curve.value(quantized_source)
            masks.append((node.curve.slope(source), node.curve.slope(quantized_source)))
        else:
            lower, upper = _quantized_range(node)
            source, quantized_source = float_values[node.source], quantized_values[node.source]
            value = np.clip(source, node.lower, node.upper)
            other = np.clip(quantized_source, lower, upper)
            masks.append(
                (
                    (source > node.lower) & (source < node.upper),
                    (quantized_source > lower) & (quantized_source < upper),
                )
            )
        float_values.append(value)
        quantized_values.append(other)
    seed = np.zeros((len(points), merged.output_size))
    seed[np.arange(len(points)), problem.outputs[objective % chosen]] = np.where(
        objective < chosen, 1.0, -1.0
    )
    quantized_parts: list[Float64Array | None] = [None] * (len(merged.nodes) + 1)
    float_parts: list[Float64Array | None] = [None] * (len(merged.nodes) + 1)
    quantized_parts[merged.output], float_parts[merged.output] = seed, -seed
    for index in range(len(merged.nodes), 0, -1):
        quantized_part, float_part = quantized_parts[index], float_parts[index]
        if quantized_part is None or float_part is None:
            continue
        node = merged.nodes[index - 1]
        if isinstance(node, MergedAffine):
            for term in node.terms:
                _add(quantized_parts, term.source, times(quantized_part, term.quantized_matrix))
                _add(float_parts, term.source, times(float_part, term.float_matrix))
        else:
            mask = masks[index]
            assert mask is not None
            _add(quantized_parts, node.source, quantized_part * mask[1])
            _add(float_parts, node.source, float_part * mask[0])
    quantized_part, float_part = quantized_parts[0], float_parts[0]
    if quantized_part is None or float_part is None:
        return np.zeros_like(points), np.zeros_like(points)
    return quantized_part, float_part


def _quantized_range(node: MergedActivation) -> tuple[Float64Array, Float64Array]:
    """Return the real values between which the quantized activation is not flat, shape (neurons,) each."""
    if node.step is None or node.scale_out is None:
        return np.full(node.size, node.lower), np.full(node.size, node.upper)
    values = node.step.values[node.step.rows]
    return values[:, 0] * node.scale_out, values[:, -1] * node.scale_out


def _add(parts: list[Float64Array | None], index: int, part: Float64Array) -> None:
    known = parts[index]
    parts[index] = part if known is None else known + part
