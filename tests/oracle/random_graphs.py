"""Random float networks of images with every operator that the quantizer takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from milpq.formats._float_builder import FloatBuilder
from milpq.network.curves import SIGMOID, TANH
from milpq.network.float_network import FloatNetwork
from milpq.network.geometry import (
    Layout,
    Windows,
    averaged_candidates,
    concatenated_indices,
    padded_indices,
    same_padding,
)
from milpq.network.images import Convolution, Image

KINDS = ("conv", "depthwise", "add", "maximum", "average", "join", "pad", "sigmoid", "tanh", "clamp")


@dataclass(frozen=True)
class Value:
    """A value of the builder and what it is."""

    index: int
    image: Image


class GraphMaker:
    """Appends operators with random weights; those of `ties` lie on a coarse grid of powers of two."""

    def __init__(self, rng: np.random.Generator, image: Image, *, ties: bool = False) -> None:
        self.rng = rng
        self.ties = ties
        self.builder = FloatBuilder(image.size, "random")
        self.builder.images.settle(0, image)
        self.layout: Layout = image.layout
        self.count = 0
        self.input = Value(0, image)

    def draw(self, shape: tuple[int, ...], size: float) -> np.ndarray:
        """Return random numbers of about this size."""
        drawn = size * self.rng.normal(size=shape)
        return np.clip(np.rint(16 * drawn) / 16, -1.5, 1.5) if self.ties else drawn

    def name(self, kind: str) -> str:
        """Return a name that no layer has."""
        self.count += 1
        return f"{kind}{self.count}"

    def convolution(
        self,
        source: Value,
        kernel: tuple[int, int],
        *,
        outputs: int = 0,
        depthwise: bool = False,
        strides: tuple[int, int] = (1, 1),
        padding: str = "same",
    ) -> Value:
        """Append a convolution; a depthwise one keeps the channels."""
        channels = source.image.channels
        outputs = channels if depthwise else outputs
        windows = self.windows(source.image, kernel, strides, padding)
        groups = channels if depthwise and channels > 1 else 1
        slides = Convolution(windows, channels, outputs, groups, self.layout)
        depth = channels // groups
        weights = self.draw((outputs, depth, *kernel), 1.4 / np.sqrt(depth * np.prod(kernel)))
        bias = self.draw((outputs,), 0.2)[slides.channel]
        value = self.builder.linear(
            self.name("conv"), source.index, slides.matrix(weights), bias, convolution=slides
        )
        return Value(value, slides.result)

    def dense(self, source: Value, outputs: int) -> Value:
        """Append a fully connected layer."""
        weights = self.draw((outputs, source.image.size), 1.4 / np.sqrt(source.image.size))
        value = self.builder.linear(self.name("dense"), source.index, weights, self.draw((outputs,), 0.2))
        return Value(value, Image(outputs, (1, 1), self.layout))

    def pool(
        self, source: Value, kernel: tuple[int, int], strides: tuple[int, int], padding: str, *, average: bool
    ) -> Value:
        """Append a pool."""
        image = source.image
        windows = self.windows(image, kernel, strides, padding)
        result = Image(image.channels, windows.result, self.layout)
        candidates = windows.candidates(image.channels, self.layout)
        self.builder.images.settle(source.index, image)
        if average:
            value = self.builder.average(self.name("average"), source.index, candidates)
            self.builder.images.settle(value, result)
        else:
            value = self.builder.maximum(self.name("maximum"), source.index, candidates, result)
        return Value(value, result)

    def mean(self, source: Value) -> Value:
        """Append a mean over the image."""
        axes = {0, 1} if self.layout == "channels_last" else {1, 2}
        candidates = averaged_candidates(_extents(source.image), axes)
        value = self.builder.average(self.name("mean"), source.index, candidates)
        return Value(value, Image(source.image.channels, (1, 1), self.layout))

    def add(self, first: Value, second: Value) -> Value:
        """Append a sum."""
        return Value(self.builder.add(self.name("add"), first.index, second.index), first.image)

    def join(self, sources: Sequence[Value]) -> Value:
        """Append a concatenation of channels."""
        axis = 2 if self.layout == "channels_last" else 0
        chosen = concatenated_indices([_extents(source.image) for source in sources], axis)
        result = Image(
            sum(source.image.channels for source in sources), sources[0].image.spatial, self.layout
        )
        values = [source.index for source in sources]
        parts = [part.ravel() for part in chosen]
        value = self.builder.select(self.name("join"), values, parts, np.zeros(result.size))
        for source in sources:
            self.builder.images.alike(source.index, source.image, value, result)
        return Value(value, result)

    def pad(self, source: Value, padding: tuple[tuple[int, int], tuple[int, int]], constant: float) -> Value:
        """Append a pad of height and width."""
        image = source.image
        ends = (*padding, (0, 0)) if self.layout == "channels_last" else ((0, 0), *padding)
        chosen = padded_indices(_extents(image), ends)
        spatial = chosen.shape[:2] if self.layout == "channels_last" else chosen.shape[1:]
        result = Image(image.channels, spatial, self.layout)
        filled = np.where(chosen.ravel() < 0, constant, 0.0)
        value = self.builder.select(self.name("pad"), [source.index], [chosen.ravel()], filled)
        self.builder.images.alike(source.index, image, value, result)
        return Value(value, result)

    def clamp(self, source: Value, lower: float = 0.0, upper: float = np.inf) -> Value:
        """Append a clamp."""
        return Value(self.builder.clamp(self.name("clamp"), source.index, lower, upper), source.image)

    def curve(self, source: Value, *, sigmoid: bool) -> Value:
        """Append a sigmoid or tanh."""
        curve = SIGMOID if sigmoid else TANH
        return Value(self.builder.smooth(self.name(curve.name), source.index, curve), source.image)

    def windows(
        self, image: Image, kernel: tuple[int, int], strides: tuple[int, int], padding: str
    ) -> Windows:
        """Return sliding windows."""
        ends = ((0, 0), (0, 0))
        if padding == "same":
            ends = same_padding(image.spatial, kernel, strides, (1, 1))
        elif padding == "odd":
            ends = ((kernel[0] - 1, 0), (0, kernel[1] - 1))
        return Windows.of(image.spatial, kernel, strides, (1, 1), ends)


def _extents(image: Image) -> tuple[int, ...]:
    if image.layout == "channels_last":
        return (*image.spatial, image.channels)
    return (image.channels, *image.spatial)


def random_graph(
    seed: int,
    layout: Layout,
    *,
    kinds: Sequence[str] = KINDS,
    operators: int = 9,
    outputs: int = 7,
    ties: bool = False,
) -> FloatNetwork:
    """Return a network of an image of 3 channels, 6×5: random operators, some with skip connections."""
    rng = np.random.default_rng(seed)
    maker = GraphMaker(rng, Image(3, (6, 5), layout), ties=ties)
    values = [maker.convolution(maker.input, (3, 3), outputs=4)]
    values[0] = maker.clamp(values[0])
    for kind in rng.choice(list(kinds), operators):
        source = values[-1]
        made = _append(maker, str(kind), source, values, rng)
        if made is not None and made.image.size > 6:
            values.append(made)
    last = maker.mean(values[-1]) if rng.random() < 0.5 else values[-1]
    return maker.builder.finish(maker.dense(last, outputs).index)


def residual_graph(seed: int, outputs: int, *, ties: bool = False) -> FloatNetwork:
    """Return a residual network of an image 2×7×7: conv, relu, conv, add, relu, max pool, mean, fully connected."""
    maker = GraphMaker(np.random.default_rng(seed), Image(2, (7, 7), "channels_first"), ties=ties)
    first = maker.clamp(maker.convolution(maker.input, (3, 3), outputs=6))
    total = maker.clamp(maker.add(maker.convolution(first, (3, 3), outputs=6), first))
    pooled = maker.mean(maker.pool(total, (2, 2), (2, 2), "valid", average=False))
    return maker.builder.finish(maker.dense(pooled, outputs).index)


def _append(
    maker: GraphMaker, kind: str, source: Value, values: list[Value], rng: np.random.Generator
) -> Value | None:
    kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
    kernel = (min(kernel[0], source.image.spatial[0]), min(kernel[1], source.image.spatial[1]))
    strides = (int(rng.integers(1, 3)), 1)
    padding = str(rng.choice(["same", "valid", "odd"]))
    if kind in {"conv", "depthwise"}:
        depthwise = kind == "depthwise"
        made = maker.convolution(
            source, kernel, outputs=4, depthwise=depthwise, strides=strides, padding=padding
        )
        return maker.clamp(made, 0.0, 6.0 if rng.random() < 0.3 else np.inf) if rng.random() < 0.7 else made
    if kind == "add":
        other = maker.convolution(source, (3, 3), outputs=source.image.channels)
        made = maker.add(other, source)
        return maker.clamp(made) if rng.random() < 0.5 else made
    if kind == "maximum":
        return maker.pool(source, kernel, strides, padding, average=False)
    if kind == "average":
        return maker.pool(source, kernel, strides, "valid", average=True)
    if kind == "join":
        same = [value for value in values if value.image.spatial == source.image.spatial]
        if source.image.channels > 8:
            return None
        return maker.join(
            [source, maker.convolution(source, (1, 1), outputs=2), *same[:1]][: 2 + len(same) % 2]
        )
    if kind == "pad":
        return maker.pad(source, ((1, 0), (0, 1)), float(rng.choice([0.0, 0.5])))
    if kind == "clamp":
        return maker.clamp(source, 0.0, 6.0 if rng.random() < 0.5 else np.inf)
    return maker.curve(source, sigmoid=kind == "sigmoid")
