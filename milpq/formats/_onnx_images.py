"""The ONNX operators of images and joins: Conv, pools, BatchNormalization, Concat, Pad, Transpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from milpq._arrays import Int64Array
from milpq.formats._onnx_step import Computed, Step, Value
from milpq.formats._onnx_windows import image_extents, sliding_windows
from milpq.network.geometry import (
    OUTSIDE,
    Layout,
    averaged_candidates,
    concatenated_indices,
    convolution_matrix,
    padded_indices,
)
from milpq.network.images import Convolution, Image

LAYOUT: Layout = "channels_first"


def _image(shape: tuple[int, ...]) -> Image | None:
    """Return what a value of this shape may be: an image, if it is one of a batch of 1."""
    return Image(shape[1], shape[2:], LAYOUT) if len(shape) > 2 and shape[0] == 1 else None


def _conv(step: Step) -> Value:
    source, weights = step.computed(0), step.constant(1, "weights")
    before = ((0, 0),) * len(source.shape[2:])
    if source.padded is not None:
        # The padding of a convolution is of zeros, too.
        source, before = source.padded
    spatial = image_extents(step, source.shape)
    groups = int(step.options.get("group", 1))
    if weights.ndim != len(source.shape) or weights.shape[1] * groups != source.shape[1]:
        raise step.damaged(
            f"weights of shape {weights.shape} in {groups} groups for the shape {source.shape}"
        )
    windows = sliding_windows(step, spatial, weights.shape[2:], before)
    positions = len(windows.positions)
    shape = (1, weights.shape[0], *windows.result)
    step.check(shape, positions * weights.size)
    try:
        matrix, channel = convolution_matrix(weights, windows, groups, LAYOUT)
    except ValueError as error:
        raise step.damaged(str(error)) from error
    bias = None
    if step.has(2):
        bias = step.constant(2, "bias").ravel()
        if len(bias) != weights.shape[0]:
            raise step.damaged(f"{len(bias)} biases for {weights.shape[0]} channels")
        bias = bias[channel]
    convolution = Convolution(windows, source.shape[1], weights.shape[0], groups, LAYOUT)
    return Computed(step.builder.linear(step.name, source.index, matrix, bias, convolution), shape)


def _pooled(
    step: Step, source: Computed, candidates: Int64Array, shape: tuple[int, ...], *, average: bool
) -> Computed:
    """Append a pool of images."""
    builder = step.builder
    read, made = _image(source.shape), _image(shape)
    assert read is not None and made is not None
    builder.images.settle(source.index, read)
    if average:
        value = builder.average(step.name, source.index, candidates)
        builder.images.settle(value, made)
    else:
        value = builder.maximum(step.name, source.index, candidates, made)
    return Computed(value, shape)


def _pool(*, average: bool) -> Callable[[Step], Value]:
    def pool(step: Step) -> Value:
        source = step.computed(0)
        spatial = image_extents(step, source.shape)
        kernel = step.integer_list("kernel_shape")
        if kernel is None or len(kernel) != len(spatial):
            raise step.damaged(f"its kernel_shape {kernel} does not fit the shape {source.shape}")
        if step.options.get("storage_order", 0):
            raise step.unsupported("uses storage_order")
        windows = sliding_windows(step, spatial, tuple(kernel))
        if (
            average
            and step.options.get("count_include_pad", 0)
            and (windows.counts != math.prod(kernel)).any()
        ):
            raise step.unsupported("counts the padding; pad with a Pad operator instead")
        channels = source.shape[1]
        shape = (1, channels, *windows.result)
        step.check(shape, windows.positions.size * channels)
        if not windows.counts.all():
            raise step.damaged("a window lies in the padding altogether")
        candidates = windows.candidates(channels, LAYOUT)
        return _pooled(step, source, candidates, shape, average=average)

    return pool


def _global_pool(*, average: bool) -> Callable[[Step], Value]:
    def pool(step: Step) -> Value:
        source = step.computed(0)
        spatial = image_extents(step, source.shape)
        candidates = averaged_candidates(source.shape, set(range(2, len(source.shape))))
        shape = (1, source.shape[1], *(1 for _ in spatial))
        return _pooled(step, source, candidates, shape, average=average)

    return pool


def _reduce_mean(step: Step) -> Value:
    source = step.computed(0)
    rank = len(source.shape)
    axes = step.integers(1, "axes") if step.has(1) else step.integer_list("axes")
    if axes is None:
        axes = [] if step.options.get("noop_with_empty_axes", 0) else list(range(rank))
    if any(not -rank <= axis < rank for axis in axes):
        raise step.damaged(f"its axes {axes} do not exist")
    chosen = {axis % rank for axis in axes}
    if not chosen:
        return source
    keep = bool(step.options.get("keepdims", 1))
    shape = tuple(
        1 if axis in chosen else extent
        for axis, extent in enumerate(source.shape)
        if keep or axis not in chosen
    )
    candidates = averaged_candidates(source.shape, chosen)
    return Computed(step.builder.average(step.name, source.index, candidates), shape)


def _batch_normalization(step: Step) -> Value:
    """Append ``(x − mean)·gain + bias`` with ``gain = scale/√(variance + ε)`` computed in float64."""
    source = step.computed(0)
    if step.options.get("training_mode", 0):
        raise step.unsupported("is in training mode; export the model for inference")
    if len(source.shape) < 2:
        raise step.damaged(f"normalizes the shape {source.shape}")
    scale, bias, mean, variance = (
        step.constant(position, what).ravel()
        for position, what in enumerate(("scale", "bias", "mean", "variance"), start=1)
    )
    channels = source.shape[1]
    if {len(scale), len(bias), len(mean), len(variance)} != {channels}:
        raise step.damaged(f"its parameters are not {channels} numbers each")
    shifted = variance + float(np.float32(step.options.get("epsilon", 1e-5)))
    if not (shifted > 0).all():
        raise step.damaged("a variance is not positive")
    gain = scale / np.sqrt(shifted)
    channel = np.broadcast_to(
        np.arange(channels).reshape(1, channels, *(1 for _ in source.shape[2:])), source.shape
    ).ravel()
    value = step.builder.rescale(step.name, source.index, gain[channel], (bias - mean * gain)[channel])
    return Computed(value, source.shape)


def _concat(step: Step) -> Value:
    values = [step.value(position) for position in range(step.inputs)]
    axis = int(step.options.get("axis", 0))
    if not any(isinstance(value, Computed) for value in values):
        return np.concatenate([value for value in values if not isinstance(value, Computed)], axis=axis)
    shapes = [tuple(value.shape) for value in values]
    rank = len(shapes[0])
    if not -rank <= axis < rank:
        raise step.damaged(f"its axis {axis} does not exist")
    axis %= rank
    if any(shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for shape in shapes):
        raise step.damaged(f"joins the shapes {shapes}")
    shape = (*shapes[0][:axis], sum(extents[axis] for extents in shapes), *shapes[0][axis + 1 :])
    step.check(shape, math.prod(shape))
    chosen = [part.ravel() for part in concatenated_indices(shapes, axis)]
    fill = np.zeros(math.prod(shape))
    sources: list[int] = []
    indices: list[Int64Array] = []
    for position, (value, index) in enumerate(zip(values, chosen, strict=True)):
        if isinstance(value, Computed):
            sources.append(value.index)
            indices.append(index)
        else:
            constant = step.constant(position, "part").ravel()
            fill = np.where(index == OUTSIDE, fill, constant[np.maximum(index, 0)])
    joined = step.builder.select(step.name, sources, indices, fill)
    made = _image(shape)
    for value in values:
        read = _image(value.shape)
        if isinstance(value, Computed) and read is not None and made is not None:
            step.builder.images.alike(value.index, read, joined, made)
    return Computed(joined, shape)


def _pad(step: Step) -> Value:
    source = step.computed(0)
    rank = len(source.shape)
    mode = step.options.get("mode", b"constant")
    if mode not in {b"constant", "constant"}:
        raise step.unsupported(f"pads in mode {mode!r}; milpq reads constant padding")
    flat = step.integers(1, "pads") if step.has(1) else step.integer_list("pads")
    if flat is None:
        raise step.damaged("has no pads")
    axes = step.integers(3, "axes") if step.has(3) else list(range(rank))
    if len(flat) != 2 * len(axes) or any(not -rank <= axis < rank for axis in axes):
        raise step.damaged(f"its pads {flat} do not fit the shape {source.shape}")
    padding = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        padding[axis % rank] = flat[position], flat[len(axes) + position]
    shape = tuple(
        extent + before + after for extent, (before, after) in zip(source.shape, padding, strict=True)
    )
    if min(shape, default=1) < 1:
        raise step.damaged(f"crops the shape {source.shape} to {shape}")
    step.check(shape, math.prod(shape))
    chosen = padded_indices(source.shape, tuple(padding)).ravel()
    constant = step.scalar(2, "constant", float(step.options.get("value", 0.0)))
    fill = np.where(chosen == OUTSIDE, constant, 0.0)
    value = step.builder.select(step.name, [source.index], [chosen], fill)
    read, made = _image(source.shape), _image(shape)
    if read is not None and made is not None:
        step.builder.images.alike(source.index, read, value, made)
        if constant == 0.0 and not any((*padding[0], *padding[1])) and min(flat) >= 0:
            return Computed(value, shape, padded=(source, tuple(padding[2:])))
    return Computed(value, shape)


def _transpose(step: Step) -> Value:
    source = step.value(0)
    rank = len(source.shape)
    given = step.integer_list("perm")
    order = list(range(rank))[::-1] if given is None else given
    if sorted(order) != list(range(rank)):
        raise step.damaged(f"its perm {order} is no permutation")
    if not isinstance(source, Computed):
        return source.transpose(order)
    flat = np.arange(math.prod(source.shape), dtype=np.int64).reshape(source.shape).transpose(order)
    if (np.diff(flat.ravel()) == 1).all():
        return replace(source, shape=flat.shape)
    value = step.builder.select(step.name, [source.index], [flat.ravel()], np.zeros(flat.size))
    return Computed(value, flat.shape)


def _max(step: Step) -> Value:
    first, second = step.computed(0), step.computed(1)
    if step.inputs != 2 or first.shape != second.shape or first.index == second.index:
        raise step.unsupported("takes other than two different computed values of one shape")
    size = math.prod(first.shape)
    numbers = np.arange(size, dtype=np.int64)
    outside = np.full(size, OUTSIDE)
    both = step.builder.select(
        step.name,
        [first.index, second.index],
        [np.concatenate([numbers, outside]), np.concatenate([outside, numbers])],
        np.zeros(2 * size),
    )
    candidates = np.stack([numbers, numbers + size], axis=1)
    return Computed(step.builder.maximum(step.name, both, candidates), first.shape)


IMAGE_HANDLERS: dict[str, Callable[[Step], Value]] = {
    "AveragePool": _pool(average=True),
    "BatchNormalization": _batch_normalization,
    "Concat": _concat,
    "Conv": _conv,
    "GlobalAveragePool": _global_pool(average=True),
    "GlobalMaxPool": _global_pool(average=False),
    "Max": _max,
    "MaxPool": _pool(average=False),
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Transpose": _transpose,
}
"""Handlers of these operators."""
