"""The geometry of `.tflite` image operators: from options and tensor shapes to matrices and indices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._float_builder import MAX_VALUES, MAX_WEIGHTS
from milpq.formats._image_book import ImageBook
from milpq.formats.tflite_reader import TfliteGraph, TfliteOperator, TfliteTensor
from milpq.network.geometry import (
    Layout,
    Windows,
    averaged_candidates,
    concatenated_indices,
    convolution_matrix,
    padded_indices,
    same_padding,
)
from milpq.network.images import Convolution, Image

LAYOUT: Layout = "channels_last"

SAME, VALID = 0, 1
"""Codes of the paddings in the schema."""


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """What a PAD in front of convolutions reads, and how many zeros it puts (before, after) each spatial axis."""

    tensor: TfliteTensor
    padding: tuple[tuple[int, int], ...]


def padded_for_convolutions(graph: TfliteGraph, operator: TfliteOperator) -> Padded | None:
    """Return what a PAD pads, if it pads height and width with zeros and only convolutions read the result.

    Their padding is of zeros, too, so it can be theirs.
    """
    readers = {"CONV_2D", "DEPTHWISE_CONV_2D"}
    return _padded_for(graph, operator, readers) if operator.name == "PAD" else None


def padded_for_maxima(graph: TfliteGraph, operator: TfliteOperator) -> Padded | None:
    """Return what a PADV2 pads, if it pads height and width and only max pools read the result.

    Where it pads with the lowest code, that is padding which does not count.
    """
    return _padded_for(graph, operator, {"MAX_POOL_2D"}) if operator.name == "PADV2" else None


def _padded_for(graph: TfliteGraph, operator: TfliteOperator, names: set[str]) -> Padded | None:
    result = operator.outputs[0]
    readers = [other for other in graph.operators if result in other.inputs]
    if result == graph.output or any(o.name not in names or o.inputs[0] != result for o in readers):
        return None
    source, flat = graph.tensors[operator.inputs[0]], _integers(graph, operator, 1)
    if image_of(source) is None or len(flat) != 8 or any(flat[:2]) or any(flat[6:]):
        return None
    return Padded(source, ((flat[2], flat[3]), (flat[4], flat[5])))


def convolution(
    graph: TfliteGraph,
    operator: TfliteOperator,
    weights: Float64Array,
    padded: Padded | None,
    *,
    depthwise: bool,
) -> tuple[sp.csr_array, Convolution]:
    """Return the matrix of a convolution, and how it slides.

    Parameters
    ----------
    weights : float64, shape (out, height, width, in), or (1, height, width, out) for a depthwise one
    padded : Padded or None
        What a PAD before it pads; the convolution reads that.

    Raises
    ------
    InvalidNetworkError
        Shapes do not fit.
    UnsupportedModelError
        The layer is larger than milpq handles.
    """
    where = graph.where(operator)
    source, result = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    shape = image(source, where)
    before = ((0, 0), (0, 0))
    if padded is not None:
        shape, before = image(padded.tensor, where), padded.padding
    if weights.ndim != 4 or (depthwise and weights.shape[0] != 1):
        raise InvalidNetworkError(f"{where}: its weights have the shape {weights.shape}")
    windows = _windows(where, operator, shape, weights.shape[1:3], before)
    if depthwise:
        outputs, groups = weights.shape[3], shape[2]
        if outputs % groups:
            raise InvalidNetworkError(f"{where}: {outputs} filters for {groups} channels")
        kernel = weights[0].transpose(2, 0, 1)[:, None]
    else:
        outputs = weights.shape[0]
        if shape[2] % weights.shape[3]:
            raise InvalidNetworkError(f"{where}: weights for {weights.shape[3]} of {shape[2]} channels")
        groups = shape[2] // weights.shape[3]
        kernel = weights.transpose(0, 3, 1, 2)
    _check_size(where, len(windows.positions) * outputs, len(windows.positions) * weights.size)
    try:
        matrix, _ = convolution_matrix(kernel, windows, groups, LAYOUT)
    except ValueError as error:
        raise InvalidNetworkError(f"{where}: {error}") from error
    _check_result(where, result, matrix.shape[0])
    return matrix, Convolution(windows, shape[2], outputs, groups, LAYOUT)


def image_of(tensor: TfliteTensor) -> Image | None:
    """Return what a value of this tensor may be: an image, if it is one of a batch of 1."""
    shape = tensor.shape
    return Image(shape[3], shape[1:3], LAYOUT) if len(shape) == 4 and shape[0] == 1 else None


def note_images(
    book: ImageBook,
    graph: TfliteGraph,
    operator: TfliteOperator,
    values: dict[int, int],
    *,
    pool: bool = False,
    padded: Padded | None = None,
) -> None:
    """Note that what an operator reads and gives are images if one is; a pool says that they are.

    Parameters
    ----------
    values : dict of int to int
        Value of each tensor, that of the result among them.
    padded : Padded or None
        What a PAD before a pool pads; the pool reads that.
    """
    result = operator.outputs[0]
    made = image_of(graph.tensors[result])
    for index in operator.inputs[:1] if pool else operator.inputs:
        if index not in values:
            continue
        read = image_of(graph.tensors[index] if padded is None else padded.tensor)
        if read is not None and made is not None:
            book.alike(values[index], read, values[result], made)
            if pool:
                book.settle(values[index], read)


def pool(graph: TfliteGraph, operator: TfliteOperator, padded: Padded | None = None) -> Int64Array:
    """Return the candidates of each neuron of a pool; parameters and errors as of `convolution`."""
    where = graph.where(operator)
    shape = image(graph.tensors[operator.inputs[0]], where)
    before = ((0, 0), (0, 0))
    if padded is not None:
        shape, before = image(padded.tensor, where), padded.padding
    kernel = tuple(_option(where, operator, name) for name in ("FilterHeight", "FilterWidth"))
    windows = _windows(where, operator, shape, kernel, before)
    if not windows.counts.all():
        raise InvalidNetworkError(f"{where}: a window lies in the padding altogether")
    _check_size(where, len(windows.positions) * shape[2], windows.positions.size * shape[2])
    candidates = windows.candidates(shape[2], LAYOUT)
    _check_result(where, graph.tensors[operator.outputs[0]], len(candidates))
    return candidates


def mean(graph: TfliteGraph, operator: TfliteOperator) -> tuple[Int64Array, bool]:
    """Return the candidates of a mean, and whether it keeps both reduced axes of an image."""
    where = graph.where(operator)
    source, result = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
    rank = len(source.shape)
    axes = _integers(graph, operator, 1)
    if any(not -rank <= axis < rank for axis in axes):
        raise InvalidNetworkError(f"{where}: its axes {axes} do not exist")
    chosen = {axis % rank for axis in axes}
    candidates = averaged_candidates(source.shape, chosen)
    _check_result(where, result, len(candidates))
    return candidates, rank == 4 and chosen == {1, 2} and len(result.shape) == 4


def pad(graph: TfliteGraph, operator: TfliteOperator) -> Int64Array:
    """Return which neuron of the source each neuron of a padded value is."""
    where = graph.where(operator)
    source = graph.tensors[operator.inputs[0]]
    flat = _integers(graph, operator, 1)
    if len(flat) != 2 * len(source.shape) or min(flat, default=0) < 0 or max(flat, default=0) > MAX_VALUES:
        raise InvalidNetworkError(f"{where}: its padding {flat} does not fit the shape {source.shape}")
    padding = tuple(zip(flat[0::2], flat[1::2], strict=True))
    size = 1
    for extent, (before, after) in zip(source.shape, padding, strict=True):
        size *= extent + before + after
    _check_size(where, size, size)
    chosen = padded_indices(source.shape, padding).ravel()
    _check_result(where, graph.tensors[operator.outputs[0]], len(chosen))
    return chosen


def concatenation(graph: TfliteGraph, operator: TfliteOperator) -> list[Int64Array]:
    """Return, for each input of a concatenation, which neuron of it each neuron is."""
    where = graph.where(operator)
    shapes = [graph.tensors[index].shape for index in operator.inputs]
    rank, axis = len(shapes[0]), _option(where, operator, "Axis")
    if not -rank <= axis < rank:
        raise InvalidNetworkError(f"{where}: its axis {axis} does not exist")
    axis %= rank
    if any(shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for shape in shapes):
        raise InvalidNetworkError(f"{where}: its inputs of shapes {shapes} do not fit together")
    chosen = [part.ravel() for part in concatenated_indices(shapes, axis)]
    _check_result(where, graph.tensors[operator.outputs[0]], len(chosen[0]))
    return chosen


def operands(graph: TfliteGraph, operator: TfliteOperator) -> tuple[Int64Array, Int64Array]:
    """Return which neuron of either operand of an elementwise operator each neuron of its result reads."""
    where = graph.where(operator)
    if len(operator.inputs) != 2 or min(operator.inputs) < 0:
        raise InvalidNetworkError(f"{where}: has not two operands")
    shapes = [graph.tensors[index].shape for index in operator.inputs]
    try:
        result = np.broadcast_shapes(*shapes)
    except ValueError:
        raise InvalidNetworkError(f"{where}: shapes {shapes[0]} and {shapes[1]} do not broadcast") from None
    _check_size(where, int(np.prod(result)), 0)
    _check_result(where, graph.tensors[operator.outputs[0]], int(np.prod(result)))
    first, second = (
        np.broadcast_to(np.arange(np.prod(shape), dtype=np.int64).reshape(shape), result).ravel()
        for shape in shapes
    )
    return first, second


def image(tensor: TfliteTensor, where: str) -> tuple[int, int, int]:
    """Return height, width and channels of a tensor of one image."""
    if len(tensor.shape) != 4 or tensor.shape[0] != 1:
        raise UnsupportedModelError(
            f"{where}: reads the shape {tensor.shape}; milpq reads one image at a time"
        )
    return tensor.shape[1], tensor.shape[2], tensor.shape[3]


def _windows(
    where: str,
    operator: TfliteOperator,
    shape: tuple[int, int, int],
    kernel: tuple[int, ...],
    before: tuple[tuple[int, int], ...] = ((0, 0), (0, 0)),
) -> Windows:
    strides = tuple(_option(where, operator, name) for name in ("StrideH", "StrideW"))
    dilations = tuple(operator.options.get(name, 1) for name in ("DilationHFactor", "DilationWFactor"))
    padding, spatial = _option(where, operator, "Padding"), shape[:2]
    if padding not in {SAME, VALID}:
        raise InvalidNetworkError(f"{where}: its padding {padding} is unknown")
    try:
        if min(*strides, *dilations, *kernel) < 1:
            raise ValueError("a stride, dilation or extent is not positive")
        if max(*strides, *dilations, *kernel) > MAX_VALUES:
            raise ValueError("a stride, dilation or extent is too large")
        ends = before
        if padding == SAME:
            wide = tuple(extent + sum(pads) for extent, pads in zip(spatial, before, strict=True))
            same = same_padding(wide, kernel, strides, dilations)
            ends = tuple(
                (pads[0] + more[0], pads[1] + more[1]) for pads, more in zip(before, same, strict=True)
            )
        return Windows.of(spatial, kernel, strides, dilations, ends)
    except ValueError as error:
        raise InvalidNetworkError(f"{where}: {error}") from error


def _option(where: str, operator: TfliteOperator, name: str) -> int:
    if name not in operator.options:
        raise InvalidNetworkError(f"{where}: has no table of options")
    return operator.options[name]


def _integers(graph: TfliteGraph, operator: TfliteOperator, position: int) -> list[int]:
    if len(operator.inputs) <= position or operator.inputs[position] < 0:
        raise InvalidNetworkError(f"{graph.where(operator)}: its input {position} is missing")
    return [int(number) for number in np.ravel(graph.tensors[operator.inputs[position]].array("INT32"))]


def _check_size(where: str, values: int, weights: int) -> None:
    if values > MAX_VALUES or weights > MAX_WEIGHTS:
        raise UnsupportedModelError(
            f"{where}: has {values} values and {weights} weights; milpq reads up to {MAX_VALUES} and {MAX_WEIGHTS}"
        )


def _check_result(where: str, result: TfliteTensor, size: int) -> None:
    if result.size != size:
        raise InvalidNetworkError(
            f"{where}: gives {size} values, but its output has the shape {result.shape}"
        )
