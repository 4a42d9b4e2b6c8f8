"""Take a quantized torch module (eager or FX graph mode) as a QuantizedModel."""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
import torch
from torch import fx, nn
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import quantized as nniq

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._quantized_builder import Grid, LinearPart, QuantizedBuilder
from milpq.formats._torch_numbers import quantized_bias
from milpq.network.geometry import Layout, Windows, convolution_matrix
from milpq.network.images import Convolution, Image
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.input_quantizer import RULES
from milpq.rounding.requantization import Operator

LAYOUT: Final[Layout] = "channels_first"

_MODULES: Final = (nnq.Linear, nnq.Conv2d, nnq.Quantize)


@dataclass(frozen=True, slots=True)
class _Real:
    """The float input, or dequantized codes (`codes` is not None)."""

    shape: tuple[int, ...]
    codes: _Codes | None = None


@dataclass(frozen=True, slots=True)
class _Codes:
    """quint8 codes; `scale` is torch's float64, of which kernels take the float32 value."""

    value: int
    shape: tuple[int, ...]
    scale: float


_Value: TypeAlias = "_Real | _Codes | torch.Tensor | float | None"


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
        self._values: dict[fx.Node, _Value] = {}
        self._result: _Value = None
        self._builder = QuantizedBuilder(origin, math.prod(shape), f"{origin}: input")

    def run(self, node: fx.Node) -> None:
        """Append one node."""
        where = f"{self._origin}: {node.op} {self._target(node)!r}"
        if node.op == "placeholder":
            if self._values:
                raise UnsupportedModelError(f"{where}: is a second input; milpq reads networks with one")
            self._values[node] = _Real(self._shape)
        elif node.op == "get_attr":
            self._values[node] = cast("torch.Tensor", _attribute(self._module, str(node.target)))
        elif node.op == "output":
            self._result = self._of(node.args[0], where)
        else:
            step = _Step(self._builder, self._target(node), where, [self._of(a, where) for a in node.args],
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
        if isinstance(result, _Real):
            result = result.codes
        if not isinstance(result, _Codes):
            raise UnsupportedModelError(f"{self._origin}: its output is not computed from codes")
        return self._builder.finish(result.value)

    def _of(self, argument: Any, where: str) -> _Value:
        if isinstance(argument, fx.Node):
            return self._values[argument]
        if argument is None or isinstance(argument, int | float | torch.dtype):
            return cast("_Value", argument)
        if isinstance(argument, list | tuple):
            return cast("_Value", [self._of(part, where) for part in argument])
        raise UnsupportedModelError(f"{where}: has an argument of type {type(argument).__name__}")

    def _target(self, node: fx.Node) -> str:
        return (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", str(node.target))
        )


def _unsupported(where: str, kind: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where}: {kind} is not supported; milpq reads quantized Linear, Conv2d, ReLU, MaxPool2d, Flatten"
    )


def _attribute(module: nn.Module, name: str) -> object:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    """One node with its arguments looked up."""

    builder: QuantizedBuilder
    name: str
    where: str
    args: list[_Value]
    kwargs: dict[str, _Value]

    def unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.where}: {what}")

    def argument(self, position: int, name: str, default: _Value = None) -> Any:
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def codes(self, position: int = 0) -> _Codes:
        source = self.args[position]
        if not isinstance(source, _Codes):
            raise self.unsupported("works on float values; quantize every layer")
        return source

    def grid(self, scale: object, zero_point: object, lower: int = 0) -> tuple[Grid, float]:
        """Return the grid of quint8 codes and the float64 scale torch holds."""
        wide = float(cast("float", scale))
        grid = Grid(float(np.float32(wide)), int(cast("int", zero_point)), lower, 255)
        grid.check(self.where)
        return grid, wide


def _quantize(step: _Step, scale: Any, zero_point: Any, dtype: object) -> _Value:
    source = step.args[0]
    if not isinstance(source, _Real):
        raise step.unsupported("quantizes what is neither the input nor dequantized codes")
    if dtype is not torch.quint8:
        raise step.unsupported(f"quantizes to {dtype}; milpq reads quint8 activations")
    grid, wide = step.grid(scale, zero_point)
    if source.codes is None:
        step.builder.begin(grid, step.where)
        return _Codes(0, source.shape, wide)
    known = step.builder.grid(source.codes.value)
    assert known is not None
    if (known.scale, known.zero_point) == (grid.scale, grid.zero_point):
        return replace(source.codes, shape=source.shape)

    def table(codes: Int64Array) -> Int64Array:
        real = (codes - known.zero_point).astype(np.float32) * np.float32(known.scale)
        levels = RULES["rint-fma"](real, np.full(len(real), grid.scale, dtype=np.float32), grid.zero_point)
        return np.clip(levels.astype(np.int64) + grid.zero_point, grid.lower, grid.upper)

    return _Codes(
        step.builder.lookup(step.name, step.where, source.codes.value, table, grid), source.shape, wide
    )


def _quantize_function(step: _Step) -> _Value:
    scale, zero_point = step.argument(1, "scale"), step.argument(2, "zero_point")
    return _quantize(step, scale, zero_point, step.argument(3, "dtype"))


