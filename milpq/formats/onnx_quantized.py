"""Read a quantized ONNX graph, QOperator or QDQ, as a QuantizedModel."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from milpq.errors import ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike
from milpq.formats._float_builder import SIGMOID_NOTE
from milpq.formats._onnx_double_pairs import merge_double_pairs
from milpq.formats._onnx_quantized_operators import HANDLERS, REMEDIES
from milpq.formats._onnx_quantized_values import (
    Codes,
    Dequantized,
    Pending,
    QuantizedStep,
    QValue,
    RealInput,
)
from milpq.formats._onnx_tensors import (
    attributes,
    constants,
    input_shape,
    needed_nodes,
    node_label,
    only_input,
)
from milpq.formats._quantized_builder import QuantizedBuilder
from milpq.network.quantized_model import QuantizedModel

if TYPE_CHECKING:
    import onnx

_QUANTIZED = ("QuantizeLinear", "QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize")

_IN_FLOAT = {"QuantizeLinear", "Sigmoid", "Tanh"}
"""What ONNX Runtime computes in float32 behind a DequantizeLinear in any case."""

_KINDS = {2: "uint8", 3: "int8"}
"""TensorProto.UINT8 and INT8."""


def is_quantized(model: onnx.ModelProto) -> bool:
    """Tell whether a graph quantizes activations; weights behind DequantizeLinear alone leave it a float one."""
    return any(node.op_type.startswith(_QUANTIZED) for node in model.graph.node)


def quantized_model(
    model: onnx.ModelProto, path: PathLike, *, keep_final_activation: bool = False
) -> QuantizedModel:
    """Return what a quantized ONNX graph states, its rounding left to a target.

    QuantizeLinear at the start and DequantizeLinear at the end are the boundary of the integer network.  A
    sigmoid at the end is left out, and `note` says so.  A last layer that is not quantized again gives its
    accumulators, times their scale in exact arithmetic.

    Raises
    ------
    UnsupportedModelError
        It uses an operator, option, type or pattern that milpq does not read; the operator is named.
    ModelFileError, InvalidNetworkError
        Shapes, scales or zero points are inconsistent; the operator is named.
    """
    graph = model.graph
    known = constants(graph, path)
    given = only_input(graph, known, path)
    nodes, known = merge_double_pairs(list(needed_nodes(graph)), known, graph.output[0].name)
    reader = _Reader(path, graph, nodes, known, given, keep_final_activation=keep_final_activation)
    for node in nodes:
        reader.run(node)
    return reader.finish()


class _Reader:
    """Runs through the nodes of one graph; `values` holds what each name stands for so far."""

    def __init__(
        self,
        path: PathLike,
        graph: onnx.GraphProto,
        nodes: list[onnx.NodeProto],
        known: dict[str, npt.NDArray[Any]],
        given: onnx.ValueInfoProto,
        *,
        keep_final_activation: bool,
    ) -> None:
        self._path = path
        self._output = graph.output[0].name
        self._keep_final_activation = keep_final_activation
        self._uses = Counter(name for node in nodes for name in node.input)
        self._uses[self._output] += 1
        fused = {n for node in nodes if node.op_type not in _IN_FLOAT for n in node.input}
        # Codes around which ONNX Runtime might fuse something.
        self._dequantized = {
            node.input[0] for node in nodes if node.op_type == "DequantizeLinear" and node.output[0] in fused
        }
        kind = _KINDS.get(given.type.tensor_type.elem_type)
        shape = input_shape(given, path, integers=kind is not None)
        size = 1
        for extent in shape:
            size *= extent
        self._builder = QuantizedBuilder(str(path), size, f"{path}: input {given.name!r}")
        self._values: dict[str, QValue] = dict(known)
        self._values[given.name] = (
            RealInput(shape) if kind is None else Codes(0, shape, "uint8" if kind == "uint8" else "int8")
        )

    def run(self, node: onnx.NodeProto) -> None:
        """Append one node."""
        label = node_label(node)
        domain = "" if node.domain == "ai.onnx" else node.domain
        handler = HANDLERS.get((domain, node.op_type))
        where = f"{self._path}: operator {f'{domain}.' if domain else ''}{node.op_type} {label!r}"
        if handler is None:
            remedy = REMEDIES.get(node.op_type, "milpq reads quantized dense layers with ReLU or Clip")
            raise UnsupportedModelError(f"{where} is not supported; {remedy}")
        sources: list[QValue | None] = []
        for name in node.input:
            if name and name not in self._values:
                raise ModelFileError(f"{where} reads {name!r}, which nothing before it computes")
            source = self._values[name] if name else None
            if isinstance(source, Pending) and self._uses[name] > 1:
                raise UnsupportedModelError(
                    f"{source.operator}: its float result is used {self._uses[name]} times, and ONNX Runtime then "
                    "computes it in float32; quantize it once and use the codes"
                )
            codes = source.codes if isinstance(source, Dequantized) else source
            shared = self._uses[name] > 1 and (name in self._dequantized or isinstance(source, Dequantized))
            if isinstance(codes, Codes) and codes.as_unsigned and shared:
                raise UnsupportedModelError(
                    f"{where}: reads int8 codes {name!r} that are used {self._uses[name]} times, which ONNX Runtime "
                    "does not convert to uint8 with the rest, so that it computes around them in float32; quantize "
                    "with activation_type=QUInt8, or in QOperator format"
                )
            sources.append(source)
        if not node.output:
            raise ModelFileError(f"{where} has no output")
        step = QuantizedStep(
            self._builder,
            label,
            where,
            sources,
            attributes(node, self._path),
        )
        self._values[node.output[0]] = handler(step)

    def finish(self) -> QuantizedModel:
        """Return the model."""
        result = self._values.get(self._output)
        if isinstance(result, Pending):
            if (result.lower, result.upper) != (-float("inf"), float("inf")):
                raise UnsupportedModelError(
                    f"{result.operator}: is clamped in float32 at the end; quantize its result"
                )
            return self._builder.finish(result.settle(None))
        if isinstance(result, Dequantized):
            result = result.codes
        if not isinstance(result, Codes):
            raise ModelFileError(
                f"{self._path}: no quantized operator computes the output {self._output!r} from the input"
            )
        if result.sigmoid and self._keep_final_activation:
            raise UnsupportedModelError(
                f"{result.sigmoid}: is not executed by milpq for ONNX Runtime at the end; remove it from the file"
            )
        return self._builder.finish(result.value, note=SIGMOID_NOTE if result.sigmoid else "")
