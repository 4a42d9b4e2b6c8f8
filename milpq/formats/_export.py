"""What the int8 formats have in common: a quantized model as a graph of their operators, or why it is none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import UnsupportedModelError
from milpq.formats import _export_images as images
from milpq.formats._export_images import ExportJoin, ExportMean, ExportPad, ExportPool
from milpq.formats._export_layers import OPEN_FILE, ExportLayer, export_layer, relaid
from milpq.formats._float_builder import SIGMOID_NOTE
from milpq.network.geometry import Layout
from milpq.network.images import Image
from milpq.network.layout import order_of
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedMaximum,
    QuantizedModel,
    QuantizedOffset,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
    StatedKernel,
    StatedRequantization,
)
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER, INT8, Activation, activation_codes
from milpq.rounding.kernels import Quantization, UnaryKind


def ends_in_sigmoid(model: QuantizedModel) -> bool:
    """Tell whether the model was answered at the input of a final sigmoid, which files therefore get back."""
    return SIGMOID_NOTE in model.note


@dataclass(frozen=True, slots=True)
class ExportValue:
    """A value of codes.

    Parameters
    ----------
    image : Image or None
        What it is, in the layout of the file; flat where None.
    """

    size: int
    image: Image | None
    quantization: Quantization

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents in the file, without the batch."""
        return (self.size,) if self.image is None else images.extents(self.image)


@dataclass(frozen=True, slots=True)
class ExportSum:
    """A sum of two values, with its activation and the smallest and largest code that leaves."""

    name: str
    sources: tuple[int, ...]
    activation: Activation
    code_lower: int
    code_upper: int


@dataclass(frozen=True, slots=True)
class ExportUnary:
    """An operator from codes to codes."""

    name: str
    sources: tuple[int, ...]
    kind: UnaryKind


@dataclass(frozen=True, slots=True)
class ExportClip:
    """A clip of codes; `activation` is the one that does it, if there is one."""

    name: str
    sources: tuple[int, ...]
    activation: Activation
    code_lower: int
    code_upper: int


ExportOperator: TypeAlias = (
    ExportLayer | ExportSum | ExportPool | ExportMean | ExportPad | ExportJoin | ExportUnary | ExportClip
)


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """A graph of int8 operators, its images in the layout of the file.

    Parameters
    ----------
    operators : tuple
        The one at ``k`` makes value ``k + 1``; value 0 is the input.
    output : int
    """

    values: tuple[ExportValue, ...]
    operators: tuple[ExportOperator, ...]
    output: int


def export_model(model: QuantizedModel, ending: str, layout: Layout, targets: Collection[str]) -> Export:
    """Return the graph of an int8 model.

    Parameters
    ----------
    ending : str
        Of the file, for messages.
    layout : Layout
        Of images in such files; input and output change their order with it.
    targets : collection of str
        Ids of the targets that run such files.

    Raises
    ------
    UnsupportedModelError
        A layer is no int8 operator of such files, or states a rounding that the file cannot; the layer is named.
    """
    if (model.input_code_lower, model.input_code_upper) != (CODE_LOWER, CODE_UPPER):
        raise UnsupportedModelError(f"{model.origin}: its input is not int8, as {ending} needs; {OPEN_FILE}")
    if len(np.unique(model.input_scale)) != 1 or (model.float_scale != model.input_scale).any():
        raise UnsupportedModelError(f"{model.origin}: its input has no single scale; {OPEN_FILE}")
    exporter = _Exporter(model, ending, layout, targets)
    for number, layer in enumerate(model.layers, start=1):
        exporter.add(number, layer)
    return Export(tuple(exporter.values), tuple(exporter.operators), exporter.value_of[model.output])


