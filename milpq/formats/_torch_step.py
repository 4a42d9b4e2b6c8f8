"""What a node of a quantized torch module can stand for while it is read, and a node with its arguments."""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch

from milpq._arrays import Int64Array
from milpq.errors import UnsupportedModelError
from milpq.formats._quantized_builder import Grid, QuantizedBuilder
from milpq.network.geometry import Layout
from milpq.rounding.input_quantizer import RULES

LAYOUT: Final[Layout] = "channels_first"


@dataclass(frozen=True, slots=True)
class Real:
    """The float input, or dequantized codes (`codes` is not None)."""

    shape: tuple[int, ...]
    codes: Codes | None = None


@dataclass(frozen=True, slots=True)
class Codes:
    """quint8 codes; `scale` is torch's float64, of which kernels take the float32 value."""

    value: int
    shape: tuple[int, ...]
    scale: float


Value: TypeAlias = "Real | Codes | torch.Tensor | float | None"


@dataclass(frozen=True, slots=True)
class Step:
    """One node with its arguments looked up."""

    builder: QuantizedBuilder
    name: str
    where: str
    args: list[Value]
    kwargs: dict[str, Value]

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error that this node `what`."""
        return UnsupportedModelError(f"{self.where}: {what}")

    def argument(self, position: int, name: str, default: Value = None) -> Any:
        """Return an argument by its position or name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def codes(self, position: int = 0) -> Codes:
        """Return an argument that must be codes."""
        source = self.args[position]
        if not isinstance(source, Codes):
            raise self.unsupported("works on float values; quantize every layer")
        return source

    def option(self, part: Any, position: int, name: str, *, default: Value = None) -> Any:
        """Return an option of a module, or an argument of a function."""
        return self.argument(position, name, default) if part is None else getattr(part, name, default)

    def output_grid(self, position: int, *, relu: bool) -> tuple[Grid, float]:
        """Return the grid that a scale and a zero point among the arguments state, and torch's float64 scale."""
        scale, zero_point = self.argument(position, "scale"), self.argument(position + 1, "zero_point")
        return self.grid(scale, zero_point, int(zero_point) if relu else 0)

    def known(self, codes: Codes) -> Grid:
        """Return the grid of codes."""
        grid = self.builder.grid(codes.value)
        assert grid is not None
        return grid

    def grid(self, scale: object, zero_point: object, lower: int = 0) -> tuple[Grid, float]:
        """Return the grid of quint8 codes and the float64 scale torch holds."""
        wide = float(cast("float", scale))
        grid = Grid(float(np.float32(wide)), int(cast("int", zero_point)), lower, 255)
        grid.check(self.where)
        return grid, wide

    def requantized(self, codes: Codes, grid: Grid, *, image: bool = False) -> int:
        """Return the value of codes that are dequantized and quantized on another grid.

        Raises
        ------
        UnsupportedModelError
            They are an `image`, and a tie goes one way or the other with its layout in memory: torch adds the
            zero point after rounding where an image lies in channels-last order, as convolutions give it.
        """
        known = self.known(codes)
        if (known.scale, known.zero_point) == (grid.scale, grid.zero_point):
            return codes.value

        def rounded(numbers: Int64Array, rule: str) -> Int64Array:
            real = (numbers - known.zero_point).astype(np.float32) * np.float32(known.scale)
            levels = RULES[rule](real, np.full(len(real), grid.scale, dtype=np.float32), grid.zero_point)
            return np.clip(levels.astype(np.int64) + grid.zero_point, grid.lower, grid.upper)

        def table(numbers: Int64Array) -> Int64Array:
            codes = rounded(numbers, "rint-fma")
            if image and (codes != rounded(numbers, "rint-mul")).any():
                raise self.unsupported(
                    "rounds ties by how an image lies in memory; use an even zero point, or one scale for both"
                )
            return codes

        return self.builder.lookup(self.name, self.where, codes.value, table, grid)
