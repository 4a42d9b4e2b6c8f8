"""Take a graph that torch's pt2e quantization has converted as a QuantizedModel.

Such a graph states a quantized network in float operators between ``dequantize`` and ``quantize``, and is meant to be
lowered to integer kernels.  Run as it is, it sums float32 products in whatever order the kernels take, so its codes
depend on the machine wherever a sum lies near a tie.  What is read here is what it states; the target says which
kernels it is lowered to.
"""

# The stubs of torch leave several members partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

import numpy as np
import torch
from torch import fx, nn

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError, UnsupportedModelError
from milpq.formats._quantized_builder import LinearPart, QuantizedBuilder
from milpq.formats._torch_exported_operators import HANDLERS
from milpq.formats._torch_graph import Codes, Pending, Real, Step, Value, Weights
from milpq.formats._torch_numbers import quantized_bias
from milpq.formats._torch_step import LAYOUT
from milpq.network.geometry import Windows, convolution_matrix
from milpq.network.images import Convolution, Image
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.requantization import Operator

PREFIX: Final = "quantized_decomposed."

NOTE: Final = (
    "stated by a pt2e graph: executed by the target's integer kernels, not in float32 as torch runs the graph"
)

INPUT_ROUNDING: Final = "rint-mul"
"""What the graph does at its input, element by element, in torch and in XNNPACK alike."""


def is_exported(module: nn.Module) -> bool:
    """Tell whether a module is a graph that pt2e quantization has converted."""
    return isinstance(module, fx.GraphModule) and any(
        str(node.target).startswith(PREFIX) for node in module.graph.nodes
    )


def read_exported_torch(module: nn.Module, origin: str = "<torch graph>") -> QuantizedModel:
    """Return what a converted graph states, its rounding left to a target.

    Biases are rounded to int32 on input scale times weight scale, as torch's QNNPACK and ExecuTorch do.

    Parameters
    ----------
    module : GraphModule
        Of ``convert_pt2e``, or the ``module()`` of an ExportedProgram; int8 or uint8 activations, int8 weights.

    Raises
    ------
    UnsupportedModelError
        Something in it is not read; the operation is named.
    InvalidNetworkError
        Shapes or numbers do not fit; the layer is named.
    """
    assert isinstance(module, fx.GraphModule)
    walker = _Walker(module, origin)
    # Constants may come before the input.
    nodes = sorted(module.graph.nodes, key=lambda node: node.op != "placeholder")
    for node in nodes:
        walker.run(node)
    return walker.finish()


class _Walker:
    """Runs through the nodes; `values` holds what each stands for."""

    def __init__(self, module: fx.GraphModule, origin: str) -> None:
        self._module = module
        self._origin = origin
        self._values: dict[fx.Node, Value] = {}
        self._builder: QuantizedBuilder | None = None
        self._result: Value = None

    def run(self, node: fx.Node) -> None:
        """Append one node."""
        where = f"{self._origin}: {node.op} {node.name!r}"
        if node.op == "placeholder":
            self._begin(node, where)
        elif node.op == "get_attr":
            found: object = self._module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            self._values[node] = cast("torch.Tensor", found)
        elif node.op == "output":
            given: object = node.args[0]
            outputs = list(cast("tuple[object, ...]", given)) if isinstance(given, list | tuple) else [given]
            if len(outputs) != 1 or not isinstance(outputs[0], fx.Node):
                raise UnsupportedModelError(
                    f"{where}: has {len(outputs)} results; milpq reads networks with one"
                )
            self._result = self._values[outputs[0]]
        elif node.users:
            handler = _HANDLERS.get(str(node.target))
            if handler is None or self._builder is None:
                raise UnsupportedModelError(
                    f"{where}: {node.target} is not supported; milpq reads conv2d, linear, relu, hardtanh, sums, "
                    "pools, means, cat and flatten between dequantize and quantize"
                )
            self._values[node] = handler(Step(self._builder, node, where, self._values))

    def finish(self) -> QuantizedModel:
        """Return the model."""
        result = self._result
        value = result.value if isinstance(result, Real | Codes) else None
        if value is None or self._builder is None:
            raise UnsupportedModelError(
                f"{self._origin}: its output is not quantized; quantize the last layer, too"
            )
        return self._builder.finish(value, INPUT_ROUNDING, NOTE)

    def _begin(self, node: fx.Node, where: str) -> None:
        if self._builder is not None:
            raise UnsupportedModelError(f"{where}: is a second input; milpq reads networks with one")
        example: object = node.meta.get("val")
        if not isinstance(example, torch.Tensor) or example.ndim < 2:
            raise UnsupportedModelError(
                f"{where}: does not say its shape; export the model with torch.export"
            )
        # A symbolic extent is no int.
        extents = [extent if type(extent) is int else 0 for extent in example.shape[1:]]
        if min(extents) < 1:
            raise UnsupportedModelError(
                f"{where}: has a shape that is not settled; export it with a fixed one"
            )
        self._builder = QuantizedBuilder(self._origin, math.prod(extents), where)
        self._values[node] = Real(tuple(extents))


