"""Defensive access to ONNX protobufs: tensors, attributes and declared shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from milpq.errors import ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike, read_bytes

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
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    newest = onnx.defs.onnx_opset_version()
    if len(versions) != 1 or not MIN_OPSET <= versions[0] <= newest:
        raise UnsupportedModelError(
            f"{path}: uses the ONNX operator set {versions}; milpq reads {MIN_OPSET} to {newest}: "
            "convert it with onnx.version_converter"
        )
    return model


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
        types.BOOL: (np.dtype("?"), tensor.int32_data),
    }
    stored = kinds.get(tensor.data_type)
    if stored is None:
        known = tensor.data_type in types.DataType.values()
        name = types.DataType.Name(tensor.data_type) if known else str(tensor.data_type)
        raise UnsupportedModelError(
            f"{where}: is of type {name}; milpq reads float networks of float32 or float64"
        )
    dtype, listed = stored
    shape = tuple(tensor.dims)
    if any(extent < 0 for extent in shape):
        raise ModelFileError(f"{where}: has the negative shape {shape}")
    found = len(tensor.raw_data) if tensor.HasField("raw_data") else len(listed) * dtype.itemsize
    if math.prod(shape) * dtype.itemsize != found:
        raise ModelFileError(
            f"{where}: shape {shape} does not match its {found} bytes of data; the file is damaged"
        )
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, dtype=dtype).reshape(shape)
    return np.array(listed).astype(dtype).reshape(shape)


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
        elif attribute.type == kinds.TENSOR:
            result[attribute.name] = tensor_to_array(attribute.t, path)
        else:
            raise UnsupportedModelError(
                f"{path}: operator {node.op_type} {node.name!r}: its attribute {attribute.name!r} "
                "is not a number, list or tensor"
            )
    return result


def input_shape(value: onnx.ValueInfoProto, path: PathLike) -> tuple[int, ...]:
    """Return the declared shape of the model input, the batch dimension (first, if not fixed) taken as 1."""
    import onnx

    where = f"{path}: input {value.name!r}"
    tensor_type = value.type.tensor_type
    if tensor_type.elem_type not in {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}:
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
