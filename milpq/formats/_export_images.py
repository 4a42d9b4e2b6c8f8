"""Pools, means, pads and concatenations as the int8 formats state them: from indices of neurons back to extents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Int64Array
from milpq.formats._pool_windows import pool_windows
from milpq.network.geometry import (
    OUTSIDE,
    Layout,
    Windows,
    averaged_candidates,
    concatenated_indices,
    padded_indices,
)
from milpq.network.images import Image
from milpq.rounding.activation import Activation


@dataclass(frozen=True, slots=True, eq=False)
class ExportPool:
    """A max or average pool.

    Parameters
    ----------
    windows : tuple of Windows
        All that read the same, at least one.
    """

    name: str
    sources: tuple[int, ...]
    windows: tuple[Windows, ...]
    average: bool
    activation: Activation


@dataclass(frozen=True, slots=True)
class ExportMean:
    """A mean over a whole image, or over all neurons of a flat value."""

    name: str
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExportPad:
    """A pad with a constant.

    Parameters
    ----------
    padding : (before, after) of each axis of the file, without the batch
    level : int
        Code − zero point of the constant.
    """

    name: str
    sources: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    level: int


@dataclass(frozen=True, slots=True)
class ExportJoin:
    """A concatenation along an axis of the file, without the batch; of flat values where `shapes` are."""

    name: str
    sources: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    axis: int


def extents(image: Image) -> tuple[int, ...]:
    """Return the extents of an image in its layout, without the batch."""
    if image.layout == "channels_last":
        return (*image.spatial, image.channels)
    return (image.channels, *image.spatial)


def renumbered(chosen: Int64Array, order: Int64Array | None) -> Int64Array:
    """Return indices into a value whose neurons are put in another order; `OUTSIDE` stays."""
    if order is None:
        return chosen
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return np.where(chosen == OUTSIDE, OUTSIDE, place[np.maximum(chosen, 0)])


def windows_of(candidates: Int64Array, image: Image | None, result: Image) -> tuple[Windows, ...]:
    """Return the windows of a pool, see `pool_windows`."""
    return () if image is None else pool_windows(candidates, image, result)


def is_mean(candidates: Int64Array, shape: tuple[int, ...], layout: Layout) -> bool:
    """Tell whether candidates are those of a mean over all spatial axes, or over all of a flat value."""
    axes = set(range(len(shape)))
    if len(shape) > 1:
        axes -= {len(shape) - 1 if layout == "channels_last" else 0}
    whole = averaged_candidates(shape, axes)
    return whole.shape == candidates.shape and bool(
        (np.sort(whole, axis=1) == np.sort(candidates, axis=1)).all()
    )


def pad_or_join(
    name: str,
    sources: tuple[int, ...],
    shapes: list[tuple[int, ...]],
    result: tuple[int, ...],
    chosen: list[Int64Array],
    constant: Int64Array,
) -> ExportPad | ExportJoin | None:
    """Return the pad or concatenation that a selection is, None if it is neither.

    Parameters
    ----------
    shapes, result : extents in the file, without the batch
    chosen, constant : as in `QuantizedSelection`, in the order of the file
    """
    if len(sources) == 1:
        return _pad(name, sources, shapes[0], result, chosen[0], constant)
    flat = [(int(np.prod(shape)),) for shape in shapes]
    for extents_, axes in ((shapes, range(len(shapes[0]))), (flat, range(1))):
        for axis in axes:
            others = {(*shape[:axis], *shape[axis + 1 :]) for shape in extents_}
            if len(others) > 1 or len({len(shape) for shape in extents_}) > 1:
                continue
            meant = concatenated_indices(list(extents_), axis)
            if all(np.array_equal(ours.ravel(), theirs) for ours, theirs in zip(meant, chosen, strict=True)):
                return ExportJoin(name, sources, tuple(extents_), axis)
    return None


def _pad(
    name: str,
    sources: tuple[int, ...],
    shape: tuple[int, ...],
    result: tuple[int, ...],
    chosen: Int64Array,
    constant: Int64Array,
) -> ExportPad | None:
    outside = chosen == OUTSIDE
    levels = np.unique(constant[outside])
    first = np.flatnonzero(chosen == 0)
    if len(shape) != len(result) or len(levels) != 1 or len(first) != 1:
        return None
    before = np.unravel_index(int(first[0]), result)
    padding = tuple(
        (int(start), int(extent - start - inner))
        for start, extent, inner in zip(before, result, shape, strict=True)
    )
    if min(min(pair) for pair in padding) < 0:
        return None
    if not np.array_equal(padded_indices(shape, padding).ravel(), chosen):
        return None
    return ExportPad(name, sources, padding, int(levels[0]))