def _quantize(step: Step) -> Value:
    source = step.argument(0)
    grid = step.grid()
    if isinstance(source, Pending):
        tolerance = float(np.finfo(np.float32).eps)
        lower = grid.lower
        if source.lower == 0.0:
            lower = max(lower, grid.zero_point)
        elif grid.scale * (grid.lower - grid.zero_point) < source.lower - tolerance:
            raise step.unsupported(f"has codes below the clamp at {source.lower} before it")
        if grid.scale * (grid.upper - grid.zero_point) > source.upper * (1 + tolerance):
            raise step.unsupported(f"has codes above the clamp at {source.upper} before it")
        return Codes(source.settle(replace(grid, lower=lower)), source.shape)
    if not isinstance(source, Real):
        raise step.unsupported("quantizes what is neither the input nor the result of a layer")
    if source.value is None:
        step.builder.begin(grid, step.where)
        return Codes(0, source.shape)
    known = step.builder.grid(source.value)
    assert known is not None
    if (known.scale, known.zero_point) != (grid.scale, grid.zero_point):
        raise step.unsupported("quantizes on another grid what was just dequantized; use one for both")
    return Codes(source.value, source.shape)


def _dequantize(step: Step) -> Value:
    source = step.argument(0)
    if isinstance(source, torch.Tensor):
        scale, zero_point = step.argument(1), step.argument(2)
        if not isinstance(scale, float) or not isinstance(zero_point, int):
            raise step.unsupported("has a scale that is computed")
        return _stored(step, source, np.array([scale]), np.array([zero_point]))
    if not isinstance(source, Codes):
        raise step.unsupported("dequantizes what is not quantized")
    grid = step.grid()
    known = step.builder.grid(source.value)
    if known is None or (known.scale, known.zero_point) != (grid.scale, grid.zero_point):
        raise step.unsupported("reads codes on another grid than they were written on")
    return Real(source.shape, source.value)


def _dequantize_channels(step: Step) -> Value:
    codes, scales, zero_points, axis = (step.argument(position) for position in range(4))
    if not all(isinstance(part, torch.Tensor) for part in (codes, scales)) or axis != 0:
        raise step.unsupported("has other than constant weights with one scale an output channel")
    zeros = np.zeros(len(scales)) if zero_points is None else zero_points.numpy()
    return _stored(step, codes, scales.numpy().astype(np.float64), zeros)


def _stored(step: Step, codes: torch.Tensor, scales: Float64Array, zero_points: Any) -> Weights:
    if codes.dtype is not torch.int8:
        raise step.unsupported(f"dequantizes a constant of {codes.dtype}; milpq reads int8 weights")
    numbers = codes.detach().numpy().astype(np.float64)
    return Weights(numbers, scales, np.asarray(zero_points).astype(np.int64))


def _layer(
    step: Step,
    operator: Operator,
    place: Callable[[Float64Array], tuple[Matrix, Int64Array]],
    shape: tuple[int, ...],
    convolution: Convolution | None = None,
) -> Pending:
    source, weights, bias = step.real(), _weights_of(step), step.argument(2, "bias")
    channels = len(weights.codes)
    if bias is not None and (not isinstance(bias, torch.Tensor) or tuple(bias.shape) != (channels,)):
        raise step.unsupported("has a bias that is no constant of one number a channel")
    scales = np.broadcast_to(weights.scales, (channels,)).copy()
    zero_points = np.broadcast_to(weights.zero_points, (channels,))
    matrix, channel = place(weights.codes - zero_points.reshape(-1, *[1] * (weights.codes.ndim - 1)))
    assert source.value is not None
    read = step.builder.grid(source.value)
    assert read is not None
    part = LinearPart(
        step.node.name,
        step.where,
        operator,
        source.value,
        matrix,
        quantized_bias(bias, read.scale * scales, step.where)[channel],
        scales.astype(np.float32).astype(np.float64),
        channel,
        len(weights.scales) > 1,
        pairs_saturate=False,
        convolution=convolution,
    )
    return Pending(lambda grid: step.builder.linear(part, grid), shape)


def _weights_of(step: Step) -> Weights:
    weights = step.argument(1, "weight")
    if not isinstance(weights, Weights):
        raise step.unsupported("has weights that are not quantized; quantize them, too")
    return weights


def _linear(step: Step) -> Value:
    source, weights = step.real(), _weights_of(step)
    if len(source.shape) != 1 or weights.codes.ndim != 2 or weights.codes.shape[1] != source.shape[0]:
        raise step.unsupported(f"multiplies shape {source.shape} by {weights.codes.shape}; flatten it first")

    def place(levels: Float64Array) -> tuple[Matrix, Int64Array]:
        return levels, np.arange(len(levels), dtype=np.int64)

    return _layer(step, "fully_connected", place, (len(weights.codes),))


