"""Interval propagation: the cheapest bounds, and the baseline the others are compared with."""

from __future__ import annotations

from milpq.bounds.forward import activation_bounds, affine_bounds, input_bounds, residue_band
from milpq.bounds.prepared import prepared
from milpq.bounds.values import Bounds
from milpq.merge.domain import Cubes
from milpq.merge.nodes import MergedAffine
from milpq.merge.problem import Problem


def interval(problem: Problem, cubes: Cubes) -> Bounds:
    """Propagate intervals of ``(a, v, d)`` through the merged network.

    Parameters
    ----------
    cubes : Cubes
        Parts of the problem's domain, bounded as one batch.

    *Soundness:* each layer is rounded outwards; see `milpq.bounds.forward`.
    """
    merged = problem.merged
    ready = prepared(merged)
    values = [input_bounds(problem, cubes)]
    for node, sizes, residue in zip(merged.nodes, ready.sizes, ready.residues, strict=True):
        if isinstance(node, MergedAffine):
            values.append(affine_bounds(node, sizes, values))
        else:
            source = values[node.source]
            band = residue_band(node, residue, source)
            values.append(activation_bounds(node, band, source))
    return Bounds(tuple(values), merged.output)
