"""Pools and sums of quantized ONNX graphs, in QOperator and in QDQ files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from milpq._arrays import Int64Array
from milpq.formats._onnx_quantized_operands import LAYOUT, dequantized, operand
from milpq.formats._onnx_quantized_values import Codes, Dequantized, Pending, QuantizedStep, QValue, Stored
from milpq.formats._onnx_windows import image_extents, sliding_windows, whole_image
from milpq.formats._quantized_builder import CODE_RANGE, Grid
from milpq.network.geometry import OUTSIDE, Windows, concatenated_indices, padded_indices
from milpq.network.images import Image


def _max_pool(step: QuantizedStep) -> QValue:
    """Append a max pool, which leaves codes on their grid, in float as on codes."""
    source = step.value(0)
    codes = step.layer_input(source.codes if isinstance(source, Dequantized) else source) if isinstance(
        source, Dequantized | Codes) else None  # fmt: skip
    if codes is None or step.builder.grid(codes.value) is None:
        raise step.unsupported("reads what is not quantized; quantize every layer")
    windows = sliding_windows(step, image_extents(step, codes.shape), None)
    if (windows.counts == 0).any():
        raise step.damaged("a window lies in the padding altogether")
    candidates = windows.candidates(codes.shape[1], LAYOUT)
    value = step.builder.maximum(step.name, step.where, codes.value, candidates)
    _note_pool(step, codes, value, windows)
    made = replace(codes, value=value, shape=(1, codes.shape[1], *windows.result))
    return Dequantized(made) if isinstance(source, Dequantized) else made


def _note_pool(step: QuantizedStep, codes: Codes, value: int, windows: Windows) -> None:
    """Note that what a pool reads and gives are images."""
    step.builder.images.settle(codes.value, Image(codes.shape[1], windows.spatial, LAYOUT))
    step.builder.images.settle(value, Image(codes.shape[1], windows.result, LAYOUT))


def _average_windows(step: QuantizedStep, codes: Codes, *, whole: bool) -> Windows:
    spatial = image_extents(step, codes.shape)
    if step.options.get("channels_last", 0):
        raise step.unsupported("is channels_last; milpq reads (1, channels, height, width)")
    windows = whole_image(spatial) if whole else sliding_windows(step, spatial, None)
    if (windows.positions == OUTSIDE).any():
        raise step.unsupported("has padding or windows that stick out; pad by an operator of its own")
    if not whole and len(windows.positions) == 1:
        raise step.unsupported("has one window, the whole image; use GlobalAveragePool")
    return windows


def _average(
    step: QuantizedStep, codes: Codes, *, whole: bool
) -> tuple[Callable[[Grid], int], tuple[int, ...]]:
    windows = _average_windows(step, codes, whole=whole)
    candidates = windows.candidates(codes.shape[1], LAYOUT)

    def append(grid: Grid) -> int:
        value = step.builder.average(
            step.name, step.where, codes.value, candidates, grid, whole=whole, as_unsigned=codes.as_unsigned
        )
        _note_pool(step, codes, value, windows)
        return value

    return append, (1, codes.shape[1], *windows.result)


def _pool(*, whole: bool) -> Callable[[QuantizedStep], QValue]:
    """Return the handler of a float pool between DequantizeLinear and QuantizeLinear."""

    def pool(step: QuantizedStep) -> QValue:
        codes = dequantized(step, 0)
        append, shape = _average(step, codes, whole=whole)
        return Pending(_quantized(step, append), shape, step.where)

    return pool


def _qlinear_pool(*, whole: bool) -> Callable[[QuantizedStep], QValue]:
    def pool(step: QuantizedStep) -> QValue:
        codes = operand(step, 0)
        append, shape = _average(step, codes, whole=whole)
        grid, kind = step.grid(3, 4, codes.kind)
        return Codes(append(grid), shape, kind)

    return pool


def _quantized(step: QuantizedStep, append: Callable[[Grid], int]) -> Callable[[Grid | None], int]:
    """Return `append` for a result that has to be quantized again."""

    def settle(grid: Grid | None) -> int:
        if grid is None:
            raise step.unsupported("is not followed by a QuantizeLinear; quantize its result")
        return append(grid)

    return settle


def _add(step: QuantizedStep) -> QValue:
    left, right = step.value(0), step.value(1)
    if isinstance(left, Stored) and isinstance(right, Dequantized):
        left, right = right, left
    if isinstance(left, Dequantized) and isinstance(right, Dequantized):
        first, second = dequantized(step, 0), dequantized(step, 1)
        return Pending(
            _quantized(step, lambda grid: _sum(step, first, second, grid)), first.shape, step.where
        )
    if isinstance(left, Dequantized) and isinstance(right, Stored):
        source, constant = dequantized(step, 1 if isinstance(step.value(0), Stored) else 0), right
        return Pending(
            _quantized(step, lambda grid: _offset(step, source, constant, grid)), source.shape, step.where
        )
    raise step.unsupported("adds what is not quantized; quantize every layer, or use Gemm with a bias")


def _qlinear_add(step: QuantizedStep) -> QValue:
    positions = [0, 3]
    if isinstance(step.value(0), np.ndarray):
        positions.reverse()
    source = operand(step, positions[0])
    grid, kind = step.grid(6, 7, source.kind)
    other = step.value(positions[1])
    if isinstance(other, np.ndarray):
        scales, zero_points, _ = step.scales(positions[1] + 1, positions[1] + 2)
        return Codes(_offset(step, source, Stored(other, scales, zero_points, 0), grid), source.shape, kind)
    return Codes(_sum(step, source, operand(step, positions[1]), grid), source.shape, kind)


def _sum(step: QuantizedStep, first: Codes, second: Codes, grid: Grid) -> int:
    if (first.shape, first.kind, first.by_quantize) != (second.shape, second.kind, second.by_quantize):
        raise step.unsupported(f"adds shapes {first.shape} and {second.shape}; milpq does not broadcast")
    return step.builder.add(
        step.name, step.where, first.value, second.value, grid, as_unsigned=first.as_unsigned
    )


def _offset(step: QuantizedStep, source: Codes, constant: Stored, grid: Grid) -> int:
    if constant.scale.size != 1 or constant.codes.dtype.name != source.kind:
        raise step.unsupported("adds a constant of another type or with one scale a channel")
    try:
        codes = np.broadcast_to(constant.codes, source.shape)
    except ValueError:
        raise step.unsupported(f"adds shapes {source.shape} and {constant.codes.shape}") from None
    of = Grid(float(constant.scale.ravel()[0]), int(constant.zero_point.ravel()[0]), *CODE_RANGE[source.kind])
    stored: Int64Array = codes.astype(np.int64).ravel()
    return step.builder.offset(
        step.name, step.where, source.value, stored, of, grid, as_unsigned=source.as_unsigned
    )


def _pad(step: QuantizedStep) -> QValue:
    """Append a pad of codes with a code, which quantizers take from the zero point."""
    source = step.value(0)
    if not isinstance(source, Codes):
        raise step.unsupported(
            "pads what is not codes, which ONNX Runtime may compute in float32; pad by a convolution"
        )
    source, rank = replace(step.layer_input(source), by_quantize=False), len(source.shape)
    grid = step.builder.grid(source.value)
    flat = step.integers(1, "pads")
    mode = step.options.get("mode", b"constant")
    if grid is None or step.has(3) or mode not in {b"constant", "constant"}:
        raise step.unsupported("is not a constant pad of all axes of quantized codes")
    if len(flat) != 2 * rank or min(flat) < 0 or max(flat) > 2**20:
        raise step.damaged(f"its pads {flat} do not fit the shape {source.shape}")
    padding = tuple(zip(flat[:rank], flat[rank:], strict=True))
    shape = tuple(extent + sum(pair) for extent, pair in zip(source.shape, padding, strict=True))
    step.builder.check_size(math.prod(shape), step.where)
    code = int(step.constant(2, "constant").ravel()[0]) if step.has(2) else 0
    if not grid.lower <= code <= grid.upper:
        raise step.damaged(f"pads with {code}, which is no code")
    chosen = padded_indices(source.shape, padding).ravel()
    value = step.builder.pad(step.name, step.where, source.value, chosen, code - grid.zero_point)
    if rank > 2 and not any((*padding[0], *padding[1])):
        read, made = Image(shape[1], source.shape[2:], LAYOUT), Image(shape[1], shape[2:], LAYOUT)
        step.builder.images.alike(source.value, read, value, made)
    return replace(source, value=value, shape=shape)


def _concat(step: QuantizedStep) -> QValue:
    """Append a concatenation between DequantizeLinear and QuantizeLinear; it moves codes, fused or not."""
    parts = [dequantized(step, position) for position in range(step.inputs)]
    shape, chosen = _joined(step, parts)
    return Pending(_quantized(step, lambda grid: _join(step, parts, chosen, grid)), shape, step.where)


def _qlinear_concat(step: QuantizedStep) -> QValue:
    if step.inputs < 5 or (step.inputs - 2) % 3:
        raise step.damaged("its inputs are not triples of codes, scale and zero point")
    parts = [operand(step, position) for position in range(2, step.inputs, 3)]
    grid, kind = step.grid(0, 1, parts[0].kind)
    if any(part.kind != kind for part in parts):
        raise step.damaged("joins codes of different types")
    shape, chosen = _joined(step, parts)
    return Codes(_join(step, parts, chosen, grid), shape, kind)


def _joined(step: QuantizedStep, parts: list[Codes]) -> tuple[tuple[int, ...], list[Int64Array]]:
    """Return the shape of a concatenation, and which code of each part each of its codes is."""
    shapes = [part.shape for part in parts]
    rank, axis = len(shapes[0]), int(step.options.get("axis", 0))
    if not -rank <= axis < rank:
        raise step.damaged(f"its axis {axis} does not exist")
    axis %= rank
    if any(shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for shape in shapes):
        raise step.damaged(f"joins the shapes {shapes}")
    shape = (*shapes[0][:axis], sum(extents[axis] for extents in shapes), *shapes[0][axis + 1 :])
    return shape, [part.ravel() for part in concatenated_indices(shapes, axis)]


def _join(step: QuantizedStep, parts: list[Codes], chosen: list[Int64Array], grid: Grid) -> int:
    """Append a concatenation of parts that are put on one grid by tables of codes."""
    values = [step.requantized(part, grid) for part in parts]
    joined = step.builder.join(step.name, step.where, values, chosen, grid)
    extents = sum(part.shape[1] for part in parts) if len(parts[0].shape) > 2 else 0
    for part, value in zip(parts, values, strict=True):
        if extents and all(other.shape[2:] == part.shape[2:] for other in parts):
            read = Image(part.shape[1], part.shape[2:], LAYOUT)
            step.builder.images.alike(value, read, joined, Image(extents, part.shape[2:], LAYOUT))
    return joined


IMAGE_HANDLERS: Final[dict[tuple[str, str], Callable[[QuantizedStep], QValue]]] = {
    ("", "Add"): _add,
    ("", "AveragePool"): _pool(whole=False),
    ("", "Concat"): _concat,
    ("", "GlobalAveragePool"): _pool(whole=True),
    ("", "MaxPool"): _max_pool,
    ("", "Pad"): _pad,
    ("com.microsoft", "QLinearAdd"): _qlinear_add,
    ("com.microsoft", "QLinearAveragePool"): _qlinear_pool(whole=False),
    ("com.microsoft", "QLinearConcat"): _qlinear_concat,
    ("com.microsoft", "QLinearGlobalAveragePool"): _qlinear_pool(whole=True),
}
