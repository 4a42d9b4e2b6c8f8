"""Bounds by multipliers of the checker's own choice: a leaf rewritten backwards, its ranges too, layer by layer.

Any multipliers give a bound (`milpq.certificate.slopes`), so how they are chosen here only matters for how tight it is.
With ``c = p + r``, a functional ``p·h + r·z`` of an activation is ``c·h + r·δ``; each part is bounded by the plane
that, of a few, is lowest in the middle of the ranges.

References: H. Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions*
(CROWN); B. Paulsen, J. Wang, J. Wang, C. Wang, *NeuroDiff* (planes of the difference).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.certificate.forms import Ends
from milpq.certificate.slopes import Corners, backward, objectives_of
from milpq.certificate.traces import Layer, Limits, Ranges, Trace
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Cubes, Problem

_MOST_NEURONS: Final = 1024
_MOST_COEFFICIENTS: Final = 1 << 25
"""Of a layer whose ranges are rewritten, and of its functionals; ranges of larger ones come from forms."""

_EQUAL: Final = 1e-9
"""Relative: bounds no further apart are the same, so that every machine chooses alike."""

_COLUMNS: Final = 64
"""Functionals that are rewritten at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Multipliers ``(y, w)`` of one activation for ``h``, ``−h``, ``δ`` and ``−δ``, of shape (neurons, 1) each."""

    of: tuple[tuple[Float64Array, Float64Array], ...]

    @classmethod
    def choose(cls, layer: Layer, corners: Corners) -> Planes:
        """Return those that are best in the middle of the ranges."""
        a, d = (0.5 * ends[0] + 0.5 * ends[1] for ends in (layer.a, layer.d))
        one, zero = np.ones_like(a), np.zeros_like(a)
        chord = layer.phi.band(layer.a)[0]
        least, most = layer.phi.slopes(layer.a, layer.v)
        # Chords of max(m·d, M·d) and of min(m·d, M·d).
        low, high = np.minimum(layer.d[0], 0.0), np.maximum(layer.d[1], 0.0)
        share = np.divide(high, high - low, out=np.full_like(a, 0.5), where=high > low)
        along = [least + (most - least) * part for part in (share, 1.0 - share)]
        width = layer.v[1] - layer.v[0]
        rise = np.divide(layer.z[1] - layer.z[0], width, out=np.zeros_like(a), where=width > 0)
        lines = [(one, zero), (chord, zero)]
        planes = [*((-x, x) for x in along), (-chord, rise), (-chord, chord)]
        found: list[tuple[Float64Array, Float64Array]] = []
        for p, r, candidates in ((one, zero, lines), (-one, one, planes)):
            for sign in (1.0, -1.0):
                best, chosen = corners.most(sign * p, sign * r, zero, zero)[0], (zero, zero)
                for y, w in ((sign * y, sign * w) for y, w in candidates):
                    value = corners.most(sign * p, sign * r, y, w)[0] + y * a + w * (a + d)
                    # Of equal ones always the first, however they are rounded.
                    better = value < best - _EQUAL * (np.abs(best) + np.abs(value))
                    best = np.where(better, value, best)
                    chosen = np.where(better, y, chosen[0]), np.where(better, w, chosen[1])
                found.append(chosen)
        return cls(tuple(found))

    def multipliers(self, p: Float64Array, r: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return ``y`` and ``w`` for functionals ``p·h + r·z``, shape (neurons, functionals)."""
        c = p + r
        parts = [np.maximum(part, 0.0) for part in (c, -c, r, -r)]
        y, w = (sum(part * pair[k] for part, pair in zip(parts, self.of, strict=True)) for k in (0, 1))
        return np.asarray(y), np.asarray(w)


class Rewriter:
    """Bounds the leaves of one problem backwards, one at a time."""

    def __init__(self, problem: Problem, zonotope: Zonotope) -> None:
        self._problem, self._zonotope = problem, zonotope

    @property
    def work(self) -> int:
        """How many coefficients there are: functionals times the neurons in front, summed up."""
        front = total = 0
        for node in self._problem.merged.nodes:
            total += 6 * node.size * front if _is_rewritten(node.size, front) else 0
            front += node.size
        return total + 2 * len(self._problem.outputs) * front

    def upper(self, leaf: Cubes, limits: Limits | None) -> Float64Array:
        """Return upper bounds on all objectives, shape (1, 2·chosen)."""
        run = _Run(self._problem)
        trace = self._zonotope.trace(leaf, limits, keep=True, closer=run.ranges)
        on_quantized = objectives_of(self._problem)
        found = run.bound(trace, self._problem.merged.output, -on_quantized, on_quantized)
        return np.minimum(found[None], self._zonotope.bounds(trace))


class _Run:
    """One leaf on its way through the network."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._corners: list[Corners] = []
        self._planes: list[Planes] = []
        self._known: dict[int, Ranges] = {}

    def ranges(self, trace: Trace, value: int) -> Ranges | None:
        """Return the ends of ``a``, ``v`` and ``d`` of the last value of a trace; None where that is too much work."""
        size, front = len(trace.sizes[value][0]), sum(len(sizes[0]) for sizes in trace.sizes[1:value])
        if value not in self._known and _is_rewritten(size, front) and not trace.empty.any():
            unit, none = np.eye(size), np.zeros((size, size))

            def ends(p: Float64Array, r: Float64Array) -> Ends:
                low, high = self.bound(trace, value, -p, -r), self.bound(trace, value, p, r)
                return -low[:, None], high[:, None]

            self._known[value] = ends(unit, none), ends(none, unit), ends(-unit, unit)
        return self._known.get(value)

    def bound(self, trace: Trace, value: int, p: Float64Array, r: Float64Array) -> Float64Array:
        """Return upper bounds on functionals of a value, shape (functionals,)."""
        for layer in trace.layers[len(self._corners) :]:
            self._corners.append(Corners.of(layer))
            self._planes.append(Planes.choose(layer, self._corners[-1]))
        found: list[Float64Array] = []
        for start in range(0, p.shape[1], _COLUMNS):
            some = slice(start, start + _COLUMNS)
            found.append(
                backward(
                    self._problem,
                    trace,
                    self._corners.__getitem__,
                    value,
                    (p[:, some], r[:, some]),
                    lambda number, p, r: self._planes[number].multipliers(p, r),
                )
            )
        return np.concatenate(found)


def _is_rewritten(size: int, front: int) -> bool:
    """Tell whether the ranges of a value of so many neurons, behind so many others, are rewritten."""
    return size <= _MOST_NEURONS and 6 * size * front <= _MOST_COEFFICIENTS
