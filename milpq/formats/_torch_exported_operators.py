"""Sums, concatenations and averages of graphs that torch's pt2e quantization has converted."""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import fx

from milpq.errors import InvalidNetworkError
from milpq.formats._quantized_builder import Grid
from milpq.formats._torch_graph import Pending, Real, Step, Value
from milpq.formats._torch_step import LAYOUT
from milpq.network.geometry import OUTSIDE, Windows, concatenated_indices
from milpq.network.images import Image


def _add(step: Step) -> Value:
    first, second = step.argument(0), step.argument(1)
    if not (_coded(first) and _coded(second)) or step.argument(2, "alpha", 1) != 1:
        raise step.unsupported("adds what is not quantized, or scaled; quantize both operands")
    if first.shape != second.shape:
        raise step.unsupported(f"adds shapes {first.shape} and {second.shape}; milpq does not broadcast")

    def settle(grid: Grid) -> int:
        return step.builder.add(
            step.node.name, step.where, first.value, second.value, grid, as_unsigned=False
        )

    return Pending(settle, first.shape)


def _cat(step: Step) -> Value:
    given: Any = step.node.args[0]
    parts: list[Any] = [step.values.get(part) for part in given if isinstance(part, fx.Node)]
    if len(parts) != len(given) or not all(_coded(part) for part in parts):
        raise step.unsupported("joins what is not quantized")
    shapes = [part.shape for part in parts]
    rank = len(shapes[0]) + 1
    axis = int(step.argument(1, "dim", 0)) % rank - 1
    if axis < 0 or len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
        raise step.unsupported(f"joins shapes {shapes} along axis {axis + 1}")
    chosen = [part.ravel() for part in concatenated_indices(shapes, axis)]
    total = sum(shape[axis] for shape in shapes)
    shape = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])

    def settle(grid: Grid) -> int:
        for part in parts:
            _check_same(step, part, grid)
        values = [part.value for part in parts]
        joined = step.builder.join(step.node.name, step.where, values, chosen, grid)
        if rank == 4:
            for part in parts:
                read = Image(part.shape[0], part.shape[1:], LAYOUT)
                step.builder.images.alike(part.value, read, joined, Image(shape[0], shape[1:], LAYOUT))
        return joined

    return Pending(settle, shape)


def _average_pool(step: Step) -> Value:
    source, size = _image(step), step.pair(1, "kernel_size", 1)
    stride = size if step.argument(2, "stride") in (None, []) else step.pair(2, "stride", 1)
    pads = tuple((pad, pad) for pad in step.pair(3, "padding", 0))
    ceiling = bool(step.argument(4, "ceil_mode", default=False))
    try:
        windows = Windows.of(source.shape[1:], size, stride, (1, 1), pads, ceiling=ceiling)
    except ValueError as error:
        raise InvalidNetworkError(f"{step.where}: {error}") from error
    if (windows.positions == OUTSIDE).any() or step.argument(6, "divisor_override"):
        raise step.unsupported("averages with padding or another divisor; pad by an operator of its own")
    return _average(step, source, windows, (source.shape[0], *windows.result), whole=False)


def _adaptive_pool(step: Step) -> Value:
    source = _image(step)
    if list(step.argument(1, "output_size")) != [1, 1]:
        raise step.unsupported("averages to several pixels; use avg_pool2d, or an output size of 1")
    return _average(step, source, _whole(source), (source.shape[0], 1, 1), whole=True)


def _mean(step: Step) -> Value:
    source, axes = _image(step), step.argument(1, "dim")
    if axes is None or {int(axis) % 4 for axis in axes} != {2, 3}:
        raise step.unsupported("is no mean over height and width")
    ends = (1, 1) if step.argument(2, "keepdim", default=False) else ()
    return _average(step, source, _whole(source), (source.shape[0], *ends), whole=True)


def _whole(source: Real) -> Windows:
    return Windows.of(source.shape[1:], source.shape[1:], (1, 1), (1, 1), ((0, 0), (0, 0)))


def _average(step: Step, source: Real, windows: Windows, shape: tuple[int, ...], *, whole: bool) -> Pending:
    value = source.value
    assert value is not None
    candidates = windows.candidates(source.shape[0], LAYOUT)

    def settle(grid: Grid) -> int:
        _check_same(step, source, grid, clamped=True)
        made = step.builder.average(
            step.node.name, step.where, value, candidates, grid, whole=whole, as_unsigned=False
        )
        step.builder.images.settle(value, Image(source.shape[0], windows.spatial, LAYOUT))
        step.builder.images.settle(made, Image(source.shape[0], windows.result, LAYOUT))
        return made

    return Pending(settle, shape)


def _image(step: Step) -> Real:
    source = step.real()
    if len(source.shape) != 3:
        raise step.unsupported(f"averages shape {source.shape}; milpq reads (channels, height, width)")
    return source


def _coded(value: object) -> bool:
    return isinstance(value, Real) and value.value is not None


def _check_same(step: Step, source: Real, grid: Grid, *, clamped: bool = False) -> None:
    """Raise UnsupportedModelError unless the result keeps the grid of a source, as the integer kernels do."""
    assert source.value is not None
    known = step.builder.grid(source.value)
    same = known is not None and (known.scale, known.zero_point) == (grid.scale, grid.zero_point)
    if not same or (not clamped and known is not None and known.lower < grid.lower):
        raise step.unsupported(
            "changes scale, zero point or range, which its integer kernel keeps; share them"
        )


HANDLERS: Final[dict[str, Callable[[Step], Value]]] = {
    "aten.adaptive_avg_pool2d.default": _adaptive_pool,
    "aten.add.Tensor": _add,
    "aten.add_.Tensor": _add,
    "aten.avg_pool2d.default": _average_pool,
    "aten.cat.default": _cat,
    "aten.mean.dim": _mean,
}