def _conv(step: Step) -> Value:
    source, kernel = step.real(), _weights_of(step).codes
    padding, groups = step.argument(4, "padding", [0, 0]), int(step.argument(6, "groups", 1))
    if len(source.shape) != 3 or kernel.ndim != 4 or kernel.shape[1] * groups != source.shape[0]:
        raise step.unsupported(f"convolves shape {source.shape} with {kernel.shape} in {groups} groups")
    if isinstance(padding, str):
        raise step.unsupported(f"has padding {padding!r}; give it in numbers")
    try:
        windows = Windows.of(
            source.shape[1:],
            kernel.shape[2:],
            step.pair(3, "stride", 1),
            step.pair(5, "dilation", 1),
            tuple((pad, pad) for pad in step.pair(4, "padding", 0)),
        )
        slides = Convolution(windows, source.shape[0], len(kernel), groups, LAYOUT)
        shape = (len(kernel), *windows.result)
        operator: Operator = "depthwise" if 1 < groups == source.shape[0] == len(kernel) else "conv"
        return _layer(
            step, operator, lambda levels: convolution_matrix(levels, windows, groups, LAYOUT), shape, slides
        )
    except ValueError as error:
        if isinstance(error, InvalidNetworkError):
            raise
        raise InvalidNetworkError(f"{step.where}: {error}") from error


def _max_pool(step: Step) -> Value:
    source = step.real()
    if len(source.shape) != 3 or source.value is None:
        raise step.unsupported(f"pools shape {source.shape}; milpq reads (channels, height, width)")
    size = step.pair(1, "kernel_size", 1)
    stride = size if step.argument(2, "stride") in (None, []) else step.pair(2, "stride", 1)
    pads = tuple((pad, pad) for pad in step.pair(3, "padding", 0))
    ceiling = bool(step.argument(5, "ceil_mode", default=False))
    try:
        windows = Windows.of(
            source.shape[1:], size, stride, step.pair(4, "dilation", 1), pads, ceiling=ceiling
        )
    except ValueError as error:
        raise InvalidNetworkError(f"{step.where}: {error}") from error
    candidates = windows.candidates(source.shape[0], LAYOUT)
    value = step.builder.maximum(step.node.name, step.where, source.value, candidates)
    step.builder.images.settle(source.value, Image(source.shape[0], windows.spatial, LAYOUT))
    step.builder.images.settle(value, Image(source.shape[0], windows.result, LAYOUT))
    return replace(source, value=value, shape=(source.shape[0], *windows.result))


def _relu(step: Step) -> Value:
    return _clamped(step, 0.0, np.inf)


def _hardtanh(step: Step) -> Value:
    return _clamped(step, float(step.argument(1, "min_val", -1.0)), float(step.argument(2, "max_val", 1.0)))


def _clamped(step: Step, lower: float, upper: float) -> Value:
    source = step.argument(0)
    if isinstance(source, Real) and source.value is not None and (lower, upper) == (0.0, np.inf):
        known = step.builder.grid(source.value)
        assert known is not None
        zero_point, grid = known.zero_point, replace(known, lower=max(known.lower, known.zero_point))
        name, where = step.node.name, step.where
        value = step.builder.lookup(
            name, where, source.value, lambda codes: np.maximum(codes, zero_point), grid
        )
        return replace(source, value=value)
    if not isinstance(source, Pending):
        raise step.unsupported("does not directly follow a convolution or linear layer; fuse it into one")
    return replace(source, lower=max(lower, source.lower), upper=min(upper, source.upper))


def _flatten(step: Step) -> Value:
    source = step.argument(0)
    if not isinstance(source, Real | Pending) or (
        step.argument(1, "start_dim", 0), step.argument(2, "end_dim", -1)) not in {(1, -1), (1, 3)}:  # fmt: skip
        raise step.unsupported("flattens other dimensions than all but the batch")
    return replace(source, shape=(math.prod(source.shape),))


def _view(step: Step) -> Value:
    source, shape = step.argument(0), step.argument(1)
    if (
        not isinstance(source, Real | Pending)
        or len(shape) != 2
        or shape[1] not in {-1, math.prod(source.shape)}
    ):
        raise step.unsupported(f"reshapes to {shape}; milpq reads a flattening of all but the batch")
    return replace(source, shape=(math.prod(source.shape),))


def _unchanged(step: Step) -> Value:
    return cast("Value", step.argument(0))


_HANDLERS: Final[dict[str, Callable[[Step], Value]]] = {
    **HANDLERS,
    f"{PREFIX}quantize_per_tensor.default": _quantize,
    f"{PREFIX}dequantize_per_tensor.default": _dequantize,
    f"{PREFIX}dequantize_per_channel.default": _dequantize_channels,
    "aten.conv2d.default": _conv,
    "aten.dropout.default": _unchanged,
    "aten.flatten.using_ints": _flatten,
    "aten.hardtanh.default": _hardtanh,
    "aten.hardtanh_.default": _hardtanh,
    "aten.linear.default": _linear,
    "aten.max_pool2d.default": _max_pool,
    "aten.relu.default": _relu,
    "aten.relu_.default": _relu,
    "aten.reshape.default": _view,
    "aten.view.default": _view,
}
