"""Load a network from whatever file the user names."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from milpq.errors import ModelFileError, UnsupportedModelError, UsageError, about
from milpq.formats._files import PathLike, TorchModule, read_bytes
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedModel

Source: TypeAlias = "PathLike | TorchModule"
"""A model file, or a torch module."""


def load(
    path: Source, *, keep_final_activation: bool = False, input_shape: tuple[int, ...] | None = None
) -> FloatNetwork | QuantizedModel | DynamicNetwork:
    """Return the network of a model file or torch module; ending and content decide which kind.

    ``.nnet``, ``.keras`` and ``.h5`` are float networks, ``.json`` an open integer network, and ``.onnx`` and
    ``.tflite`` are one or the other by their operators and tensors.

    Parameters
    ----------
    path : path or torch.nn.Module
    keep_final_activation : bool
        Keep a sigmoid at the end of a quantized model, for executing the file as it is.  Float networks are
        answered at the input of a final sigmoid always.  `note` says where a network is answered.
    input_shape : tuple of int, optional
        Of one input without batch dimension; for torch modules that do not begin with a Linear.

    Raises
    ------
    ModelFileError
        The file is missing, damaged, or of a format milpq does not know.
    UnsupportedModelError
        It uses something milpq does not read; the operator is named.
    InvalidNetworkError
        Its numbers are inconsistent; the layer is named.
    """
    if isinstance(path, TorchModule):
        return _load_torch(path, input_shape)
    if input_shape is not None:
        raise UsageError(f"{path}: states its input shape itself; input_shape is for torch modules")
    ending = Path(path).suffix.lower()
    try:
        with about(str(path)):
            if ending == ".onnx":
                return _load_onnx(path, keep_final_activation=keep_final_activation)
            if ending == ".nnet":
                from milpq.formats.nnet import read_nnet

                return read_nnet(path)
            if ending == ".json":
                from milpq.formats.open_network import read_open_network

                return read_open_network(path)
            if ending in {".keras", ".h5"}:
                from milpq.formats.keras_file import read_keras

                return read_keras(path)
            if ending == ".tflite":
                return _load_tflite(path, keep_final_activation=keep_final_activation)
    except MemoryError:
        raise ModelFileError(f"{path}: does not fit into memory") from None
    read_bytes(path)
    if ending in {".pt", ".pth", ".pkl"}:
        raise UnsupportedModelError(
            f"{path}: a pickled torch file can run any code; export it to ONNX, "
            "or hand over the module in Python"
        )
    raise ModelFileError(f"{path}: models end in .onnx, .tflite, .keras, .h5, .nnet or .json, not {ending!r}")


def load_float(path: Source) -> FloatNetwork:
    """Return the float network of a model file or torch module.

    Raises
    ------
    UnsupportedModelError
        The file holds a quantized model.
    MilpqError
        As `load`.
    """
    network = load(path)
    if not isinstance(network, FloatNetwork):
        raise UnsupportedModelError(
            f"{network.origin}: is a quantized model where a float network is needed; "
            "to compare it with its own dequantized weights, use --float-twin dequantized"
        )
    return network


def load_quantized(
    path: Source, *, keep_final_activation: bool = False
) -> FloatNetwork | QuantizedModel | DynamicNetwork:
    """Return the second network of a comparison: a quantized model, or another float network.

    Parameters
    ----------
    path : path or torch.nn.Module
    keep_final_activation : bool
        As for `load`.

    Raises
    ------
    MilpqError
        As `load`.
    """
    return load(path, keep_final_activation=keep_final_activation)


def _load_torch(
    module: TorchModule, input_shape: tuple[int, ...] | None
) -> FloatNetwork | QuantizedModel | DynamicNetwork:
    from milpq.formats.torch_module import read_torch

    return read_torch(module, input_shape=input_shape)


def _load_onnx(
    path: PathLike, *, keep_final_activation: bool
) -> FloatNetwork | QuantizedModel | DynamicNetwork:
    from milpq.formats._onnx_tensors import parse_onnx
    from milpq.formats.onnx_dynamic import dynamic_network, is_dynamic
    from milpq.formats.onnx_float import float_network
    from milpq.formats.onnx_quantized import is_quantized, quantized_model

    model = parse_onnx(path)
    if is_dynamic(model):
        return dynamic_network(model, path)
    if is_quantized(model):
        return quantized_model(model, path, keep_final_activation=keep_final_activation)
    return float_network(model, path)


def _load_tflite(
    path: PathLike, *, keep_final_activation: bool
) -> FloatNetwork | QuantizedModel | DynamicNetwork:
    from milpq.formats.tflite_float import float_network
    from milpq.formats.tflite_int8 import quantized_model
    from milpq.formats.tflite_reader import read_tflite

    graph = read_tflite(path)
    if graph.is_float:
        return float_network(graph)
    return quantized_model(graph, keep_final_activation=keep_final_activation)
