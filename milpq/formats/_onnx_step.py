"""One ONNX node with its inputs looked up: what the operators share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.formats._files import to_float64
from milpq.formats._float_builder import FloatBuilder
from milpq.formats._onnx_node import Node


@dataclass(frozen=True, slots=True)
class Computed:
    """A value of the FloatBuilder under its ONNX shape, the batch dimension being 1.

    `after` names the operator that is left out if nothing follows, and `before` is the value it reads.  `padded` is
    what zeros were put around, and how many (before, after) each spatial axis.
    """

    index: int
    shape: tuple[int, ...]
    after: str = ""
    before: int = 0
    padded: tuple[Computed, tuple[tuple[int, int], ...]] | None = None


Value: TypeAlias = "Computed | npt.NDArray[Any]"


class Step(Node[Value]):
    """A node of a float graph, and what the handlers share."""

    def __init__(
        self,
        builder: FloatBuilder,
        name: str,
        where: str,
        sources: list[Value | None],
        options: dict[str, Any],
    ) -> None:
        super().__init__(name, where, sources, options)
        self.builder = builder

    def check(self, shape: tuple[int, ...], weights: int) -> None:
        """Raise UnsupportedModelError if a layer of this shape and number of weights is too large."""
        self.builder.check_size(math.prod(shape), f"layer {self.name!r}")
        self.builder.check_weights(weights, f"layer {self.name!r}")

    def computed(self, position: int) -> Computed:
        """Return an input that must depend on the network input."""
        source = self.value(position)
        if not isinstance(source, Computed):
            raise self.unsupported(f"its input {position} is a constant; fold constants on export")
        return source

    def constant(self, position: int, what: str) -> Float64Array:
        """Return an input that must be a float constant."""
        source = self.value(position)
        if isinstance(source, Computed):
            raise self.unsupported(f"its {what} depends on the network input; milpq needs a constant")
        if source.dtype.kind != "f":
            raise self.unsupported(f"its {what} is not a float constant")
        return to_float64(source)

    def integers(self, position: int, what: str) -> list[int]:
        """Return an input that must be a list of integer constants."""
        source = self.value(position)
        if isinstance(source, Computed) or source.dtype.kind != "i" or source.ndim > 1:
            raise self.unsupported(f"its {what} is not a list of integer constants")
        return [int(number) for number in source.ravel()]

    def scalar(self, position: int, what: str, default: float) -> float:
        """Return an optional input that must be one float constant."""
        if not self.has(position):
            return default
        source = self.constant(position, what)
        if source.size != 1:
            raise self.damaged(f"its {what} is not one number")
        return float(source.ravel()[0])

    def broadcast(self, constant: Float64Array, value: Computed) -> tuple[Float64Array, tuple[int, ...]]:
        """Return a constant spread over `value`, flattened, and the shape of the result."""
        try:
            shape = np.broadcast_shapes(constant.shape, value.shape)
        except ValueError:
            raise self.damaged(f"shapes {constant.shape} and {value.shape} do not broadcast") from None
        if math.prod(shape) != math.prod(value.shape):
            raise self.unsupported(f"broadcasts its input of shape {value.shape} to {shape}")
        return np.broadcast_to(constant, shape).ravel(), shape
