"""Bounds by planes: a leaf rewritten backwards for all objectives at once, its ranges too, layer by layer.

With ``c = p + r``, a functional ``p·h + r·z`` of an activation is ``c·h + r·δ``.  A certificate holds multipliers for
``h``, ``−h``, ``δ`` and ``−δ`` of each neuron; those of a functional are the sum of what its parts take.  Any
multipliers give a bound (`milpq.certificate.slopes`), so the ones in the file only matter for how tight it is.

References: H. Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions*
(CROWN); B. Paulsen, J. Wang, J. Wang, C. Wang, *NeuroDiff* (planes of the difference).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.certificate.forms import Ends
from milpq.certificate.slopes import Corners, Given, backward, objectives_of
from milpq.certificate.stairs import Layer
from milpq.certificate.traces import Ranges, Trace
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Cubes, Problem

PLANES: Final = 4
"""For each quantity: multipliers of ``h``, of ``−h``, of ``δ`` and of ``−δ``."""

_MOST_NEURONS: Final = 1024
_MOST_COEFFICIENTS: Final = 1 << 24
"""Of a layer whose ranges are rewritten, and of its functionals; ranges of larger ones come from forms."""

_COLUMNS: Final = 64
"""Functionals that are rewritten at once."""


class Rewriter:
    """Takes one leaf through the network, backwards again and again.

    Parameters
    ----------
    planes : callable
        Given the number of its first quantity, an activation and its corners, returns its planes, of shape
        (2·neurons, `PLANES`): ``y`` of all neurons and then ``w``.
    """

    def __init__(
        self, problem: Problem, zonotope: Zonotope, planes: Callable[[int, Layer, Corners], Float64Array]
    ) -> None:
        self._problem, self._zonotope, self._choose = problem, zonotope, planes
        self._corners: list[Corners] = []
        self._planes: list[Float64Array] = []
        self._known: dict[int, Ranges] = {}

    def upper(self, leaf: Cubes, limits: Ends | None) -> Float64Array:
        """Return upper bounds on all objectives, shape (1, 2·chosen)."""
        trace = self._zonotope.trace(leaf, limits, self._ranges)
        on_quantized = objectives_of(self._problem)
        found = self._bound(trace, self._problem.merged.output, -on_quantized, on_quantized)
        return np.minimum(found[None], self._zonotope.bounds(trace))

    def _ranges(self, trace: Trace, value: int) -> Ranges | None:
        """Return the ends of ``a``, ``v`` and ``d`` of the last value of a trace; None where that is too much work."""
        size, front = len(trace.sizes[value][0]), sum(len(sizes[0]) for sizes in trace.sizes[1:value])
        if value not in self._known and is_rewritten(size, front) and not trace.empty.any():
            unit, none = np.eye(size), np.zeros((size, size))

            def ends(p: Float64Array, r: Float64Array) -> Ends:
                low, high = self._bound(trace, value, -p, -r), self._bound(trace, value, p, r)
                return -low[:, None], high[:, None]

            self._known[value] = ends(unit, none), ends(none, unit), ends(-unit, unit)
        return self._known.get(value)

    def _bound(self, trace: Trace, value: int, p: Float64Array, r: Float64Array) -> Float64Array:
        """Return upper bounds on functionals of a value, shape (functionals,)."""
        for layer in trace.layers[len(self._corners) :]:
            self._corners.append(Corners.of(layer))
            first = sum(len(planes) for planes in self._planes)
            self._planes.append(self._choose(first, layer, self._corners[-1]))
        parts = [slice(start, start + _COLUMNS) for start in range(0, p.shape[1], _COLUMNS)]
        found = [
            backward(self._problem, trace, value, (p[:, some], r[:, some]), self._multipliers)
            for some in parts
        ]
        return np.concatenate(found)

    def _multipliers(self, number: int, p: Float64Array, r: Float64Array) -> Given:
        """Return ``y`` and ``w`` for functionals ``p·h + r·z``, shape (neurons, functionals), and the corners."""
        c, planes = p + r, self._planes[number][:, :, None]
        y, w = (
            sum(np.maximum(part, 0.0) * half[:, k] for k, part in enumerate((c, -c, r, -r)))
            for half in np.split(planes, 2)
        )
        return self._corners[number], np.asarray(y), np.asarray(w)


def is_rewritten(size: int, front: int) -> bool:
    """Tell whether the ranges of a value of so many neurons, behind so many others, are rewritten."""
    return size <= _MOST_NEURONS and 6 * size * front <= _MOST_COEFFICIENTS
