"""Which windows slide over an image so that each neuron of a pool reads the candidates it has."""

from __future__ import annotations

from itertools import product

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Int64Array
from milpq.network.geometry import OUTSIDE, Windows
from milpq.network.images import Image


def pool_windows(candidates: Int64Array, image: Image, result: Image) -> tuple[Windows, ...]:
    """Return all windows without dilation that read these candidates, those with least padding first.

    Parameters
    ----------
    candidates : int64, shape (neurons, window)
        Of a pool of `image` whose neurons are those of `result`, both of one layout; repeated ones count once.
    """
    if image.channels != result.channels or len(image.spatial) != len(result.spatial):
        return ()
    if len(candidates) != result.size:
        return ()
    read = _pixels(candidates[_first_channel(result)], image)
    axes: list[list[tuple[int, int, int, int]]] = []
    for axis, (extent, count) in enumerate(zip(image.spatial, result.spatial, strict=True)):
        # Windows along an axis are the same whatever the place along the others.
        at = np.unravel_index(np.maximum(read, 0), image.spatial)[axis]
        low = np.where(read == OUTSIDE, extent, at).min(axis=1)
        high = np.where(read == OUTSIDE, -1, at).max(axis=1)
        place = np.unravel_index(np.arange(len(read)), result.spatial)[axis]
        first, last = np.full(count, extent), np.full(count, -1)
        np.minimum.at(first, place, low)
        np.maximum.at(last, place, high)
        axes.append(_along(first, last, extent))
    found: list[tuple[int, Windows]] = []
    for ways in product(*axes):
        windows = Windows.of(
            image.spatial,
            tuple(way[0] for way in ways),
            tuple(way[1] for way in ways),
            (1,) * len(ways),
            tuple((way[2], way[3]) for way in ways),
        )
        if windows.result == result.spatial and _same(
            windows.candidates(image.channels, image.layout), candidates, image.size
        ):
            found.append((sum(sum(way) for way in ways) + sum(way[2] + way[3] for way in ways), windows))
    return tuple(windows for _, windows in sorted(found, key=lambda pair: pair[0]))


def _first_channel(image: Image) -> Int64Array:
    """Return the neurons of channel 0, pixel by pixel."""
    pixels = image.size // image.channels
    return np.arange(pixels) * (image.channels if image.layout == "channels_last" else 1)


def _pixels(neurons: Int64Array, image: Image) -> Int64Array:
    """Return the pixel of each neuron, `OUTSIDE` for itself."""
    pixels = image.size // image.channels
    pixel = neurons // image.channels if image.layout == "channels_last" else neurons % pixels
    return np.where(neurons == OUTSIDE, OUTSIDE, pixel)


def _along(first: Int64Array, last: Int64Array, extent: int) -> list[tuple[int, int, int, int]]:
    """Return kernel, stride and padding (before, after) of all windows that read these stretches of an axis."""
    index = np.arange(len(first))
    found: list[tuple[int, int, int, int]] = []
    for stride in range(1, extent + 1):
        for kernel in range(1, extent + 1):
            for before in range(kernel):
                start = index * stride - before
                if not (
                    np.array_equal(np.maximum(start, 0), first)
                    and np.array_equal(np.minimum(start + kernel, extent) - 1, last)
                ):
                    continue
                after = max(int(start[-1]) + kernel - extent, 0)
                found.append((kernel, stride, before, after))
    return found


def _same(first: Int64Array, second: Int64Array, size: int) -> bool:
    """Tell whether each row of two tables of candidates holds the same ones."""
    left, right = _table(first, size), _table(second, size)
    return np.array_equal(left.indptr, right.indptr) and np.array_equal(left.indices, right.indices)


def _table(candidates: Int64Array, size: int) -> sp.csr_array:
    rows, columns = np.nonzero(candidates != OUTSIDE)
    shape = (len(candidates), size)
    table = sp.csr_array((np.ones(len(rows)), (rows, candidates[rows, columns])), shape=shape)
    table.sum_duplicates()
    table.sort_indices()
    return table
