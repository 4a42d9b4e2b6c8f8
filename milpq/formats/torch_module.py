"""Take a torch module of dense layers and ReLUs as a FloatNetwork."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from milpq._arrays import Float64Array
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._float_builder import SIGMOID_NOTE, FloatBuilder
from milpq.formats.torch_exported import is_exported, read_exported_torch
from milpq.formats.torch_quantized import is_quantized, read_quantized_torch
from milpq.network.curves import SIGMOID, TANH
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedModel


def read_torch(
    module: object, *, input_shape: tuple[int, ...] | None = None
) -> FloatNetwork | QuantizedModel:
    """Return the network of a torch module or exported program: a quantized model where its activations are quantized.

    Raises
    ------
    UnsupportedModelError, InvalidNetworkError
        As `read_torch_module`, `read_quantized_torch` and `read_exported_torch`.
    """
    if isinstance(module, torch.export.ExportedProgram):
        module = module.module()
    if not isinstance(module, nn.Module):
        raise UnsupportedModelError(f"<{type(module).__name__}>: is no torch.nn.Module")
    if is_exported(module):
        return read_exported_torch(module)
    if is_quantized(module):
        return read_quantized_torch(module, input_shape=input_shape)
    return read_torch_module(module)


def read_torch_module(module: nn.Module, origin: str = "<torch module>") -> FloatNetwork:
    """Return the real-arithmetic function of a module's parameters.

    Parameters
    ----------
    module : nn.Module
        Linear, or Sequential (nested as you like) of Linear, ReLU, ReLU6, Hardtanh, Sigmoid, Tanh, Flatten,
        Identity and Dropout (as in inference), with float32 or float64 parameters.  A Sigmoid at the end is left
        out, and `note` says so.
    origin : str
        What messages and reports call the network.

    Raises
    ------
    UnsupportedModelError
        A submodule is of another kind; it is named.
    InvalidNetworkError
        A parameter is NaN or infinite, or shapes do not fit; the layer is named.
    """
    parts = list(_flat(module, ""))
    first = next((part for _, part in parts if isinstance(part, nn.Linear)), None)
    if first is None:
        raise UnsupportedModelError(f"{origin}: has no Linear layer")
    builder = FloatBuilder(first.in_features, origin)
    value = 0
    # The input of a sigmoid that nothing follows so far.
    before: int | None = None
    for name, part in parts:
        kind = type(part)
        where = f"{origin}: module {kind.__name__} {name!r}"
        if kind in {nn.Identity, nn.Flatten, nn.Dropout}:
            continue
        before = value if kind is nn.Sigmoid else None
        if kind is nn.Linear and isinstance(part, nn.Linear):
            bias = None if part.bias is None else _array(part.bias, where)  # pyright: ignore[reportUnnecessaryComparison] - bias=False makes it None
            value = builder.linear(name, value, _array(part.weight, where), bias)
        elif kind is nn.ReLU:
            value = builder.clamp(name, value, 0.0, np.inf)
        elif isinstance(part, nn.Hardtanh) and kind in {nn.Hardtanh, nn.ReLU6}:
            if not part.min_val < part.max_val:
                raise InvalidNetworkError(
                    f"{where}: clamps to the empty range [{part.min_val}, {part.max_val}]"
                )
            value = builder.clamp(name, value, float(part.min_val), float(part.max_val))
        elif kind is nn.Sigmoid:
            value = builder.smooth(name, value, SIGMOID)
        elif kind is nn.Tanh:
            value = builder.smooth(name, value, TANH)
        else:
            raise UnsupportedModelError(
                f"{where}: is not supported; milpq reads Sequential of Linear, ReLU, ReLU6, Hardtanh, "
                "Sigmoid, Tanh, Flatten and Identity"
            )
    return builder.finish(value) if before is None else builder.finish(before, SIGMOID_NOTE)


def _flat(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that do something, in order, with their dotted names."""
    if type(module) is nn.Sequential:
        for name, part in module.named_children():
            yield from _flat(part, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix or type(module).__name__, module


def _array(parameter: torch.Tensor, where: str) -> Float64Array:
    if parameter.dtype not in {torch.float32, torch.float64}:
        raise UnsupportedModelError(
            f"{where}: its parameters are {parameter.dtype}; milpq reads float32 and float64"
        )
    return parameter.detach().cpu().numpy().astype(np.float64)
