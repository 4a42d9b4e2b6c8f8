"""Read an ONNX graph with dynamically quantized dense layers, as onnxruntime's ``quantize_dynamic`` writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike, to_float64
from milpq.formats._float_builder import MAX_WEIGHTS, SIGMOID_NOTE
from milpq.formats._onnx_shapes import new_shape
from milpq.formats._onnx_tensors import (
    attributes,
    constants,
    input_shape,
    needed_nodes,
    node_label,
    only_input,
)
from milpq.formats._quantized_builder import pairs_saturate
from milpq.network.dynamic_network import DynamicLayer, DynamicNetwork

if TYPE_CHECKING:
    import onnx

_DYNAMIC = frozenset(
    {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
)
_FLOAT32 = 1
"""TensorProto.FLOAT."""

_REMEDY = (
    "milpq reads dynamically quantized dense layers in a row, each DynamicQuantizeLinear, MatMulInteger, Cast, Mul and "
    "Add, with Relu or Clip between them"
)


@dataclass(frozen=True, slots=True)
class _Real:
    """A float value after so many layers; `sigmoid` once a final sigmoid has been left out."""

    layers: int
    shape: tuple[int, ...]
    sigmoid: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the three results of DynamicQuantizeLinear."""

    kind: str
    source: _Real


@dataclass(frozen=True, slots=True, eq=False)
class _Scale:
    """The dynamic scale times the weight scales."""

    source: _Real
    weight_scales: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class _Sum:
    """The integer sums of a layer."""

    source: _Real
    codes: npt.NDArray[Any]
    zero_points: npt.NDArray[Any]


_Value: TypeAlias = "_Real | _Part | _Scale | _Sum | npt.NDArray[Any]"


def is_dynamic(model: onnx.ModelProto) -> bool:
    """Tell whether a graph quantizes activations as they come."""
    return any(node.op_type in _DYNAMIC for node in model.graph.node)


def dynamic_network(model: onnx.ModelProto, path: PathLike) -> DynamicNetwork:
    """Return the network of a graph; a sigmoid at the end is left out, and `note` says so.

    Raises
    ------
    UnsupportedModelError
        It uses an operator or pattern that milpq does not read; the operator is named.
    ModelFileError, InvalidNetworkError
        Shapes or scales are inconsistent; the operator is named.
    """
    graph = model.graph
    known = constants(graph, path)
    given = only_input(graph, known, path)
    reader = _Reader(path, known, given.name, input_shape(given, path))
    for node in needed_nodes(graph):
        reader.run(node)
    return reader.finish(graph.output[0].name)


