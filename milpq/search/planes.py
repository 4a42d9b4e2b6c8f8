"""The planes of a certificate's rewritten leaves: of a few multipliers those that are best in the middle of ranges.

Nothing here needs to be believed: any multipliers give a bound (`milpq.certificate.slopes`).
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array
from milpq.certificate.rewriting import PLANES, Rewriter, is_rewritten
from milpq.certificate.slopes import Corners
from milpq.certificate.stairs import Layer
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Cubes, Problem


def rewrite(problem: Problem, zonotope: Zonotope, leaf: Cubes) -> tuple[Float64Array, Float64Array]:
    """Bound a leaf with planes chosen on the way.

    Returns
    -------
    upper : float64, shape (1, 2·chosen)
    planes : float64, shape (quantities, 4)
        As a certificate holds them, in float32.
    """
    found = np.zeros((len(zonotope.whole), PLANES))

    def planes(first: int, layer: Layer, corners: Corners) -> Float64Array:
        found[first : first + 2 * len(layer.a[0])] = chosen = _chosen(layer, corners)
        return chosen

    return Rewriter(problem, zonotope, planes).upper(leaf, None), found


def work(problem: Problem) -> int:
    """Return how many coefficients are rewritten: functionals times the neurons in front, summed up."""
    front = total = 0
    for node in problem.merged.nodes:
        total += 6 * node.size * front if is_rewritten(node.size, front) else 0
        front += node.size
    return total + 2 * len(problem.outputs) * front


def _chosen(layer: Layer, corners: Corners) -> Float64Array:
    """Return the planes of an activation, shape (2·neurons, 4)."""
    phi = layer.stairs.phi
    a, d = (0.5 * ends[0] + 0.5 * ends[1] for ends in (layer.a, layer.d))
    one, zero = np.ones_like(a), np.zeros_like(a)
    chord = phi.secant(layer.a)
    least, most = phi.slopes(layer.a, layer.v)
    # Chords of max(m·d, M·d) and of min(m·d, M·d).
    low, high = np.minimum(layer.d[0], 0.0), np.maximum(layer.d[1], 0.0)
    share = np.divide(high, high - low, out=np.full_like(a, 0.5), where=high > low)
    along = [least + (most - least) * part for part in (share, 1.0 - share)]
    width = layer.v[1] - layer.v[0]
    rise = np.divide(layer.z[1] - layer.z[0], width, out=np.zeros_like(a), where=width > 0)
    lines = [(one, zero), (chord, zero)]
    planes = [*((-x, x) for x in along), (-chord, rise), (-chord, chord)]
    found: list[Float64Array] = []
    for p, r, candidates in ((one, zero, lines), (-one, one, planes)):
        for sign in (1.0, -1.0):
            best, chosen = corners.most(sign * p, sign * r, zero, zero)[0], (zero, zero)
            for y, w in ((sign * y, sign * w) for y, w in candidates):
                value = corners.most(sign * p, sign * r, y, w)[0] + y * a + w * (a + d)
                better = value < best
                best = np.where(better, value, best)
                chosen = np.where(better, y, chosen[0]), np.where(better, w, chosen[1])
            found.append(np.concatenate(chosen)[:, 0])
    return np.clip(np.stack(found, axis=1), -1e30, 1e30).astype(np.float32).astype(np.float64)