class _Exporter:
    """Collects operators; `value_of` holds the value that each layer of the model became."""

    def __init__(self, model: QuantizedModel, ending: str, layout: Layout, targets: Collection[str]) -> None:
        self.model = model
        self.ending = ending
        self.layout: Layout = layout
        self.targets = targets
        self.images = model.images or (None,) * (len(model.layers) + 1)
        self.orders = [order_of(image, layout) for image in self.images]
        self.sizes = [len(model.input_scale)]
        quantization = Quantization(float(model.input_scale[0]), model.input_zero_point)
        self.values = [ExportValue(self.sizes[0], self.image(0), quantization)]
        self.operators: list[ExportOperator] = []
        self.value_of = [0]

    def image(self, number: int) -> Image | None:
        """Return what the result of a layer is, in the layout of the file."""
        image = self.images[number]
        return None if image is None or image.depth != 1 else replace(image, layout=self.layout)

    def add(self, number: int, layer: QuantizedLayer) -> None:
        """Append a layer, the one that makes value `number` of the model."""
        where = f"{self.model.origin}: layer {layer.name!r}"
        if isinstance(layer, QuantizedLinear):
            self.linear(number, layer, where)
        elif isinstance(layer, QuantizedSum):
            self.check_rounding(layer.stated, where)
            result, activation = layer.kernel.result, layer.kernel.activation
            lower, upper = activation_codes(None, activation, result.scale, result.zero_point, result.range)
            sources = (self.value_of[layer.first], self.value_of[layer.second])
            made = ExportSum(layer.name, sources, activation, lower, upper)
            self.append(number, made, self.sizes[layer.first], result, where)
        elif isinstance(layer, QuantizedMaximum | QuantizedAverage):
            self.pool(number, layer, where)
        elif isinstance(layer, QuantizedSelection):
            self.select(number, layer, where)
        elif isinstance(layer, QuantizedUnary):
            self.check_rounding(layer.stated, where)
            made = ExportUnary(layer.name, (self.value_of[layer.source],), layer.kernel.kind)
            self.append(number, made, self.sizes[layer.source], layer.kernel.result, where)
        elif isinstance(layer, QuantizedLookup):
            self.clip(number, layer, where)
        else:
            assert isinstance(layer, QuantizedOffset)
            raise UnsupportedModelError(f"{where}: adds a constant; fold it into the bias of a layer")

    def append(
        self, number: int, operator: ExportOperator, size: int, quantization: Quantization, where: str
    ) -> None:
        """Append an operator that makes value `number` of the model."""
        limits = quantization.range
        if limits.lower < INT8.lower or limits.upper > INT8.upper:
            raise UnsupportedModelError(
                f"{where}: its codes are not int8, as {self.ending} needs; {OPEN_FILE}"
            )
        self.operators.append(operator)
        self.values.append(ExportValue(size, self.image(number), quantization))
        self.sizes.append(size)
        self.value_of.append(len(self.operators))

    def check_rounding(self, stated: StatedKernel | StatedRequantization | None, where: str) -> None:
        """Raise UnsupportedModelError if a layer states the rounding of a runtime that runs no such files."""
        if stated is None:
            return
        target = str(stated.statement.get("target", "a rounding of its own"))
        if target.partition(":")[0] not in self.targets:
            raise UnsupportedModelError(
                f"{where}: rounds as {target}, but {self.ending} runs on {', '.join(self.targets)}; {OPEN_FILE}"
            )

    def linear(self, number: int, layer: QuantizedLinear, where: str) -> None:
        """Append a layer with weights."""
        stated = layer.requantization
        if isinstance(stated, StatedRequantization):
            self.check_rounding(stated, where)
        placed = relaid(layer, self.orders[number], self.orders[layer.source])
        made = export_layer(placed, self.value_of[layer.source], self.layout, where, self.ending)
        assert stated is not None
        quantization = Quantization(stated.output_scale, stated.output_zero_point)
        self.append(number, made, made.size, quantization, where)

    def pool(self, number: int, layer: QuantizedMaximum | QuantizedAverage, where: str) -> None:
        """Append a pool or a mean."""
        read = self.values[self.value_of[layer.source]]
        rows = self.orders[number]
        candidates = images.renumbered(layer.candidates, self.orders[layer.source])
        candidates = candidates if rows is None else candidates[rows]
        source, image = (self.value_of[layer.source],), self.image(number)
        if isinstance(layer, QuantizedAverage):
            self.check_rounding(layer.stated, where)
            if layer.kernel.kind == "mean":
                if not images.is_mean(candidates, read.shape, self.layout):
                    raise UnsupportedModelError(f"{where}: is no mean over a whole image; {OPEN_FILE}")
                made = ExportMean(layer.name, source)
                self.append(number, made, len(candidates), layer.kernel.result, where)
                return
            quantization, activation = layer.kernel.result, layer.kernel.activation
        else:
            quantization, activation = layer.quantization, layer.activation
        windows = () if image is None else images.windows_of(candidates, read.image, image)
        if not windows:
            raise UnsupportedModelError(
                f"{where}: is no pool of windows that slide over an image; {OPEN_FILE}"
            )
        average = isinstance(layer, QuantizedAverage)
        pool = ExportPool(layer.name, source, windows, average=average, activation=activation)
        self.append(number, pool, len(candidates), quantization, where)

    def select(self, number: int, layer: QuantizedSelection, where: str) -> None:
        """Append a pad or concatenation; what only changes the order of neurons is left out."""
        rows, sources = self.orders[number], tuple(self.value_of[source] for source in layer.sources)
        chosen: list[Int64Array] = []
        for source, part in zip(layer.sources, layer.chosen, strict=True):
            placed = images.renumbered(part, self.orders[source])
            chosen.append(placed if rows is None else placed[rows])
        constant = layer.constant if rows is None else layer.constant[rows]
        reads = [self.values[source] for source in sources]
        if len(chosen) == 1 and np.array_equal(chosen[0], np.arange(reads[0].size)):
            self.sizes.append(reads[0].size)
            self.value_of.append(sources[0])
            return
        image = self.image(number)
        shape = (len(constant),) if image is None else images.extents(image)
        made = images.pad_or_join(
            layer.name, sources, [read.shape for read in reads], shape, chosen, constant
        )
        if made is None:
            raise UnsupportedModelError(f"{where}: is neither a pad nor a concatenation; {OPEN_FILE}")
        self.append(number, made, len(constant), layer.quantization, where)

    def clip(self, number: int, layer: QuantizedLookup, where: str) -> None:
        """Append a table that only clips codes."""
        value = self.value_of[layer.source]
        read, table = self.values[value].quantization, np.asarray(layer.table)
        codes = layer.input_code_lower + np.arange(len(table))
        lower, upper = int(table.min()), int(table.max())
        if (layer.output_scale, layer.output_zero_point) != (read.scale, read.zero_point) or (
            np.clip(codes, lower, upper) != table
        ).any():
            raise UnsupportedModelError(f"{where}: is a table of codes; {OPEN_FILE}")
        named: list[Activation] = [
            name
            for name in ("relu", "relu6", "relu_n1_to_1")
            if activation_codes(None, name, read.scale, read.zero_point) == (lower, upper)
        ]
        made = ExportClip(layer.name, (value,), named[0] if named else "none", lower, upper)
        self.append(number, made, self.sizes[layer.source], read, where)
