"""Operators of quantized torch modules that hold no weights: sums, pools, concatenations, clamps, reshapes."""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import torch
from torch import nn
from torch.ao.nn import quantized as nnq

from milpq.errors import InvalidNetworkError
from milpq.formats._quantized_builder import Grid
from milpq.formats._torch_step import LAYOUT, Codes, Real, Step, Value
from milpq.network.geometry import OUTSIDE, Windows, averaged_candidates, concatenated_indices
from milpq.network.images import Image
from milpq.rounding.qnnpack_kernels import qnnpack_clamp


def _windows(step: Step, source: Codes, numbers: list[Any], *, ceiling: bool) -> Windows:
    """Return the windows of a pool with this size, stride, padding and dilation."""
    if len(source.shape) != 3:
        raise step.unsupported(f"pools shape {source.shape}; milpq reads (channels, height, width)")
    size, stride, padding, dilation = (
        (number, number) if isinstance(number, int) else tuple(number) for number in numbers
    )
    try:
        pads = tuple((int(pad), int(pad)) for pad in padding)
        return Windows.of(source.shape[1:], size, stride, dilation, pads, ceiling=ceiling)
    except ValueError as error:
        raise InvalidNetworkError(f"{step.where}: {error}") from error


def _pooled(step: Step, source: Codes, value: int, windows: Windows) -> Codes:
    """Note that what a pool reads and gives are images, and return its result."""
    step.builder.images.settle(source.value, Image(source.shape[0], windows.spatial, LAYOUT))
    step.builder.images.settle(value, Image(source.shape[0], windows.result, LAYOUT))
    return replace(source, value=value, shape=(source.shape[0], *windows.result))


def _max_pool(step: Step, part: Any = None) -> Value:
    source = step.codes()
    if step.option(part, 6, "return_indices", default=False):
        raise step.unsupported("gives indices")
    size = step.option(part, 1, "kernel_size")
    numbers = [
        size,
        step.option(part, 2, "stride") or size,
        step.option(part, 3, "padding", default=0),
        step.option(part, 4, "dilation", default=1),
    ]
    ceiling = bool(step.option(part, 5, "ceil_mode", default=False))
    windows = _windows(step, source, numbers, ceiling=ceiling)
    candidates = windows.candidates(source.shape[0], LAYOUT)
    return _pooled(
        step, source, step.builder.maximum(step.name, step.where, source.value, candidates), windows
    )


def _average_pool(step: Step, part: Any = None) -> Value:
    source = step.codes()
    size = step.option(part, 1, "kernel_size")
    padding = step.option(part, 3, "padding", default=0)
    numbers = [size, step.option(part, 2, "stride") or size, padding, 1]
    ceiling = bool(step.option(part, 4, "ceil_mode", default=False))
    windows = _windows(step, source, numbers, ceiling=ceiling)
    if (windows.positions == OUTSIDE).any() or step.option(part, 6, "divisor_override"):
        raise step.unsupported("averages with padding or another divisor; pad by an operator of its own")
    if windows.positions.shape[1] == 1:
        raise step.unsupported("averages windows of one pixel, which QNNPACK refuses")
    return _average(step, source, windows, whole=False)


def _adaptive_pool(step: Step, part: Any = None) -> Value:
    source, size = step.codes(), step.option(part, 1, "output_size")
    if len(source.shape) != 3 or size not in (1, (1, 1), [1, 1]):
        raise step.unsupported(
            "averages to several pixels, which torch computes by kernels whose rounding depends on the number of "
            "channels; use AvgPool2d, or an output size of 1"
        )
    ones = (1, 1)
    windows = Windows.of(source.shape[1:], source.shape[1:], ones, ones, ((0, 0), (0, 0)))
    return _average(step, source, windows, whole=True)


def _average(step: Step, source: Codes, windows: Windows, *, whole: bool) -> Codes:
    candidates, grid = windows.candidates(source.shape[0], LAYOUT), step.known(source)
    value = step.builder.average(
        step.name, step.where, source.value, candidates, grid, whole=whole, as_unsigned=False
    )
    return _pooled(step, source, value, windows)


def _mean(step: Step) -> Value:
    source, rank = step.codes(), len(step.codes().shape) + 1
    axes: Any = step.argument(1, "dim")
    if rank != 4 or not isinstance(axes, list | tuple) or {int(axis) % rank for axis in axes} != {2, 3}:
        raise step.unsupported("is no mean over height and width")
    candidates = averaged_candidates(source.shape, {1, 2})
    grid = step.known(source)
    value = step.builder.average(
        step.name, step.where, source.value, candidates, grid, whole=True, as_unsigned=False
    )
    ends = (1, 1) if step.argument(2, "keepdim", default=False) else ()
    step.builder.images.settle(source.value, Image(source.shape[0], source.shape[1:], LAYOUT))
    return replace(source, value=value, shape=(source.shape[0], *ends))


def _sum(*, relu: bool) -> Callable[[Step], Value]:
    def add(step: Step) -> Value:
        first, second = step.codes(0), step.codes(1)
        if first.shape != second.shape:
            raise step.unsupported(f"adds shapes {first.shape} and {second.shape}; milpq does not broadcast")
        grid, wide = step.output_grid(2, relu=relu)
        value = step.builder.add(step.name, step.where, first.value, second.value, grid, as_unsigned=False)
        return Codes(value, first.shape, wide)

    return add


