"""Defensive access to ONNX protobufs: tensors, attributes and declared shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from milpq.errors import ModelFileError, UnsupportedModelError
from milpq.formats._files import MAX_ARRAY_BYTES, PathLike, read_bytes

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 7
"""Before it, Add and Gemm broadcast by attributes."""


def parse_onnx(path: PathLike) -> onnx.ModelProto:
    """Return the parsed model; external data are never opened.

    Raises
    ------
    ModelFileError
        The file is no ONNX model.
    UnsupportedModelError
        Its operator set is one milpq does not know.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = read_bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: is not an ONNX file, or it is damaged ({error})") from error
    if model.ir_version <= 0 or not model.HasField("graph"):
        raise ModelFileError(f"{path}: is not an ONNX file, or it is damaged (no graph in it)")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ModelFileError(f"{path}: is damaged (a name in it is no text)")
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not MIN_OPSET <= versions[0] <= newest:
        raise UnsupportedModelError(
            f"{path}: uses the ONNX operator set {versions}; milpq reads {MIN_OPSET} to {newest}: "
            "convert it with onnx.version_converter"
        )
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Yield every name a reader looks at; protobuf returns bytes for those that are not UTF-8."""
    graph = model.graph
    yield from (entry.domain for entry in model.opset_import)
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield named.name


def tensor_to_array(tensor: onnx.TensorProto, path: PathLike) -> npt.NDArray[Any]:
    """Return the values of a tensor stored inside the model file.

    Raises
    ------
    UnsupportedModelError
        The tensor lies in another file, or is of a type milpq does not read.
    ModelFileError
        The declared shape does not match the data.
    """
    import onnx

    where = f"{path}: tensor {tensor.name!r}"
    if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
        raise UnsupportedModelError(
            f"{where}: its data lie in another file, which milpq does not open; "
            "save the model in one file (onnx.save_model with save_as_external_data=False)"
        )
    if tensor.HasField("segment"):
        raise UnsupportedModelError(f"{where}: is stored in segments")
    types = onnx.TensorProto
    kinds: dict[int, tuple[np.dtype[Any], Any]] = {
        types.FLOAT: (np.dtype("<f4"), tensor.float_data),
        types.DOUBLE: (np.dtype("<f8"), tensor.double_data),
        types.INT64: (np.dtype("<i8"), tensor.int64_data),
        types.INT32: (np.dtype("<i4"), tensor.int32_data),
        types.INT16: (np.dtype("<i2"), tensor.int32_data),
        types.UINT16: (np.dtype("<u2"), tensor.int32_data),
        types.INT8: (np.dtype("i1"), tensor.int32_data),
        types.UINT8: (np.dtype("u1"), tensor.int32_data),
        types.BOOL: (np.dtype("?"), tensor.int32_data),
    }
    if tensor.data_type in {types.INT4, types.UINT4}:
        return _unpack_nibbles(tensor, where, signed=tensor.data_type == types.INT4)
    stored = kinds.get(tensor.data_type)
    if stored is None:
        known = tensor.data_type in types.DataType.values()
        name = types.DataType.Name(tensor.data_type) if known else str(tensor.data_type)
        raise UnsupportedModelError(
            f"{where}: is of type {name}; milpq reads float32, float64, and integers of 4 to 64 bits"
        )
    dtype, listed = stored
    shape = _shape(tensor, where)
    found = len(tensor.raw_data) if tensor.HasField("raw_data") else len(listed) * dtype.itemsize
    if math.prod(shape) * dtype.itemsize != found:
        raise ModelFileError(
            f"{where}: shape {shape} does not match its {found} bytes of data; the file is damaged"
        )
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype=dtype).reshape(shape)
    return np.array(listed).astype(dtype).reshape(shape)


def _shape(tensor: onnx.TensorProto, where: str) -> tuple[int, ...]:
    """Return the shape, of which an empty array may have huge extents too."""
    shape = tuple(tensor.dims)
    if any(extent < 0 for extent in shape) or math.prod(max(extent, 1) for extent in shape) > MAX_ARRAY_BYTES:
        raise ModelFileError(f"{where}: has the impossible shape {shape}")
    return shape


def _unpack_nibbles(tensor: onnx.TensorProto, where: str, *, signed: bool) -> npt.NDArray[Any]:
    """Return 4-bit integers, stored two a byte with the first in the low half, one a byte."""
    shape = _shape(tensor, where)
    count = math.prod(shape)
    content = tensor.raw_data if tensor.HasField("raw_data") else bytes(b & 0xFF for b in tensor.int32_data)
    if (count + 1) // 2 != len(content):
        raise ModelFileError(
            f"{where}: shape {shape} does not match its {len(content)} bytes of data; the file is damaged"
        )
    packed = np.frombuffer(content, dtype=np.uint8)
    codes = np.stack((packed & 15, packed >> 4), axis=1).reshape(-1)[:count].reshape(shape)
    return ((codes ^ 8).astype(np.int8) - 8).astype(np.int8) if signed else codes


def attributes(node: onnx.NodeProto, path: PathLike) -> dict[str, Any]:
    """Return the scalar, list and tensor attributes of a node by name."""
    import onnx

    kinds = onnx.AttributeProto
    result: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type == kinds.FLOAT:
            result[attribute.name] = float(attribute.f)
        elif attribute.type == kinds.INT:
            result[attribute.name] = int(attribute.i)
        elif attribute.type == kinds.INTS:
            result[attribute.name] = [int(number) for number in attribute.ints]
        elif attribute.type == kinds.FLOATS:
            result[attribute.name] = [float(number) for number in attribute.floats]
        elif attribute.type == kinds.STRING:
            result[attribute.name] = attribute.s.decode("utf-8", "replace")
        elif attribute.type == kinds.TENSOR:
            result[attribute.name] = tensor_to_array(attribute.t, path)
        else:
            raise UnsupportedModelError(
                f"{path}: operator {node.op_type} {node.name!r}: its attribute {attribute.name!r} "
                "is not a number, name, list or tensor"
            )
    return result


def constants(graph: onnx.GraphProto, path: PathLike) -> dict[str, npt.NDArray[Any]]:
    """Return the initializers of a graph by name."""
    if graph.sparse_initializer:
        raise UnsupportedModelError(f"{path}: has sparse initializers; store them dense")
    return {tensor.name: tensor_to_array(tensor, path) for tensor in graph.initializer}


def only_input(
    graph: onnx.GraphProto, known: dict[str, npt.NDArray[Any]], path: PathLike
) -> onnx.ValueInfoProto:
    """Return the input of a graph that has one input, besides `known` constants, and one output."""
    inputs = [value for value in graph.input if value.name not in known]
    for kind, values in (("inputs", inputs), ("outputs", list(graph.output))):
        if len(values) != 1:
            raise UnsupportedModelError(f"{path}: has {len(values)} {kind}; milpq reads networks with one")
    return inputs[0]


def needed_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that the first output depends on, in the order of the file."""
    needed = {graph.output[0].name}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


def node_label(node: onnx.NodeProto) -> str:
    """Return what messages call a node."""
    return node.name or (node.output[0] if node.output else "") or node.op_type


def input_shape(value: onnx.ValueInfoProto, path: PathLike, *, integers: bool = False) -> tuple[int, ...]:
    """Return the declared shape of the model input, the batch dimension (first, if not fixed) taken as 1.

    Parameters
    ----------
    integers : bool
        Whether the input may be of another type than float.
    """
    import onnx

    where = f"{path}: input {value.name!r}"
    tensor_type = value.type.tensor_type
    if not integers and tensor_type.elem_type not in {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}:
        raise UnsupportedModelError(f"{where}: is not float32 or float64")
    if not tensor_type.HasField("shape"):
        raise UnsupportedModelError(f"{where}: has no shape; export the model with a fixed input shape")
    shape: list[int] = []
    for axis, dimension in enumerate(tensor_type.shape.dim):
        if dimension.HasField("dim_value") and dimension.dim_value > 0:
            shape.append(int(dimension.dim_value))
        elif axis == 0:
            shape.append(1)
        else:
            raise UnsupportedModelError(
                f"{where}: its dimension {axis} is not fixed; export the model with a fixed input shape"
            )
    return tuple(shape)
