"""What a node of an exported torch graph can stand for while the graph is read, and a node with its arguments."""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import fx

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._quantized_builder import Grid, QuantizedBuilder

GRIDS: Final = {torch.int8: (-128, 127), torch.uint8: (0, 255)}


@dataclass(frozen=True, slots=True)
class Real:
    """The input, or dequantized codes (`value` is not None)."""

    shape: tuple[int, ...]
    value: int | None = None


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes of the builder."""

    value: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A dequantized constant; one scale, or one for each entry of the first axis."""

    codes: Float64Array
    scales: Float64Array
    zero_points: Int64Array


@dataclass(frozen=True, slots=True)
class Pending:
    """A float result that waits for the quantize that follows it."""

    settle: Callable[[Grid], int]
    shape: tuple[int, ...]
    lower: float = -np.inf
    upper: float = np.inf


Value: TypeAlias = "Real | Codes | Weights | Pending | torch.Tensor | None"


@dataclass(frozen=True, slots=True)
class Step:
    """One node, its arguments looked up on demand."""

    builder: QuantizedBuilder
    node: fx.Node
    where: str
    values: dict[fx.Node, Value]

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error that this node `what`."""
        return UnsupportedModelError(f"{self.where}: {what}")

    def argument(self, position: int, name: str = "", default: Any = None) -> Any:
        """Return an argument: what a node stands for, or the constant that it is."""
        args = self.node.args
        given: Any = args[position] if position < len(args) else self.node.kwargs.get(name, default)
        return self.values.get(given) if isinstance(given, fx.Node) else given

    def real(self) -> Real:
        """Return the dequantized codes that a layer reads."""
        source = self.argument(0)
        if not isinstance(source, Real) or source.value is None:
            raise self.unsupported("computes on what is not quantized; quantize every layer")
        return source

    def grid(self) -> Grid:
        """Return the grid that a quantize or dequantize states; its scale must be a float32 number."""
        scale, zero_point, lower, upper, kind = (self.argument(position) for position in range(1, 6))
        if not isinstance(scale, float) or not isinstance(zero_point, int) or kind not in GRIDS:
            raise self.unsupported(
                f"quantizes to {kind} or on a computed scale; milpq reads static int8 and uint8"
            )
        limits = GRIDS[kind]
        if not (limits[0] <= lower < upper <= limits[1]):
            raise InvalidNetworkError(f"{self.where}: its codes {lower} to {upper} are not those of {kind}")
        grid = Grid(scale, zero_point, lower, upper)
        grid.check(self.where)
        return grid

    def pair(self, position: int, name: str, default: int) -> tuple[int, int]:
        """Return an argument of one or two integers."""
        given = self.argument(position, name)
        if given is None or given == []:
            given = default
        both = [int(number) for number in (given if isinstance(given, list | tuple) else [given])]
        return both[0], both[-1]