class _Reader:
    """Runs through the nodes; `values` holds what each name stands for so far."""

    def __init__(
        self, path: PathLike, known: dict[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...]
    ) -> None:
        self._path = path
        self._where = str(path)
        self._values: dict[str, _Value] = {**known, name: _Real(0, shape)}
        self._layers: list[DynamicLayer] = []
        self._weights = 0

    def run(self, node: onnx.NodeProto) -> None:
        """Append one node."""
        self._where = f"{self._path}: operator {node.op_type} {node_label(node)!r}"
        sources: list[_Value | None] = []
        for name in node.input:
            if name and name not in self._values:
                raise ModelFileError(f"{self._where} reads {name!r}, which nothing before it computes")
            sources.append(self._values[name] if name else None)
        options = attributes(node, self._path)
        if node.op_type == "DynamicQuantizeLinear":
            source = self._real(sources, 0)
            for kind, name in zip(("codes", "scale", "zero point"), node.output, strict=False):
                self._values[name] = _Part(kind, source)
            return
        if not node.output:
            raise ModelFileError(f"{self._where} has no output")
        self._values[node.output[0]] = self._result(node, sources, options)

    def _result(self, node: onnx.NodeProto, sources: list[_Value | None], options: dict[str, Any]) -> _Value:
        kind = node.op_type
        if kind == "MatMulInteger":
            return self._sum(sources)
        if kind == "Cast" and isinstance(sources[0], _Sum) and options.get("to") == _FLOAT32:
            return sources[0]
        if kind == "Mul":
            return self._product(node_label(node), sources)
        if kind == "Add":
            return self._biased(sources)
        if kind in {"Relu", "Clip"}:
            return self._clamped(kind, sources, options)
        if kind == "Sigmoid":
            return replace(self._real(sources, 0), sigmoid=True)
        if kind in {"Identity", "Dropout"} and sources[0] is not None:
            return sources[0]
        if kind in {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}:
            source = self._real(sources, 0, after_sigmoid=True)
            return replace(
                source, shape=new_shape(kind, _Shapes(self._where, sources, options), source.shape)
            )
        raise UnsupportedModelError(f"{self._where}: is not supported; {_REMEDY}")

    def finish(self, output: str) -> DynamicNetwork:
        """Return the network."""
        result = self._values.get(output)
        if not isinstance(result, _Real) or result.layers != len(self._layers) or not self._layers:
            raise UnsupportedModelError(
                f"{self._path}: its output {output!r} is not that of its last layer; {_REMEDY}"
            )
        return DynamicNetwork(tuple(self._layers), str(self._path), SIGMOID_NOTE if result.sigmoid else "")

    def _real(self, sources: list[_Value | None], position: int, *, after_sigmoid: bool = False) -> _Real:
        """Return an input that must be the float value made last."""
        source = sources[position] if position < len(sources) else None
        if not isinstance(source, _Real) or source.layers != len(self._layers):
            raise UnsupportedModelError(
                f"{self._where}: does not read the result of the layer before it; {_REMEDY}"
            )
        if source.sigmoid and not after_sigmoid:
            raise UnsupportedModelError(
                f"{self._where}: follows a Sigmoid, which milpq reads only as the last operator"
            )
        return source

    def _sum(self, sources: list[_Value | None]) -> _Sum:
        left, codes, zero = (sources + [None] * 3)[:3]
        if not (isinstance(left, _Part) and left.kind == "codes" and isinstance(zero, _Part)
                and zero.kind == "zero point" and zero.source is left.source):  # fmt: skip
            raise UnsupportedModelError(f"{self._where}: does not read a DynamicQuantizeLinear; {_REMEDY}")
        if not isinstance(codes, np.ndarray) or codes.ndim != 2 or codes.dtype.name not in {"int8", "uint8"}:
            raise UnsupportedModelError(f"{self._where}: its weights are no constant int8 or uint8 matrix")
        zero_points = sources[3] if len(sources) > 3 else None
        if zero_points is None:
            zero_points = np.zeros((), dtype=codes.dtype)
        if not isinstance(zero_points, np.ndarray) or zero_points.size not in {1, codes.shape[1]}:
            raise UnsupportedModelError(
                f"{self._where}: its weight zero points are not one a tensor or output"
            )
        if math.prod(left.source.shape) != codes.shape[0]:
            raise InvalidNetworkError(
                f"{self._where}: weights for {codes.shape[0]} inputs, but shape {left.source.shape} comes in"
            )
        self._weights += codes.size
        if self._weights > MAX_WEIGHTS:
            raise UnsupportedModelError(f"{self._where}: the network has more than {MAX_WEIGHTS} weights")
        return _Sum(left.source, codes, zero_points)

    def _product(self, name: str, sources: list[_Value | None]) -> _Value:
        if len(sources) != 2:
            raise ModelFileError(f"{self._where}: has {len(sources)} inputs")
        # Either operand may come first.
        left, right = sources if isinstance(sources[0], _Sum | _Part) else sources[::-1]
        if isinstance(left, _Part) and left.kind == "scale" and isinstance(right, np.ndarray):
            if right.dtype != np.float32:
                raise UnsupportedModelError(
                    f"{self._where}: its weight scale is {right.dtype}; milpq reads float32"
                )
            return _Scale(left.source, to_float64(right).ravel())
        if not (isinstance(left, _Sum) and isinstance(right, _Scale) and left.source is right.source):
            raise UnsupportedModelError(
                f"{self._where}: multiplies other than sums by their scale; {_REMEDY}"
            )
        neurons = left.codes.shape[1]
        if right.weight_scales.size not in {1, neurons}:
            raise InvalidNetworkError(
                f"{self._where}: {right.weight_scales.size} weight scales for {neurons} outputs"
            )
        if left.source.layers != len(self._layers):
            raise UnsupportedModelError(f"{self._where}: is a second layer on one value; {_REMEDY}")
        rows = left.codes.astype(np.int64).T
        zero_points = np.broadcast_to(left.zero_points.astype(np.int64).ravel(), (neurons,))
        self._layers.append(
            DynamicLayer(
                name,
                (rows - zero_points[:, None]).astype(np.float64),
                np.broadcast_to(right.weight_scales, (neurons,)).copy(),
                None,
                -np.inf,
                np.inf,
                left.codes.dtype == np.int8 and pairs_saturate(rows),
            )
        )
        return _Real(len(self._layers), (*left.source.shape[:-1], neurons))

    def _biased(self, sources: list[_Value | None]) -> _Value:
        position = 0 if sources and isinstance(sources[0], _Real) else 1
        source = self._real(sources, position)
        bias = sources[1 - position]
        layer = self._layers[-1] if self._layers else None
        if layer is None or layer.bias is not None or np.isfinite([layer.lower, layer.upper]).any():
            raise UnsupportedModelError(f"{self._where}: does not follow a layer directly; {_REMEDY}")
        if (
            not isinstance(bias, np.ndarray)
            or bias.dtype != np.float32
            or bias.shape != (len(layer.weights),)
        ):
            raise UnsupportedModelError(
                f"{self._where}: its bias is no float32 constant of one number an output"
            )
        if not np.isfinite(bias).all():
            raise InvalidNetworkError(f"{self._where}: a bias is NaN or infinite")
        self._layers[-1] = replace(layer, bias=to_float64(bias))
        return source

    def _clamped(self, kind: str, sources: list[_Value | None], options: dict[str, Any]) -> _Value:
        source = self._real(sources, 0)
        if not self._layers:
            raise UnsupportedModelError(f"{self._where}: comes before the first layer; {_REMEDY}")
        ends = [0.0, np.inf] if kind == "Relu" else [-np.inf, np.inf]
        for position, name in ((1, "min"), (2, "max")) if kind == "Clip" else ():
            end: object = options.get(name)
            given = sources[position] if position < len(sources) else None
            if given is not None:
                if not isinstance(given, np.ndarray) or given.size != 1 or given.dtype != np.float32:
                    raise UnsupportedModelError(f"{self._where}: its {name} is not one float32 constant")
                end = float(given.ravel()[0])
            if end is not None:
                ends[position - 1] = float(cast("float", end))
        layer = self._layers[-1]
        lower, upper = max(layer.lower, ends[0]), min(layer.upper, ends[1])
        if not lower < upper:
            raise InvalidNetworkError(f"{self._where}: clamps to the empty range [{lower}, {upper}]")
        self._layers[-1] = replace(layer, lower=lower, upper=upper)
        return source


@dataclass(slots=True)
class _Shapes:
    """What the operators that only reshape need to know."""

    where: str
    sources: list[_Value | None]
    options: dict[str, Any]

    def has(self, position: int) -> bool:
        return position < len(self.sources) and self.sources[position] is not None

    def integers(self, position: int, what: str) -> list[int]:
        source = self.sources[position] if position < len(self.sources) else None
        if not isinstance(source, np.ndarray) or source.dtype.kind != "i" or source.ndim > 1:
            raise UnsupportedModelError(f"{self.where}: its {what} is not a list of integer constants")
        return [int(number) for number in source.ravel()]

    def integer_list(self, name: str) -> list[int] | None:
        given: object = self.options.get(name)
        return [int(number) for number in cast("list[int]", given)] if isinstance(given, list) else None

    def damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.where}: {what}")
