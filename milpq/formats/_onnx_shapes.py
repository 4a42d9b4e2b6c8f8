"""The operators of ONNX that only give a tensor another shape, its elements staying in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from milpq.errors import ModelFileError

Shape: TypeAlias = tuple[int, ...]


class ShapeStep(Protocol):
    """What these operators need to know of a node."""

    options: dict[str, Any]

    def has(self, position: int) -> bool:
        """Tell whether an optional input is given."""
        ...

    def integers(self, position: int, what: str) -> list[int]:
        """Return an input that must be a list of integer constants."""
        ...

    def integer_list(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of integers, or None where it is not given."""
        ...

    def damaged(self, what: str) -> ModelFileError:
        """Return the error that this node is malformed."""
        ...


def _reshape(step: ShapeStep, old: Shape) -> Shape:
    wanted = step.integers(1, "shape")
    for axis, extent in enumerate(wanted):
        if extent == 0 and not step.options.get("allowzero", 0):
            if axis >= len(old):
                raise step.damaged(f"reshapes {old} to {wanted}")
            wanted[axis] = old[axis]
    if wanted.count(-1) > 1 or any(extent < -1 for extent in wanted):
        raise step.damaged(f"reshapes {old} to {wanted}")
    if -1 in wanted:
        known = -math.prod(wanted)
        if known <= 0:
            raise step.damaged(f"reshapes {old} to {wanted}")
        wanted[wanted.index(-1)] = math.prod(old) // known
    return tuple(wanted)


def _flatten(step: ShapeStep, old: Shape) -> Shape:
    axis = step.options.get("axis", 1)
    if not -len(old) <= axis <= len(old):
        raise step.damaged(f"its axis {axis} does not exist in shape {old}")
    axis = axis + len(old) if axis < 0 else axis
    return math.prod(old[:axis]), math.prod(old[axis:])


def _axes(step: ShapeStep, rank: int) -> set[int] | None:
    """Return the axes a Squeeze or Unsqueeze names by its input or its attribute; None if it names none."""
    axes = step.integers(1, "axes") if step.has(1) else step.integer_list("axes")
    if axes is None:
        return None
    if any(not -rank <= axis < rank for axis in axes):
        raise step.damaged(f"its axes {axes} do not exist")
    return {axis % rank for axis in axes}


def _squeeze(step: ShapeStep, old: Shape) -> Shape:
    axes = _axes(step, len(old))
    drop = {axis for axis, extent in enumerate(old) if extent == 1} if axes is None else axes
    return tuple(extent for axis, extent in enumerate(old) if axis not in drop)


def _unsqueeze(step: ShapeStep, old: Shape) -> Shape:
    count = len(step.integers(1, "axes")) if step.has(1) else len(step.integer_list("axes") or [])
    axes = _axes(step, len(old) + count)
    if not axes or len(axes) != count:
        raise step.damaged("names no axes, or one twice")
    extents = iter(old)
    return tuple(1 if axis in axes else next(extents) for axis in range(len(old) + count))


_RULES: Final[dict[str, Callable[[ShapeStep, Shape], Shape]]] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def new_shape(operator: str, step: ShapeStep, old: Shape) -> Shape:
    """Return the shape that Flatten, Reshape, Squeeze or Unsqueeze gives a tensor of shape `old`.

    Raises
    ------
    ModelFileError
        The operator's numbers do not fit the shape.
    """
    shape = _RULES[operator](step, old)
    if math.prod(shape) != math.prod(old):
        raise step.damaged(f"reshapes {old} to {shape}")
    return shape
