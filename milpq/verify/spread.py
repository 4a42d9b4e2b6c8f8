"""The contributions of all sources of error at single inputs: the exact decomposition, executed."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.attribution import Source
from milpq.bounds.prepared import prepared
from milpq.merge import MergedActivation, MergedAffine, Problem
from milpq.network.nodes import apply_matrix


def execute_sources(problem: Problem, sources: tuple[Source, ...], points: Float64Array) -> Float64Array:
    """Run both networks and return what each source contributes to ``f_q − f``.

    Parameters
    ----------
    sources : tuple of Source
        As `milpq.bounds.attribution.list_sources` gives them.
    points : float64, shape (points, inputs)
        Feedable inputs.

    Returns
    -------
    float64, shape (sources, points, outputs)
        Real units; their sum over the sources is ``f_q − f`` up to the rounding of float64.
    """
    merged = problem.merged
    residues = prepared(merged).residues
    integer = problem.domain.integer
    index = {(source.kind, source.value): k for k, source in enumerate(sources)}
    quantized = points if integer is None else problem.quantized_levels(points) * integer.scale
    floats, others = [points], [quantized]
    spread: list[Float64Array] = [np.zeros((len(sources), *points.shape))]
    if integer is not None:
        spread[0][index["input", 0]] = quantized - points
    for number, node in enumerate(merged.nodes):
        value = number + 1
        if isinstance(node, MergedAffine):
            a = v = np.zeros((len(points), node.size))
            own = a
            t: Float64Array = np.zeros((len(sources), len(points), node.size))
            for term in node.terms:
                h = floats[term.source]
                a = a + apply_matrix(term.float_matrix, h)
                v = v + apply_matrix(term.quantized_matrix, others[term.source])
                own = own + apply_matrix(term.difference_matrix, h)
                before = spread[term.source]
                flat = before.reshape(-1, before.shape[-1])
                t = t + apply_matrix(term.quantized_matrix, flat).reshape(t.shape)
            t[index["weights", value]] += own + node.difference_bias
            floats.append(a + node.float_bias)
            others.append(v + node.quantized_bias)
        else:
            assert isinstance(node, MergedActivation)
            a, v = floats[node.source], others[node.source]
            h, clamped = np.clip(a, node.lower, node.upper), np.clip(v, node.lower, node.upper)
            t = spread[node.source] * _secant(node, a, v)
            result, residue = clamped, residues[number]
            if residue is not None:
                assert node.step is not None and node.scale_in is not None and node.scale_out is not None
                # Accumulators are integers below 2^31, which the rounding of v cannot hide.
                result = node.step(np.rint(v / node.scale_in).astype(np.int64)) * node.scale_out
                base = np.clip(clamped, residue.saturation_lower, residue.saturation_upper)
                t[index["saturation", value]] += base - clamped
                t[index["rounding", value]] += result - base
            floats.append(h)
            others.append(result)
        spread.append(t)
    return spread[merged.output]


def _secant(node: MergedActivation, a: Float64Array, v: Float64Array) -> Float64Array:
    """Return ``s`` with ``φ(v) − φ(a) = s·(v − a)``; where both are equal, the slope of ``φ`` there."""
    inside = (a >= node.lower) & (a <= node.upper) & (v >= node.lower) & (v <= node.upper)
    gap = v - a
    moved = np.clip(v, node.lower, node.upper) - np.clip(a, node.lower, node.upper)
    slope = np.divide(moved, gap, out=np.zeros_like(gap), where=gap != 0)
    return np.where(inside, 1.0, np.clip(slope, 0.0, 1.0))