def _quantize_module(step: _Step, part: nn.Module) -> _Value:
    return _quantize(step, part.scale, part.zero_point, part.dtype)


def _dequantize(step: _Step, part: nn.Module | None = None) -> _Value:
    del part
    codes = step.codes()
    return _Real(codes.shape, codes)


def _linear(step: _Step, part: Any) -> _Value:
    source = step.codes()
    if len(source.shape) != 1:
        raise step.unsupported(f"reads a value of shape {source.shape}; flatten it first")

    def place(weights: Float64Array) -> tuple[Matrix, Int64Array]:
        return weights, np.arange(len(weights), dtype=np.int64)

    return _layer(step, part, source, "fully_connected", place, (int(part.out_features),))


def _conv(step: _Step, part: Any) -> _Value:
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
    depthwise = part.groups == part.in_channels == part.out_channels and part.groups > 1

    def place(weights: Float64Array) -> tuple[Matrix, Int64Array]:
        return convolution_matrix(weights, windows, int(part.groups), LAYOUT)

    shape = (int(part.out_channels), *windows.result)
    slides = Convolution(windows, source.shape[0], int(part.out_channels), int(part.groups), LAYOUT)
    return _layer(step, part, source, "depthwise" if depthwise else "conv", place, shape, slides)


def _max_pool(step: _Step, part: Any) -> _Value:
    source = step.codes()
    if len(source.shape) != 3 or part.return_indices:
        raise step.unsupported(
            f"pools shape {source.shape}; milpq reads (channels, height, width), no indices"
        )
    size, stride, padding, dilation = (
        (number, number) if isinstance(number, int) else tuple(number)
        for number in (part.kernel_size, part.stride, part.padding, part.dilation)
    )
    try:
        pads = tuple((int(pad), int(pad)) for pad in padding)
        windows = Windows.of(source.shape[1:], size, stride, dilation, pads, ceiling=bool(part.ceil_mode))
    except ValueError as error:
        raise InvalidNetworkError(f"{step.where}: {error}") from error
    candidates = windows.candidates(source.shape[0], LAYOUT)
    value = step.builder.maximum(step.name, step.where, source.value, candidates)
    step.builder.images.settle(source.value, Image(source.shape[0], windows.spatial, LAYOUT))
    step.builder.images.settle(value, Image(source.shape[0], windows.result, LAYOUT))
    return replace(source, value=value, shape=(source.shape[0], *windows.result))


def _layer(
    step: _Step,
    part: Any,
    source: _Codes,
    operator: Operator,
    place: Callable[[Float64Array], tuple[Matrix, Int64Array]],
    shape: tuple[int, ...],
    convolution: Convolution | None = None,
) -> _Codes:
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
    linear = LinearPart(
        step.name,
        step.where,
        operator,
        source.value,
        matrix,
        quantized_bias(part.bias(), source.scale * scales, step.where)[channel],
        scales.astype(np.float32).astype(np.float64),
        channel,
        per_channel,
        pairs_saturate=False,
        convolution=convolution,
    )
    return _Codes(step.builder.linear(linear, grid), shape, wide)


def _relu(step: _Step, part: nn.Module | None = None) -> _Value:
    del part
    source = step.codes()
    known = step.builder.grid(source.value)
    assert known is not None
    grid = replace(known, lower=max(known.lower, known.zero_point))
    value = step.builder.lookup(
        step.name, step.where, source.value, lambda codes: np.maximum(codes, known.zero_point), grid
    )
    return replace(source, value=value)


def _flatten(step: _Step, part: nn.Module | None = None) -> _Value:
    source = step.args[0]
    starts = (part.start_dim, part.end_dim) if isinstance(part, nn.Flatten) else (
        step.argument(1, "start_dim", 0), step.argument(2, "end_dim", -1))  # fmt: skip
    if starts != (1, -1) or not isinstance(source, _Codes | _Real):
        raise step.unsupported("flattens other dimensions than all but the batch")
    return replace(source, shape=(math.prod(source.shape),))


def _unchanged(step: _Step, part: nn.Module | None = None) -> _Value:
    del part
    return step.args[0]


_FUNCTIONS: Final[dict[object, Callable[[_Step], _Value]]] = {
    torch.quantize_per_tensor: _quantize_function,
    torch.flatten: _flatten,
    torch.relu: _relu,
    nn.functional.relu: _relu,
    "dequantize": _dequantize,
    "flatten": _flatten,
    "relu": _relu,
}

_MODULE_HANDLERS: Final[dict[type[nn.Module], Callable[[_Step, Any], _Value]]] = {
    nnq.Quantize: _quantize_module,
    nnq.DeQuantize: _dequantize,
    nnq.Linear: _linear,
    nniq.LinearReLU: _linear,
    nnq.Conv2d: _conv,
    nniq.ConvReLU2d: _conv,
    nnq.Dropout: _unchanged,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: _relu,
    nn.Flatten: _flatten,
    nn.Identity: _unchanged,
    nn.Dropout: _unchanged,
}
