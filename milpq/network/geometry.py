"""Sliding windows and selections as sparse matrices: how images become the flat vectors of the networks.

A *value* of a network is flat.  An image of `spatial` extents and `channels` lies in it row by row, the channel
being either the last axis (TFLite) or the first (ONNX, torch); the batch is 1.  A convolution is then a sparse matrix,
a pool a set of candidates or a sum, and padding, concatenation, slicing and transposition are selections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, frozen

Layout: TypeAlias = Literal["channels_last", "channels_first"]
"""Whether the channel is the fastest axis of a flat image (NHWC) or the slowest (NCHW)."""

OUTSIDE = -1
"""Stands for a position in the padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Which positions of an image each position of the result of a sliding window reads.

    Parameters
    ----------
    spatial : extents of the image
    result : extents of the result
    positions : int64, shape (result positions, window positions)
        Flat spatial index into the image, row-major; `OUTSIDE` in the padding.
    kernel, strides, dilations : one number an axis
    padding : (before, after) of each axis
    """

    spatial: tuple[int, ...]
    result: tuple[int, ...]
    positions: Int64Array
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls,
        spatial: tuple[int, ...],
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        dilations: tuple[int, ...],
        padding: tuple[tuple[int, int], ...],
        *,
        ceiling: bool = False,
    ) -> Windows:
        """Slide a window over an image.

        Parameters
        ----------
        padding : (before, after) of each axis
        ceiling : bool
            A last window that begins inside the image or the padding before it, but sticks out after it, counts.

        Raises
        ------
        ValueError
            The window is larger than the padded image, or a number is out of range.
        """
        result: list[int] = []
        axes: list[Int64Array] = []
        for extent, size, stride, dilation, (before, after) in zip(
            spatial, kernel, strides, dilations, padding, strict=True
        ):
            if min(extent, size, stride, dilation) < 1 or min(before, after) < 0:
                raise ValueError("extents, strides and dilations must be positive, padding not negative")
            room = extent + before + after - ((size - 1) * dilation + 1)
            if room < 0:
                raise ValueError("the window is larger than the padded image")
            count = room // stride + 1
            if ceiling and room % stride and count * stride < extent + before:
                count += 1
            at = np.arange(count)[:, None] * stride - before + np.arange(size)[None, :] * dilation
            result.append(count)
            axes.append(np.where((at >= 0) & (at < extent), at, OUTSIDE).astype(np.int64))
        rank = len(spatial)
        flat = np.zeros((1,) * (2 * rank), dtype=np.int64)
        outside = np.zeros((1,) * (2 * rank), dtype=np.bool_)
        for axis, at in enumerate(axes):
            shape = [1] * (2 * rank)
            shape[axis], shape[rank + axis] = at.shape
            spread = at.reshape(shape)
            flat = flat * spatial[axis] + spread
            outside = outside | (spread == OUTSIDE)
        positions = np.where(outside, OUTSIDE, flat).reshape(math.prod(result), math.prod(kernel))
        positions = frozen(np.ascontiguousarray(positions))
        return cls(spatial, tuple(result), positions, kernel, strides, dilations, padding)

    @property
    def counts(self) -> Int64Array:
        """Number of positions inside the image, shape (result positions,)."""
        return (self.positions != OUTSIDE).sum(axis=1)

    def candidates(self, channels: int, layout: Layout) -> Int64Array:
        """Return the flat indices each neuron of a pool reads, shape (neurons, window positions).

        `OUTSIDE` in the padding; neurons in the order of the result's layout.
        """
        at, outside = self.positions, self.positions == OUTSIDE
        pixels, channel = math.prod(self.spatial), np.arange(channels)
        if layout == "channels_last":
            flat = at[:, None, :] * channels + channel[None, :, None]
            outside = np.broadcast_to(outside[:, None, :], flat.shape)
        else:
            flat = at[None, :, :] + channel[:, None, None] * pixels
            outside = np.broadcast_to(outside[None, :, :], flat.shape)
        return np.where(outside, OUTSIDE, flat).reshape(-1, at.shape[1])

    def channel_of_neurons(self, channels: int, layout: Layout) -> Int64Array:
        """Return the channel of each neuron of the result, shape (neurons,)."""
        positions = math.prod(self.result)
        channel = np.arange(channels, dtype=np.int64)
        return np.tile(channel, positions) if layout == "channels_last" else np.repeat(channel, positions)


def same_padding(
    spatial: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """Return the padding with which the result has ``ceil(extent / stride)`` positions; an odd one goes after."""
    padding: list[tuple[int, int]] = []
    for extent, size, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        total = max((-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1 - extent, 0)
        padding.append((total // 2, total - total // 2))
    return tuple(padding)


def convolution_matrix(
    weights: Float64Array, windows: Windows, groups: int, layout: Layout
) -> tuple[sp.csr_array, Int64Array]:
    """Return a convolution as a sparse matrix, and the output channel of each of its rows.

    Parameters
    ----------
    weights : float64, shape (outputs, inputs / groups, *kernel)
        A depthwise convolution has as many groups as input channels.  Zeros are stored, too.
    windows : Windows
        With a window of the extents of the kernel.

    Raises
    ------
    ValueError
        The groups do not divide the outputs, or the kernel and the windows differ in size.
    """
    outputs, depth = weights.shape[:2]
    kernel = math.prod(weights.shape[2:])
    if groups < 1 or outputs % groups or kernel != windows.positions.shape[1]:
        raise ValueError("the kernel does not fit the windows or the groups")
    channels, pixels = depth * groups, math.prod(windows.spatial)
    at: Int64Array = windows.positions
    count = len(at)
    output, place = np.arange(outputs, dtype=np.int64), np.arange(count, dtype=np.int64)
    group = output // (outputs // groups)
    channel = group[:, None] * depth + np.arange(depth, dtype=np.int64)[None, :]  # (outputs, depth)
    # Axes: result position, output channel, depth, window position.
    if layout == "channels_last":
        flat: Int64Array = at[:, None, None, :] * channels + channel[None, :, :, None]
        row = place[:, None] * outputs + output[None, :]
    else:
        flat = channel[None, :, :, None] * pixels + at[:, None, None, :]
        row = output[None, :] * count + place[:, None]
    shape = (count, outputs, depth, kernel)
    inside = np.broadcast_to((at != OUTSIDE)[:, None, None, :], shape)
    rows = np.broadcast_to(row[:, :, None, None], shape)[inside]
    values = np.broadcast_to(weights.reshape(1, outputs, depth, kernel), shape)[inside]
    matrix = sp.csr_array(
        (values, (rows, np.broadcast_to(flat, shape)[inside])), shape=(count * outputs, pixels * channels)
    )
    matrix.sort_indices()
    return matrix, windows.channel_of_neurons(outputs, layout)


def selection_matrix(chosen: Int64Array, size: int) -> sp.csr_array:
    """Return the matrix that gives each row the entry `chosen` of a value of `size` neurons, or 0 for `OUTSIDE`."""
    rows = np.flatnonzero(chosen != OUTSIDE)
    return sp.csr_array((np.ones(len(rows)), (rows, chosen[rows])), shape=(len(chosen), size))


def sum_matrix(candidates: Int64Array, size: int) -> sp.csr_array:
    """Return the matrix that sums, for each row, the entries `candidates` of a value of `size` neurons.

    Parameters
    ----------
    candidates : int64, shape (rows, entries)
        `OUTSIDE` counts as 0.
    """
    rows, column = np.nonzero(candidates != OUTSIDE)
    return sp.csr_array((np.ones(len(rows)), (rows, candidates[rows, column])), shape=(len(candidates), size))


def padded_indices(shape: tuple[int, ...], padding: tuple[tuple[int, int], ...]) -> Int64Array:
    """Return the flat index of each entry of a padded array, `OUTSIDE` in the padding; padded shape.

    Negative padding crops.
    """
    flat = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    grown = np.pad(
        flat, [(max(before, 0), max(after, 0)) for before, after in padding], constant_values=OUTSIDE
    )
    crop = tuple(
        slice(max(-before, 0), extent - max(-after, 0))
        for extent, (before, after) in zip(grown.shape, padding, strict=True)
    )
    return grown[crop]


def concatenated_indices(shapes: list[tuple[int, ...]], axis: int) -> list[Int64Array]:
    """Return, for each array of a concatenation, the flat index of each entry of the result in it, or `OUTSIDE`.

    Each of the result's shape.
    """
    sources = [np.arange(math.prod(shape), dtype=np.int64).reshape(shape) for shape in shapes]
    return [
        np.concatenate(
            [source if other == index else np.full_like(part, OUTSIDE) for other, part in enumerate(sources)],
            axis=axis,
        )
        for index, source in enumerate(sources)
    ]


def averaged_candidates(shape: tuple[int, ...], axes: set[int]) -> Int64Array:
    """Return the flat indices whose mean each entry of a reduction over `axes` is, shape (entries, reduced)."""
    flat = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    order = [*kept, *sorted(axes)]
    return flat.transpose(order).reshape(math.prod(shape[axis] for axis in kept), -1)


def maximum_rounds(candidates: Int64Array) -> list[tuple[Int64Array, Int64Array]]:
    """Return the pairs of a tournament that finds the maximum of each row of candidates.

    Round ``k`` takes the maximum of entries ``first`` and ``second`` of the value before it (the source itself for
    round 0, then the result of the round before); where both are the same entry it is carried over.  The result of
    the last round has one entry a row.

    Parameters
    ----------
    candidates : int64, shape (rows, entries)
        `OUTSIDE` never wins: it is replaced by another candidate of its row.

    Raises
    ------
    ValueError
        A row has no candidate.
    """
    inside = candidates != OUTSIDE
    if not inside.any(axis=1).all():
        raise ValueError("a window lies in the padding altogether")
    some = candidates[np.arange(len(candidates)), inside.argmax(axis=1)]
    current: Int64Array = np.where(inside, candidates, some[:, None])
    rounds: list[tuple[Int64Array, Int64Array]] = []
    while current.shape[1] > 1 or not rounds:
        if current.shape[1] % 2:
            current = np.concatenate([current, current[:, -1:]], axis=1)
        first: Int64Array = current[:, 0::2]
        second: Int64Array = current[:, 1::2]
        rounds.append((first.ravel(), second.ravel()))
        current = np.arange(first.size, dtype=np.int64).reshape(first.shape)
    return rounds
