"""What decisions mean: for propagated bounds, and for the columns of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.outward import down, up
from milpq.bounds.symbolic import differential_within, never
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.errors import DisjointBoundsError
from milpq.merge import Cubes, MergedActivation, MergedAffine, Problem
from milpq.milp.encode import Encoder, Encoding
from milpq.milp.encode_affine import whole_numbers_inside
from milpq.milp.encode_clamp import Face
from milpq.milp.faces import narrow_to
from milpq.search.tree.leaf import Decision


def anchor_encoding(
    encoder: Encoder,
    bounds: Bounds,
    decisions: tuple[Decision, ...],
    stop: Callable[[], bool] = never,
) -> tuple[Encoding, Bounds] | None:
    """Return the relaxation of the root cube under decisions, and the bounds it is made of.

    Parameters
    ----------
    bounds : Bounds
        Valid on the root cube.
    stop : callable
        Asked between layers.

    Returns
    -------
    None where the bounds prove that no input satisfies the decisions.

    Raises
    ------
    DisjointBoundsError
        The bounds contradict themselves without any decision.
    OutOfTimeError
        `stop` has said True.
    """
    problem = encoder.problem
    try:
        cubes, assumed = assume(problem, bounds, decisions)
        if decisions:
            assumed = assumed.intersect(differential_within(problem, cubes, assumed, stop))
        return encoder.encode(cubes, assumed, cuts=True, stop=stop), assumed
    except DisjointBoundsError:
        if not decisions:
            raise  # the root cube has points
        return None


def assume(problem: Problem, bounds: Bounds, decisions: tuple[Decision, ...]) -> tuple[Cubes, Bounds]:
    """Return the part of the root cube, and the bounds on every value, that decisions leave.

    Raises
    ------
    DisjointBoundsError
        None are left.

    *Soundness:* real ends are rounded outwards.
    """
    boxes = _Boxes(problem, bounds)
    for decision in decisions:
        boxes.restrict(decision)
    return boxes.cubes(), boxes.bounds()


class _Boxes:
    """Bounds on every value, as arrays of shape (neurons,) that change."""

    def __init__(self, problem: Problem, bounds: Bounds) -> None:
        self._problem = problem
        self._output = bounds.output
        self._known = bounds
        self._faces: dict[tuple[int, Face], tuple[Float64Array, Float64Array]] = {}

    def restrict(self, decision: Decision) -> None:
        key = decision.value, decision.face
        lower, upper = self._face(*key)
        unit = value_unit(self._problem, decision.value) if decision.face == "quantized" else None
        low, high = np.array(decision.lower), np.array(decision.upper)
        if unit is not None:
            low, high = down(unit[decision.neuron] * low), up(unit[decision.neuron] * high)
        lower[decision.neuron] = max(lower[decision.neuron], float(low))
        upper[decision.neuron] = min(upper[decision.neuron], float(high))

    def _face(self, value: int, face: Face) -> tuple[Float64Array, Float64Array]:
        if (value, face) not in self._faces:
            known = self._known.values[value]
            interval = known.float_side if face == "float" else known.quantized_side
            self._faces[value, face] = interval.lower[0].copy(), interval.upper[0].copy()
        return self._faces[value, face]

    def cubes(self) -> Cubes:
        """Return the cube of the input that is left."""
        domain = self._problem.domain
        x, integer = self._face(0, "float"), domain.integer
        root = domain.root
        lower, upper = np.maximum(root.lower, x[0]), np.minimum(root.upper, x[1])
        _check(lower, upper)
        if integer is None:
            return Cubes(lower, upper, root.level_lower, root.level_upper)
        levels = whole_numbers_inside(*self._face(0, "quantized"), integer.scale)
        level_lower = np.maximum(root.level_lower, levels[0].astype(np.int64))
        level_upper = np.minimum(root.level_upper, levels[1].astype(np.int64))
        _check(level_lower, level_upper)
        found = domain.cubes_of_levels(level_lower, level_upper)
        lower, upper = np.maximum(found.lower, lower), np.minimum(found.upper, upper)
        _check(lower, upper)
        if domain.kind == "continuous":
            read = domain.cubes_of_boxes(lower, upper)
            level_lower = np.maximum(read.level_lower, level_lower)
            level_upper = np.minimum(read.level_upper, level_upper)
            _check(level_lower, level_upper)
        return Cubes(lower, upper, level_lower, level_upper)

    def bounds(self) -> Bounds:
        """Return the bounds, decided levels carried to the accumulators in front of their steps."""
        for index, node in enumerate(self._problem.merged.nodes):
            if isinstance(node, MergedActivation) and (index + 1, "quantized") in self._faces:
                self._carry_back(index + 1, node)
        values: list[ValueBounds] = []
        for value, known in enumerate(self._known.values):
            float_side = self._interval(value, "float", known.float_side)
            quantized_side = self._interval(value, "quantized", known.quantized_side)
            values.append(ValueBounds(float_side, quantized_side, known.difference))
        return Bounds(tuple(values), self._output)

    def _interval(self, value: int, face: Face, known: Interval) -> Interval:
        found = self._faces.get((value, face))
        if found is None:
            return known
        _check(*found)
        return Interval(found[0][None], found[1][None])

    def _carry_back(self, value: int, node: MergedActivation) -> None:
        if node.step is None:
            return
        assert node.scale_in is not None
        assert node.scale_out is not None
        levels = whole_numbers_inside(*self._face(value, "quantized"), node.scale_out)
        _check(*levels)
        first, last = node.step.preimage(*(end.astype(np.int64) for end in levels))
        lower, upper = self._face(node.source, "quantized")
        np.maximum(lower, down(node.scale_in * first), out=lower)
        np.minimum(upper, up(node.scale_in * last), out=upper)


def value_unit(problem: Problem, value: int) -> Float64Array | None:
    """Return the real value of one integer unit of the quantized side of a value, shape (neurons,), or None."""
    if value == 0:
        integer = problem.domain.integer
        return None if integer is None else integer.scale
    node = problem.merged.nodes[value - 1]
    return node.scale if isinstance(node, MergedAffine) else node.scale_out


def _check(lower: Float64Array | np.ndarray, upper: Float64Array | np.ndarray) -> None:
    if not bool((lower <= upper).all()):
        raise DisjointBoundsError("the decisions leave no point")


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """Bounds on the columns of an encoding, float64 of shape (columns,) each."""

    lower: Float64Array
    upper: Float64Array


def restrict(encoding: Encoding, box: Box, decision: Decision | None) -> Box | None:
    """Return the part of a box that a decision leaves, with what the steps and kinks imply; None if empty.

    *Soundness:* every point that an input of the box leads to and that satisfies the decision is kept.
    """
    lower, upper = box.lower.copy(), box.upper.copy()
    if decision is not None:
        faces = encoding.faces[decision.value]
        side = faces.float_side if decision.face == "float" else faces.quantized
        column = side.columns[decision.neuron]
        lower[column] = max(lower[column], decision.lower)
        upper[column] = min(upper[column], decision.upper)
        if lower[column] > upper[column] or not (decision.value or _narrow_input(encoding, lower, upper)):
            return None
    for value, part in zip(encoding.values, encoding.parts, strict=True):
        # What comes before the value decided on has been narrowed already.
        if decision is None or value >= decision.value:
            part.narrow(lower, upper)
    return None if bool(np.any(lower > upper)) else Box(lower, upper)


def _narrow_input(encoding: Encoding, lower: Float64Array, upper: Float64Array) -> bool:
    """Carry bounds on the input to its levels and back, in place; return whether any are left."""
    cubes = input_cubes(encoding, lower, upper)
    if cubes is None:
        return False
    narrow_to(lower, upper, encoding.inputs, cubes.lower[0], cubes.upper[0])
    if encoding.levels is not None:
        narrow_to(
            lower,
            upper,
            encoding.levels,
            cubes.level_lower[0].astype(np.float64),
            cubes.level_upper[0].astype(np.float64),
        )
    return True


def input_cubes(encoding: Encoding, lower: Float64Array, upper: Float64Array) -> Cubes | None:
    """Return the cube of the input inside column bounds, or None where it is empty."""
    domain, levels = encoding.problem.domain, encoding.levels
    x_lower, x_upper = lower[encoding.inputs][None], upper[encoding.inputs][None]
    if levels is None:
        none = np.zeros(x_lower.shape, dtype=np.int64)
        return Cubes(x_lower, x_upper, none, none)
    level_lower = lower[levels].astype(np.int64)[None]
    level_upper = upper[levels].astype(np.int64)[None]
    if bool((level_lower > level_upper).any()):
        return None
    found = domain.cubes_of_levels(level_lower, level_upper)
    x_lower, x_upper = np.maximum(found.lower, x_lower), np.minimum(found.upper, x_upper)
    if bool((x_lower > x_upper).any()):
        return None
    if domain.kind == "continuous":
        read = domain.cubes_of_boxes(x_lower, x_upper)
        level_lower = np.maximum(read.level_lower, level_lower)
        level_upper = np.minimum(read.level_upper, level_upper)
        if bool((level_lower > level_upper).any()):
            return None
    return Cubes(x_lower, x_upper, level_lower, level_upper)
