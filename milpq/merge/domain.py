"""The input domain of a problem, and cubes of it: where both sides read their input from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array, frozen
from milpq.errors import RegionError, UsageError
from milpq.network.integer_network import IntegerInput
from milpq.region.box import Box

DomainKind = Literal["real", "continuous", "codes"]
"""``real``: both sides read the same real input.  ``continuous``: the integer side reads every real input through
its quantizer.  ``codes``: only inputs that are exactly codes occur."""


@dataclass(frozen=True, slots=True, eq=False)
class Cubes:
    """A batch of axis-parallel parts of the input domain.

    Parameters
    ----------
    lower, upper : float64, shape (cubes, inputs)
        What `f` reads.
    level_lower, level_upper : int64, shape (cubes, inputs)
        Levels the integer side reads; zero and unused for a real quantized side.
    """

    lower: Float64Array
    upper: Float64Array
    level_lower: Int64Array
    level_upper: Int64Array

    def __len__(self) -> int:
        return len(self.lower)

    def select(self, which: Int64Array | slice) -> Cubes:
        """Return some of the cubes."""
        return Cubes(self.lower[which], self.upper[which], self.level_lower[which], self.level_upper[which])

    @staticmethod
    def concatenate(parts: list[Cubes]) -> Cubes:
        """Return several batches as one."""
        return Cubes(
            np.concatenate([part.lower for part in parts]),
            np.concatenate([part.upper for part in parts]),
            np.concatenate([part.level_lower for part in parts]),
            np.concatenate([part.level_upper for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """The inputs of a problem: a box, and how the quantized side reads it.

    Parameters
    ----------
    box : Box
    kind : DomainKind
    integer : IntegerInput or None
        None for a real quantized side.
    """

    box: Box
    kind: DomainKind
    integer: IntegerInput | None
    root: Cubes = field(init=False, repr=False)
    _inner_lower: Float64Array = field(init=False, repr=False)
    _inner_upper: Float64Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        box, integer = self.box, self.integer
        if (integer is None) != (self.kind == "real"):
            raise UsageError("an integer network needs the input domain 'continuous' or 'codes'")
        inner_lower = inner_upper = np.zeros(box.size)
        if integer is None:
            none = np.zeros((1, box.size), dtype=np.int64)
            root = Cubes(box.lower[None], box.upper[None], none, none)
        else:
            box.check_size(integer.size)
            if self.kind == "codes":
                levels = self._codes_inside(integer)
            else:
                if integer.quantizer is None:
                    raise UsageError(
                        "this network does not say how real inputs become codes; use --input-domain codes"
                    )
                levels = integer.quantizer.level_range(box.lower, box.upper)
                inner_lower, inner_upper = _quantization_error(integer)
            level_lower, level_upper = (end[None] for end in levels)
            root = (
                self.cubes_of_levels(level_lower, level_upper)
                if self.kind == "codes"
                else Cubes(box.lower[None], box.upper[None], level_lower, level_upper)
            )
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "_inner_lower", frozen(np.array(inner_lower)))
        object.__setattr__(self, "_inner_upper", frozen(np.array(inner_upper)))

    def _codes_inside(self, integer: IntegerInput) -> tuple[Int64Array, Int64Array]:
        """Return the smallest and largest level whose float reading lies in the box, exactly compared."""
        levels = np.arange(integer.level_lower, integer.level_upper + 1, dtype=np.int64)
        readings = integer.float_value(levels[:, None])
        inside = (readings >= self.box.lower) & (readings <= self.box.upper)
        empty = np.flatnonzero(~inside.any(axis=0))
        if len(empty):
            i = int(empty[0])
            raise RegionError(
                f"region: no input code lies in [{self.box.lower[i]}, {self.box.upper[i]}] of input {i} (codes are "
                f"{integer.float_scale[i]:.6g} apart); widen the region or use --input-domain continuous"
            )
        return levels[inside.argmax(axis=0)], levels[len(levels) - 1 - inside[::-1].argmax(axis=0)]

    def cubes_of_levels(self, level_lower: Int64Array, level_upper: Int64Array) -> Cubes:
        """Return the cubes that hold exactly these level ranges, shapes (cubes, inputs).

        With a continuous domain, the real inputs of a cube are those of its levels' cells inside the box.
        """
        integer = self.integer
        assert integer is not None
        if self.kind == "codes":
            lower, upper = integer.float_value(level_lower), integer.float_value(level_upper)
        else:
            assert integer.quantizer is not None
            lower = np.maximum(integer.quantizer.cell(level_lower)[0], self.box.lower)
            upper = np.minimum(integer.quantizer.cell(level_upper)[1], self.box.upper)
        return Cubes(lower, upper, level_lower, level_upper)

    def cubes_of_boxes(self, lower: Float64Array, upper: Float64Array) -> Cubes:
        """Return the cubes of these real boxes, shapes (cubes, inputs), inside a continuous or real domain."""
        if self.integer is None:
            none = np.zeros(lower.shape, dtype=np.int64)
            return Cubes(lower, upper, none, none)
        assert self.kind == "continuous" and self.integer.quantizer is not None
        return Cubes(lower, upper, *self.integer.quantizer.level_range(lower, upper))

    def difference(self, cubes: Cubes) -> tuple[Float64Array, Float64Array]:
        """Return bounds on ``δ = (what the quantized side reads) − x``, shape (cubes, inputs) each.

        *Soundness:* rounded outwards by four float64 roundings of its operands.
        """
        integer = self.integer
        if integer is None:
            zero = np.zeros_like(cubes.lower)
            return zero, zero
        at_lower = integer.scale * cubes.level_lower
        at_upper = integer.scale * cubes.level_upper
        slack = (
            4
            * UNIT_ROUNDOFF
            * (
                np.maximum(np.abs(cubes.lower), np.abs(cubes.upper))
                + np.maximum(np.abs(at_lower), np.abs(at_upper))
            )
        )
        if self.kind == "codes":
            # δ is linear in the level, so its ends are those of the level range.
            ends = at_lower - cubes.lower, at_upper - cubes.upper
            return np.minimum(*ends) - slack, np.maximum(*ends) + slack
        several = cubes.level_upper > cubes.level_lower
        lower = np.minimum(at_upper - cubes.upper, np.where(several, self._inner_lower, np.inf))
        upper = np.maximum(at_lower - cubes.lower, np.where(several, self._inner_upper, -np.inf))
        return lower - slack, upper + slack


def _quantization_error(integer: IntegerInput) -> tuple[Float64Array, Float64Array]:
    """Return the extremes of ``scale·level − x`` at the inner cell ends of every input, shape (inputs,)."""
    assert integer.quantizer is not None
    levels = np.arange(integer.level_lower, integer.level_upper + 1, dtype=np.int64)
    lower, upper = integer.quantizer.cell(np.repeat(levels[:, None], integer.size, axis=1))
    reading = levels[:, None] * integer.scale
    return (reading - upper)[:-1].min(axis=0), (reading - lower)[1:].max(axis=0)
