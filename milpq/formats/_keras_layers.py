"""The layers of Keras that milpq reads, images in NHWC order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np

from milpq._arrays import Int64Array
from milpq.formats._float_builder import repeat_rows
from milpq.formats._keras_layer import LARGEST, LAYOUT, Layer, Tensor
from milpq.network.geometry import (
    OUTSIDE,
    Windows,
    concatenated_indices,
    convolution_matrix,
    padded_indices,
    same_padding,
)
from milpq.network.images import Convolution, Image


def _dense(layer: Layer) -> Tensor:
    source = layer.source
    outputs = layer.weights[0].shape[-1] if layer.weights and layer.weights[0].ndim else 0
    if not source.shape:
        raise layer.damaged("reads a scalar")
    kernel = layer.weight(0, (source.shape[-1], outputs))
    rows = math.prod(source.shape[:-1])
    shape = (*source.shape[:-1], outputs)
    layer.check(shape, rows * kernel.size)
    bias = None
    if layer.flag("use_bias", default=True):
        bias = np.tile(layer.weight(1, (outputs,)), rows)
    matrix = repeat_rows(np.ascontiguousarray(kernel.T), rows)
    return layer.activated(layer.builder.linear(layer.name, source.value, matrix, bias), shape)


def _windows(
    layer: Layer,
    image: Tensor,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    before: Any = ((0, 0), (0, 0)),
) -> Windows:
    dilations = layer.pair("dilation_rate", 1)
    padding, spatial = layer.options.get("padding", "valid"), image.shape[:2]
    if padding not in {"valid", "same"}:
        raise layer.unsupported(f"has padding {padding!r:.40}")
    ends = before
    if padding == "same":
        wide = tuple(extent + sum(pads) for extent, pads in zip(spatial, before, strict=True))
        same = same_padding(wide, kernel, strides, dilations)
        ends = tuple((pads[0] + more[0], pads[1] + more[1]) for pads, more in zip(before, same, strict=True))
    try:
        return Windows.of(spatial, kernel, strides, dilations, ends)
    except ValueError as error:
        raise layer.damaged(str(error)) from error


def _convolution(*, depthwise: bool) -> Callable[[Layer], Tensor]:
    def convolve(layer: Layer) -> Tensor:
        image, before = layer.image, ((0, 0), (0, 0))
        if image.padded is not None:
            # The padding of a convolution is of zeros, too.
            image, before = image.padded
        channels = image.shape[2]
        stored = layer.weights[0].shape if layer.weights else ()
        kernel = layer.pair("kernel_size")
        if depthwise:
            multiplier = stored[-1] if stored else 0
            groups, outputs = channels, channels * multiplier
            weights = layer.weight(0, (*kernel, channels, multiplier))
            weights = weights.reshape(*kernel, 1, outputs)
        else:
            groups, outputs = layer.options.get("groups", 1), stored[-1] if stored else 0
            if type(groups) is not int or groups < 1 or channels % groups:
                raise layer.damaged(f"its groups {groups!r:.40} do not divide {channels} channels")
            weights = layer.weight(0, (*kernel, channels // groups, outputs))
        windows = _windows(layer, image, kernel, layer.pair("strides", 1), before)
        shape = (*windows.result, outputs)
        layer.check(shape, len(windows.positions) * weights.size)
        try:
            matrix, channel = convolution_matrix(weights.transpose(3, 2, 0, 1), windows, groups, LAYOUT)
        except ValueError as error:
            raise layer.damaged(str(error)) from error
        bias = layer.weight(1, (outputs,))[channel] if layer.flag("use_bias", default=True) else None
        slides = Convolution(windows, channels, outputs, groups, LAYOUT)
        return layer.activated(layer.builder.linear(layer.name, image.value, matrix, bias, slides), shape)

    return convolve


def _batch_normalization(layer: Layer) -> Tensor:
    source, axis = layer.source, layer.options.get("axis", -1)
    if isinstance(axis, list) and len(cast("list[Any]", axis)) == 1:
        axis = cast("list[Any]", axis)[0]
    if axis not in {-1, len(source.shape)} or layer.flag("renorm", default=False):
        raise layer.unsupported(f"normalizes axis {axis!r:.40}; milpq reads the last one")
    names = [
        name for name, flag in (("gamma", "scale"), ("beta", "center")) if layer.flag(flag, default=True)
    ]
    channels = source.shape[-1]
    found = {
        name: layer.weight(position, (channels,))
        for position, name in enumerate([*names, "moving_mean", "moving_variance"])
    }
    epsilon = layer.number("epsilon", 1e-3)
    assert epsilon is not None
    shifted = found["moving_variance"] + epsilon
    if not (shifted > 0).all():
        raise layer.damaged("a variance is not positive")
    gain = found.get("gamma", np.ones(channels)) / np.sqrt(shifted)
    offset = found.get("beta", np.zeros(channels)) - found["moving_mean"] * gain
    rows = math.prod(source.shape[:-1])
    value = layer.builder.rescale(layer.name, source.value, np.tile(gain, rows), np.tile(offset, rows))
    return Tensor(value, source.shape)


def _relu(layer: Layer) -> Tensor:
    slope, threshold = layer.number("negative_slope", 0.0), layer.number("threshold", 0.0)
    largest = layer.number("max_value", None)
    if slope or threshold:
        raise layer.unsupported("has a negative slope or a threshold; milpq reads ReLU and its upper end")
    upper = np.inf if largest is None else largest
    if not upper > 0:
        raise layer.damaged(f"its max_value {upper} leaves nothing")
    return Tensor(layer.builder.clamp(layer.name, layer.source.value, 0.0, upper), layer.source.shape)


def _activation(layer: Layer) -> Tensor:
    return layer.activated(layer.source.value, layer.source.shape)


def _softmax(layer: Layer) -> Tensor:
    return layer.ended("softmax", layer.source.value, layer.source.shape)


def _pool(*, average: bool) -> Callable[[Layer], Tensor]:
    def pool(layer: Layer) -> Tensor:
        image = layer.image
        size = layer.pair("pool_size", 2)
        strides = size if layer.options.get("strides") is None else layer.pair("strides")
        windows = _windows(layer, image, size, strides)
        if average and any(before != after for before, after in windows.padding):
            raise layer.unsupported(
                "averages over uneven padding, which backends of Keras compute differently"
            )
        return _pooled(layer, image, windows, average=average)

    return pool


def _global_pool(*, average: bool) -> Callable[[Layer], Tensor]:
    def pool(layer: Layer) -> Tensor:
        spatial = layer.image.shape[:2]
        windows = Windows.of(spatial, spatial, (1, 1), (1, 1), ((0, 0), (0, 0)))
        pooled = _pooled(layer, layer.image, windows, average=average)
        return pooled if layer.flag("keepdims", default=False) else replace(pooled, shape=pooled.shape[2:])

    return pool


def _pooled(layer: Layer, image: Tensor, windows: Windows, *, average: bool) -> Tensor:
    channels = image.shape[2]
    layer.check((*windows.result, channels), windows.positions.size * channels)
    if not windows.counts.all():
        raise layer.damaged("a window lies in the padding altogether")
    candidates, builder = windows.candidates(channels, LAYOUT), layer.builder
    made = Image(channels, windows.result, LAYOUT)
    builder.images.settle(image.value, Image(channels, windows.spatial, LAYOUT))
    if average:
        value = builder.average(layer.name, image.value, candidates)
        builder.images.settle(value, made)
    else:
        value = builder.maximum(layer.name, image.value, candidates, made)
    return Tensor(value, (*windows.result, channels))


def _zero_padding(layer: Layer) -> Tensor:
    image = layer.image
    given: object = layer.options.get("padding", 1)
    ends = np.array(given, dtype=object)
    if ends.ndim == 0:
        ends = np.full((2, 2), given, dtype=object)
    elif ends.shape == (2,):
        ends = np.stack([ends, ends], axis=1)
    if ends.shape != (2, 2) or any(type(end) is not int or not 0 <= end <= LARGEST for end in ends.ravel()):
        raise layer.damaged(f"its padding {given!r:.80} is not that of two axes")
    padding = (int(ends[0, 0]), int(ends[0, 1])), (int(ends[1, 0]), int(ends[1, 1]))
    shape = (
        *(extent + sum(pads) for extent, pads in zip(image.shape[:2], padding, strict=True)),
        image.shape[2],
    )
    layer.check(shape, math.prod(shape))
    chosen = padded_indices(image.shape, (*padding, (0, 0))).ravel()
    value = layer.builder.select(layer.name, [image.value], [chosen], np.zeros(len(chosen)))
    _alike(layer, image, Tensor(value, shape))
    return Tensor(value, shape, padded=(image, padding))


def _alike(layer: Layer, read: Tensor, made: Tensor) -> None:
    if len(read.shape) == len(made.shape) == 3:
        first, second = (Image(tensor.shape[2], tensor.shape[:2], LAYOUT) for tensor in (read, made))
        layer.builder.images.alike(read.value, first, made.value, second)


def _add(layer: Layer) -> Tensor:
    if len(layer.sources) < 2 or len({tensor.shape for tensor in layer.sources}) != 1:
        raise layer.unsupported(f"adds shapes {[tensor.shape for tensor in layer.sources]}")
    value = layer.sources[0].value
    for tensor in layer.sources[1:]:
        value = layer.builder.add(layer.name, value, tensor.value)
    return Tensor(value, layer.sources[0].shape)


def _concatenate(layer: Layer) -> Tensor:
    shapes, axis = [tensor.shape for tensor in layer.sources], layer.options.get("axis", -1)
    rank = len(shapes[0]) if shapes else 0
    # Axis 0 is the batch.
    if type(axis) is not int or not rank or not (-rank <= axis < 0 or 0 < axis <= rank):
        raise layer.damaged(f"its axis {axis!r:.40} does not exist")
    axis = axis % rank if axis < 0 else axis - 1
    if any(shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for shape in shapes):
        raise layer.damaged(f"joins the shapes {shapes}")
    shape = (*shapes[0][:axis], sum(extents[axis] for extents in shapes), *shapes[0][axis + 1 :])
    layer.check(shape, math.prod(shape))
    chosen: list[Int64Array] = [part.ravel() for part in concatenated_indices(list(shapes), axis)]
    by_value: dict[int, Int64Array] = {}
    for tensor, part in zip(layer.sources, chosen, strict=True):
        # A value may be joined with itself; OUTSIDE is less than any index.
        by_value[tensor.value] = np.maximum(by_value.get(tensor.value, np.full_like(part, OUTSIDE)), part)
    fill = np.zeros(math.prod(shape))
    value = layer.builder.select(layer.name, list(by_value), list(by_value.values()), fill)
    made = Tensor(value, shape)
    for tensor in layer.sources:
        _alike(layer, tensor, made)
    return made


def _flatten(layer: Layer) -> Tensor:
    return replace(layer.source, shape=(math.prod(layer.source.shape),), padded=None)


def _reshape(layer: Layer) -> Tensor:
    given: object = layer.options.get("target_shape")
    source = layer.source
    if not isinstance(given, list | tuple) or any(
        type(extent) is not int for extent in cast("list[Any]", given)
    ):
        raise layer.damaged("has no target shape")
    shape = tuple(cast("list[int]", given))
    if shape.count(-1) == 1:
        rest = math.prod(extent for extent in shape if extent != -1)
        shape = tuple(math.prod(source.shape) // max(rest, 1) if extent == -1 else extent for extent in shape)
    if min(shape, default=1) < 1 or math.prod(shape) != math.prod(source.shape):
        raise layer.damaged(f"reshapes {source.shape} to {shape}")
    return replace(source, shape=shape, padded=None)


def _unchanged(layer: Layer) -> Tensor:
    return layer.source


SHAPE_ONLY: Final = frozenset({"Dropout", "Flatten", "Reshape", "SpatialDropout2D"})

HANDLERS: Final[dict[str, Callable[[Layer], Tensor]]] = {
    "Activation": _activation,
    "Add": _add,
    "AveragePooling2D": _pool(average=True),
    "BatchNormalization": _batch_normalization,
    "Concatenate": _concatenate,
    "Conv2D": _convolution(depthwise=False),
    "Dense": _dense,
    "DepthwiseConv2D": _convolution(depthwise=True),
    "Dropout": _unchanged,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pool(average=True),
    "GlobalMaxPooling2D": _global_pool(average=False),
    "MaxPooling2D": _pool(average=False),
    "ReLU": _relu,
    "Reshape": _reshape,
    "Softmax": _softmax,
    "SpatialDropout2D": _unchanged,
    "ZeroPadding2D": _zero_padding,
}
"""What each class appends."""
