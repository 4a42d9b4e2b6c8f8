"""Bounds on the integer side alone, by the distinct hidden codes that the codes of a cube lead to.

Where codes of the first layer are coarse, or a cube is small, thousands of input codes lead to a handful of
vectors of hidden codes.  One execution from there on settles all codes of such a class: the image of the cube
under `f_q` is known exactly, though no step of the layers may be decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeGuard

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds._classes_kernel import Layer, collect
from milpq.bounds.outward import down, up
from milpq.bounds.values import Interval
from milpq.merge import Cubes
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import IntegerAffine, Step
from milpq.network.program import Program, program_after

_HIDDEN: Final = 2
"""The value whose levels make a class: the output of the first step, behind the first affine layer."""

_ROOM: Final = 1 << 18
"""Numbers that the classes collected at once may hold."""


@dataclass(frozen=True, slots=True, eq=False)
class CodeClasses:
    """Classes of codes that the first layer of an integer network does not tell apart.

    Parameters
    ----------
    network : IntegerNetwork
        One that `has_classes`.
    most : int
        Classes that a cube may have, and no more than a share of its codes; the image of others is not found.
    """

    network: IntegerNetwork
    most: int = 1 << 14
    _layer: Layer = field(init=False, repr=False)
    _rest: Program = field(init=False, repr=False)

    def __post_init__(self) -> None:
        affine, step = self.network.nodes[:_HIDDEN]
        assert isinstance(affine, IntegerAffine) and isinstance(step, Step)
        matrix = affine.terms[0].matrix
        assert isinstance(matrix, np.ndarray)
        function = step.function
        layer = (matrix, affine.bias, function.thresholds, function.values, function.rows)
        # Copies, as read-only arrays would be another signature and compiled again.
        object.__setattr__(self, "_layer", tuple(np.array(a, dtype=np.int64, order="C") for a in layer))
        object.__setattr__(self, "_rest", program_after(self.network, _HIDDEN))

    def image(self, cubes: Cubes) -> Interval:
        """Return bounds on the real outputs over the codes of each cube, shape (cubes, outputs).

        They are attained but for rounding; infinite where a cube has too many classes.

        *Soundness:* every code vector of the cube is visited in integer arithmetic, every distinct vector of
        hidden levels executed bit-exactly; the scale is multiplied with outward rounding.
        """
        network = self.network
        count, outputs = len(cubes), network.output_size
        lower, upper = np.full((count, outputs), np.inf), np.full((count, outputs), -np.inf)
        neurons = len(self._layer[1])
        rows = max(self.most, _ROOM // neurons)
        levels, owner = np.empty((rows, neurons)), np.empty(rows, dtype=np.int64)
        complete: BoolArray = np.zeros(count, dtype=np.bool_)
        ends = np.array(cubes.level_lower), np.array(cubes.level_upper)
        start = 0
        while start < count:
            start, used = collect(self._layer, *ends, start, self.most, levels, owner, complete)
            _enter(lower, upper, owner[:used], self._rest.run(levels[:used]))
        scale = network.output_scale
        lower[complete], upper[complete] = down(lower[complete] * scale), up(upper[complete] * scale)
        lower[~complete], upper[~complete] = -np.inf, np.inf
        return Interval(lower, upper)


def _enter(lower: Float64Array, upper: Float64Array, owner: Int64Array, levels: Float64Array) -> None:
    """Widen the bounds of cubes to hold output levels of theirs; `owner` is nondecreasing."""
    if not len(owner):
        return
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    here = owner[first]
    lower[here] = np.minimum(lower[here], np.minimum.reduceat(levels, first, axis=0))
    upper[here] = np.maximum(upper[here], np.maximum.reduceat(levels, first, axis=0))


def has_classes(network: object) -> TypeGuard[IntegerNetwork]:
    """Tell whether a network's codes have classes: a dense first layer and a step, and nothing past them reads more."""
    if not isinstance(network, IntegerNetwork) or len(network.nodes) < _HIDDEN:
        return False
    affine, step = network.nodes[:_HIDDEN]
    return (
        isinstance(affine, IntegerAffine)
        and isinstance(step, Step)
        and step.source == 1
        and len(affine.terms) == 1
        and isinstance(affine.terms[0].matrix, np.ndarray)
        and network.is_cut(_HIDDEN)
    )
