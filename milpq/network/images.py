"""What an image in a flat value is, and how a convolution slides over it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.network.geometry import Layout, Windows, convolution_matrix

LAYOUT_NAMES: dict[Layout, str] = {"channels_first": "NCHW", "channels_last": "NHWC"}


@dataclass(frozen=True, slots=True)
class Image:
    """What the neurons of a value are.

    Parameters
    ----------
    spatial : extents, without the channels
    depth : int
        Neurons a pixel and channel, the fastest axis in either layout (rounds of a max pool have several).
    """

    channels: int
    spatial: tuple[int, ...]
    layout: Layout
    depth: int = 1

    @property
    def size(self) -> int:
        """Number of neurons."""
        return self.channels * math.prod(self.spatial) * self.depth

    @property
    def has_layout(self) -> bool:
        """Tell whether the two layouts are two orders."""
        return self.channels > 1 and math.prod(self.spatial) > 1

    def order(self, layout: Layout) -> Int64Array:
        """Return, for each neuron of the image in `layout`, which neuron it is in this one."""
        flat = np.arange(self.size, dtype=np.int64)
        if layout == self.layout:
            return flat
        slow, fast = self.channels, math.prod(self.spatial)
        if self.layout == "channels_last":
            slow, fast = fast, slow
        return flat.reshape(slow, fast, self.depth).transpose(1, 0, 2).ravel()


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """How a convolution slides over an image of `channels`, and in which layout that lies."""

    windows: Windows
    channels: int
    outputs: int
    groups: int
    layout: Layout

    @property
    def image(self) -> Image:
        """What it reads."""
        return Image(self.channels, self.windows.spatial, self.layout)

    @property
    def result(self) -> Image:
        """What it gives."""
        return Image(self.outputs, self.windows.result, self.layout)

    @property
    def depth(self) -> int:
        """Input channels that one output channel reads."""
        return self.channels // self.groups

    @property
    def is_depthwise(self) -> bool:
        """Tell whether each output channel reads one of several input channels."""
        return self.groups > 1 and self.depth == 1

    @property
    def channel(self) -> Int64Array:
        """Output channel of each neuron of the result."""
        return self.windows.channel_of_neurons(self.outputs, self.layout)

    def in_layout(self, layout: Layout) -> Convolution:
        """Return the same convolution over images of another layout."""
        return replace(self, layout=layout)

    def matrix(self, weights: Float64Array) -> Matrix:
        """Return the matrix of weights of shape (outputs, inputs / groups, *kernel).

        Raises
        ------
        ValueError
            The groups do not divide the outputs, or the kernel has another shape.
        """
        return convolution_matrix(weights, self.windows, self.groups, self.layout)[0]

    def weights(self, matrix: Matrix) -> Float64Array:
        """Return the weights of which `matrix` is the convolution; 0 for those that read padding only.

        Raises
        ------
        ValueError
            The matrix is not that of this convolution.
        """
        shape = (self.outputs, self.depth, *self.windows.kernel)
        count = math.prod(shape)
        if count >= 2**52:
            raise ValueError("too many weights")
        # Each weight's number stands where the weight does, so one entry of each tells it.
        places = self.matrix(np.arange(1, count + 1, dtype=np.float64).reshape(shape))
        if isinstance(matrix, np.ndarray) or isinstance(places, np.ndarray) or matrix.shape != places.shape:
            raise ValueError("the matrix is not sparse, or of another shape")
        flat = np.zeros(count)
        same = matrix.copy()
        same.sort_indices()
        if not (np.array_equal(same.indptr, places.indptr) and np.array_equal(same.indices, places.indices)):
            raise ValueError("the matrix reads other positions")
        numbers = places.data.astype(np.int64) - 1
        flat[numbers] = same.data
        if not np.array_equal(flat[numbers], same.data):
            raise ValueError("a weight differs between positions")
        return flat.reshape(shape)
