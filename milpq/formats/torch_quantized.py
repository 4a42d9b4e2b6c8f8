"""Take a quantized torch module (eager or FX graph mode) as a QuantizedModel."""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
import torch
from torch import fx, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import quantized as nniq

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._quantized_builder import LinearPart, QuantizedBuilder, pairs_saturate
from milpq.formats._torch_numbers import quantized_bias
from milpq.formats._torch_operators import FUNCTIONS, MODULES
from milpq.formats._torch_step import LAYOUT, Codes, Real, Step, Value
from milpq.network.geometry import Windows, convolution_matrix
from milpq.network.images import Convolution
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.requantization import FloatBias, Operator

_MODULES: Final = (nnq.Linear, nnq.Conv2d, nnq.Quantize)


def is_quantized(module: nn.Module) -> bool:
    """Tell whether a module computes with quantized activations."""
    return any(isinstance(part, _MODULES) for part in module.modules())


def read_quantized_torch(
    module: nn.Module, origin: str = "<torch module>", input_shape: tuple[int, ...] | None = None
) -> QuantizedModel:
    """Return what a module that ``torch.ao.quantization`` has converted computes, its rounding left to a target.

    Parameters
    ----------
    module : nn.Module
        Eager or FX graph mode, with quint8 activations and qint8 weights.
    input_shape : shape of one input without batch dimension
        Taken from the first layer where that is a Linear.

    Raises
    ------
    UnsupportedModelError
        Something in it is not read; the operation is named.
    InvalidNetworkError
        Shapes or numbers do not fit; the layer is named.
    """
    graph = module if isinstance(module, fx.GraphModule) else _traced(module, origin)
    walker = _Walker(graph, origin, input_shape or _first_features(module, origin))
    for node in graph.graph.nodes:
        walker.run(node)
    return walker.finish()


def _traced(module: nn.Module, origin: str) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(module)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedModelError(
            f"{origin}: its forward cannot be traced by torch.fx ({reason}); quantize it in FX graph mode"
        ) from error


def _first_features(module: nn.Module, origin: str) -> tuple[int, ...]:
    for part in module.modules():
        if isinstance(part, nnq.Linear):
            return (int(part.in_features),)
        if isinstance(part, nnq.Conv2d):
            break
    raise UnsupportedModelError(
        f"{origin}: a torch module does not say its input shape; "
        "load it with milpq.load(module, input_shape=(channels, height, width))"
    )


class _Walker:
    """Runs through the nodes of a traced module; `values` holds what each stands for."""

    def __init__(self, module: fx.GraphModule, origin: str, shape: tuple[int, ...]) -> None:
        self._module = module
        self._origin = origin
        self._shape = shape
        self._modules = dict(module.named_modules())
        self._values: dict[fx.Node, Value] = {}
        self._result: Value = None
        self._builder = QuantizedBuilder(origin, math.prod(shape), f"{origin}: input")

    def run(self, node: fx.Node) -> None:
        """Append one node."""
        where = f"{self._origin}: {node.op} {self._target(node)!r}"
        if node.op == "placeholder":
            if self._values:
                raise UnsupportedModelError(f"{where}: is a second input; milpq reads networks with one")
            self._values[node] = Real(self._shape)
        elif node.op == "get_attr":
            self._values[node] = cast("torch.Tensor", _attribute(self._module, str(node.target)))
        elif node.op == "output":
            self._result = self._of(node.args[0], where)
        else:
            step = Step(self._builder, self._target(node), where, [self._of(a, where) for a in node.args],
                         {key: self._of(a, where) for key, a in node.kwargs.items()})  # fmt: skip
            if node.op == "call_module":
                part = self._modules[str(node.target)]
                handler = _MODULE_HANDLERS.get(type(part))
                if handler is None:
                    raise _unsupported(where, type(part).__name__)
                self._values[node] = handler(step, part)
            else:
                function = _FUNCTIONS.get(node.target)
                if function is None:
                    raise _unsupported(where, self._target(node))
                self._values[node] = function(step)

    def finish(self) -> QuantizedModel:
        """Return the model."""
        result = self._result
        if isinstance(result, Real):
            result = result.codes
        if not isinstance(result, Codes):
            raise UnsupportedModelError(f"{self._origin}: its output is not computed from codes")
        return self._builder.finish(result.value)

    def _of(self, argument: Any, where: str) -> Value:
        if isinstance(argument, fx.Node):
            return self._values[argument]
        if argument is None or isinstance(argument, int | float | torch.dtype):
            return cast("Value", argument)
        if isinstance(argument, list | tuple):
            return cast("Value", [self._of(part, where) for part in argument])
        raise UnsupportedModelError(f"{where}: has an argument of type {type(argument).__name__}")

    def _target(self, node: fx.Node) -> str:
        return (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", str(node.target))
        )


def _unsupported(where: str, kind: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where}: {kind} is not supported; milpq reads quantized Linear, Conv2d, sums, concatenations, pools, "
        "means, ReLU, ReLU6, Hardtanh and Flatten"
    )