def _joined(step: Step, grid: Grid, wide: float) -> Value:
    parts: Any = step.args[0]
    if not isinstance(parts, list) or not all(isinstance(part, Codes) for part in cast("list[Any]", parts)):
        raise step.unsupported("joins what is not quantized")
    codes = cast("list[Codes]", parts)
    shapes = [part.shape for part in codes]
    rank, axis = len(shapes[0]) + 1, int(cast("int", step.argument(1, "dim", 0)))
    others = {(*shape[: axis % rank - 1], *shape[axis % rank :]) for shape in shapes}
    if axis % rank == 0 or len(others) > 1:
        raise step.unsupported(f"joins shapes {shapes} along axis {axis}")
    axis = axis % rank - 1
    chosen = [part.ravel() for part in concatenated_indices(shapes, axis)]
    values = [step.requantized(part, grid, image=rank == 4) for part in codes]
    joined = step.builder.join(step.name, step.where, values, chosen, grid)
    total = sum(shape[axis] for shape in shapes)
    shape = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
    if rank == 4:
        for part, value in zip(codes, values, strict=True):
            read = Image(part.shape[0], part.shape[1:], LAYOUT)
            step.builder.images.alike(value, read, joined, Image(shape[0], shape[1:], LAYOUT))
    return Codes(joined, shape, wide)


def _quantized_join(*, relu: bool) -> Callable[[Step], Value]:
    def join(step: Step) -> Value:
        return _joined(step, *step.output_grid(2, relu=relu))

    return join


def _join(step: Step) -> Value:
    parts = step.args[0]
    first = cast("list[Any]", parts)[0] if isinstance(parts, list) and parts else None
    if not isinstance(first, Codes):
        raise step.unsupported("joins what is not quantized")
    return _joined(step, replace(step.known(first), lower=0), first.scale)


def _clipped(step: Step, lower: float, upper: float) -> Value:
    source = step.codes()
    if len(source.shape) > 1:
        raise step.unsupported(
            "clamps an image by QNNPACK's kernel of its own, which puts its codes in another order where they lie in "
            "channels-last memory, as convolutions give them; flatten it first, or use ReLU"
        )
    known = step.known(source)
    table = qnnpack_clamp(known.quantization, lower, upper)
    grid = replace(known, lower=int(table.min()), upper=int(table.max()))
    if not grid.lower <= grid.zero_point <= grid.upper:
        grid = known
    value = step.builder.lookup(step.name, step.where, source.value, lambda _: table, grid)
    return replace(source, value=value)


def _relu6(step: Step, part: Any = None) -> Value:
    del part
    return _clipped(step, 0.0, 6.0)


def _hardtanh(step: Step, part: Any = None) -> Value:
    ends = step.option(part, 1, "min_val", default=-1.0), step.option(part, 2, "max_val", default=1.0)
    return _clipped(step, float(ends[0]), float(ends[1]))


def _relu(step: Step, part: Any = None) -> Value:
    del part
    source = step.codes()
    known = step.known(source)
    grid = replace(known, lower=max(known.lower, known.zero_point))
    value = step.builder.lookup(
        step.name, step.where, source.value, lambda codes: np.maximum(codes, known.zero_point), grid
    )
    return replace(source, value=value)


def _flatten(step: Step, part: Any = None) -> Value:
    source = step.args[0]
    starts = (part.start_dim, part.end_dim) if isinstance(part, nn.Flatten) else (
        step.argument(1, "start_dim", 0), step.argument(2, "end_dim", -1))  # fmt: skip
    if starts != (1, -1) or not isinstance(source, Codes | Real):
        raise step.unsupported("flattens other dimensions than all but the batch")
    return replace(source, shape=(math.prod(source.shape),))


def _unchanged(step: Step, part: Any = None) -> Value:
    del part
    return step.args[0]


FUNCTIONS: Final[dict[object, Callable[[Step], Value]]] = {
    torch.cat: _join,
    torch.flatten: _flatten,
    torch.mean: _mean,
    torch.relu: _relu,
    torch.ops.quantized.add: _sum(relu=False),
    torch.ops.quantized.add_relu: _sum(relu=True),
    torch.ops.quantized.cat: _quantized_join(relu=False),
    torch.ops.quantized.cat_relu: _quantized_join(relu=True),
    nn.functional.adaptive_avg_pool2d: _adaptive_pool,
    nn.functional.avg_pool2d: _average_pool,
    nn.functional.hardtanh: _hardtanh,
    nn.functional.max_pool2d: _max_pool,
    nn.functional.relu: _relu,
    nn.functional.relu6: _relu6,
    "flatten": _flatten,
    "mean": _mean,
    "relu": _relu,
}
"""By function, or by the name of a method."""

MODULES: Final[dict[type[nn.Module], Callable[[Step, Any], Value]]] = {
    nnq.Dropout: _unchanged,
    nnq.ReLU6: _relu6,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.AvgPool2d: _average_pool,
    nn.Dropout: _unchanged,
    nn.Flatten: _flatten,
    nn.Hardtanh: _hardtanh,
    nn.Identity: _unchanged,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: _relu,
    nn.ReLU6: _relu6,
}