def _attribute(module: nn.Module, name: str) -> object:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _quantize(step: Step, scale: Any, zero_point: Any, dtype: object) -> Value:
    source = step.args[0]
    if not isinstance(source, Real):
        raise step.unsupported("quantizes what is neither the input nor dequantized codes")
    if dtype is not torch.quint8:
        raise step.unsupported(f"quantizes to {dtype}; milpq reads quint8 activations")
    grid, wide = step.grid(scale, zero_point)
    if source.codes is None:
        step.builder.begin(grid, step.where)
        return Codes(0, source.shape, wide)
    return Codes(step.requantized(source.codes, grid), source.shape, wide)


def _quantize_function(step: Step) -> Value:
    scale, zero_point = step.argument(1, "scale"), step.argument(2, "zero_point")
    return _quantize(step, scale, zero_point, step.argument(3, "dtype"))


def _quantize_module(step: Step, part: nn.Module) -> Value:
    return _quantize(step, part.scale, part.zero_point, part.dtype)


def _dequantize(step: Step, part: nn.Module | None = None) -> Value:
    del part
    codes = step.codes()
    return Real(codes.shape, codes)


def _linear(step: Step, part: Any) -> Value:
    source = step.codes()
    if len(source.shape) != 1:
        raise step.unsupported(f"reads a value of shape {source.shape}; flatten it first")

    def place(weights: Float64Array) -> tuple[Matrix, Int64Array]:
        return weights, np.arange(len(weights), dtype=np.int64)

    return _layer(step, part, source, "fully_connected", place, (int(part.out_features),))


def _conv(step: Step, part: Any) -> Value:
    source = step.codes()
    if len(source.shape) != 3 or source.shape[0] != part.in_channels or part.padding_mode != "zeros":
        raise step.unsupported(
            f"reads shape {source.shape} with {part.padding_mode} padding; milpq reads (channels, height, width), zeros"
        )
    if isinstance(part.padding, str):
        raise step.unsupported(f"has padding {part.padding!r}; give it in numbers")
    try:
        windows = Windows.of(
            source.shape[1:],
            tuple(part.kernel_size),
            tuple(part.stride),
            tuple(part.dilation),
            tuple((int(pad), int(pad)) for pad in part.padding),
        )
    except ValueError as error:
        raise InvalidNetworkError(f"{step.where}: {error}") from error
    depthwise = part.groups == part.in_channels and part.groups > 1

    def place(weights: Float64Array) -> tuple[Matrix, Int64Array]:
        return convolution_matrix(weights, windows, int(part.groups), LAYOUT)

    shape = (int(part.out_channels), *windows.result)
    slides = Convolution(windows, source.shape[0], int(part.out_channels), int(part.groups), LAYOUT)
    return _layer(step, part, source, "depthwise" if depthwise else "conv", place, shape, slides)


def _layer(
    step: Step,
    part: Any,
    source: Codes,
    operator: Operator,
    place: Callable[[Float64Array], tuple[Matrix, Int64Array]],
    shape: tuple[int, ...],
    convolution: Convolution | None = None,
) -> Codes:
    """Append a linear layer whose weights `place` turns into a matrix over the flat input."""
    weights: torch.Tensor = part.weight()
    if weights.dtype is not torch.qint8:
        raise step.unsupported(f"has {weights.dtype} weights; milpq reads qint8")
    per_channel = weights.qscheme() in {torch.per_channel_affine, torch.per_channel_symmetric}
    channels = int(weights.shape[0])
    if per_channel:
        if weights.q_per_channel_axis() != 0:
            raise step.unsupported("has one weight scale per input; milpq reads one per output")
        scales = weights.q_per_channel_scales().numpy().astype(np.float64)
        zero_points = weights.q_per_channel_zero_points().numpy().astype(np.int64)
    else:
        scales = np.full(channels, weights.q_scale())
        zero_points = np.full(channels, weights.q_zero_point())
    codes = weights.int_repr().numpy().astype(np.float64)
    matrix, channel = place(codes - zero_points.reshape(-1, *[1] * (codes.ndim - 1)))
    relu = isinstance(part, nniq.LinearReLU | nniq.ConvReLU2d)
    grid, wide = step.grid(part.scale, part.zero_point, int(part.zero_point) if relu else 0)
    bias = quantized_bias(part.bias(), source.scale * scales, step.where)
    real = np.zeros(channels)
    if part.bias() is not None:
        real = part.bias().detach().numpy().astype(np.float64)
    linear = LinearPart(
        step.name,
        step.where,
        operator,
        source.value,
        matrix,
        bias[channel],
        scales.astype(np.float32).astype(np.float64),
        channel,
        per_channel,
        pairs_saturate(codes.reshape(channels, -1).astype(np.int64)),
        convolution,
        FloatBias(real, bias),
    )
    return Codes(step.builder.linear(linear, grid), shape, wide)


_FUNCTIONS: Final[dict[object, Callable[[Step], Value]]] = {
    **FUNCTIONS,
    torch.quantize_per_tensor: _quantize_function,
    "dequantize": _dequantize,
}

_MODULE_HANDLERS: Final[dict[type[nn.Module], Callable[[Step, Any], Value]]] = {
    **MODULES,
    nnq.Quantize: _quantize_module,
    nnq.DeQuantize: _dequantize,
    nnq.Linear: _linear,
    nniq.LinearReLU: _linear,
    nnq.Conv2d: _conv,
    nniq.ConvReLU2d: _conv,
}
