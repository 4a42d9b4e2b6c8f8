"""What each supported ONNX operator appends to a FloatBuilder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import InvalidNetworkError
from milpq.formats._float_builder import repeat_columns, repeat_rows
from milpq.formats._onnx_images import IMAGE_HANDLERS
from milpq.formats._onnx_shapes import new_shape
from milpq.formats._onnx_step import Computed, Step, Value
from milpq.network.curves import SIGMOID, TANH


def _gemm(step: Step) -> Value:
    source = step.computed(0)
    weights = step.constant(1, "matrix B")
    if step.options.get("transA", 0):
        raise step.unsupported("uses transA; transpose before export")
    if len(source.shape) != 2 or weights.ndim != 2:
        raise step.damaged("its operands are not matrices")
    matrix = weights if step.options.get("transB", 0) else weights.T
    rows, inputs = source.shape
    if matrix.shape[1] != inputs:
        raise step.damaged(f"weights for {matrix.shape[1]} inputs, but {inputs} come in")
    shape = (rows, matrix.shape[0])
    step.check(shape, rows * weights.size)
    value = step.builder.linear(step.name, source.index, repeat_rows(matrix, rows))
    result = Computed(value, shape)
    value = step.builder.scale(step.name, value, np.full(math.prod(shape), step.options.get("alpha", 1.0)))
    if step.has(2):
        constant, spread = step.broadcast(step.constant(2, "bias C"), result)
        if spread != shape:
            raise step.damaged(f"its bias has shape {step.constant(2, 'bias C').shape}, the result {shape}")
        beta = step.options.get("beta", 1.0)
        if beta != 1.0 and (constant.astype(np.float32) != constant).any():
            raise step.unsupported("scales a float64 bias by beta; multiply it on export")
        value = step.builder.shift(step.name, value, constant * beta)
    return Computed(value, shape)


def _matmul(step: Step) -> Value:
    left, right = step.value(0), step.value(1)
    if isinstance(left, Computed) and not isinstance(right, Computed):
        return _times_constant(step, left, step.constant(1, "right operand"))
    if isinstance(right, Computed) and not isinstance(left, Computed):
        return _constant_times(step, step.constant(0, "left operand"), right)
    raise step.unsupported("multiplies two computed values; milpq needs one constant matrix")


def _times_constant(step: Step, source: Computed, weights: Float64Array) -> Computed:
    """Return ``source @ weights``."""
    vector = weights.ndim == 1
    matrix = weights[None, :] if vector else weights.T
    if not source.shape or weights.ndim not in {1, 2} or matrix.shape[1] != source.shape[-1]:
        raise step.unsupported(f"multiplies shapes {source.shape} and {weights.shape}")
    rows = math.prod(source.shape[:-1])
    shape = source.shape[:-1] + (() if vector else (matrix.shape[0],))
    step.check(shape, rows * weights.size)
    return Computed(step.builder.linear(step.name, source.index, repeat_rows(matrix, rows)), shape)


def _constant_times(step: Step, weights: Float64Array, source: Computed) -> Computed:
    """Return ``weights @ source``."""
    vector = weights.ndim == 1
    matrix = weights[None, :] if vector else weights
    axis = -1 if len(source.shape) == 1 else -2
    if not source.shape or weights.ndim not in {1, 2} or matrix.shape[1] != source.shape[axis]:
        raise step.unsupported(f"multiplies shapes {weights.shape} and {source.shape}")
    batch, columns = ((), ()) if axis == -1 else (source.shape[:-2], source.shape[-1:])
    if math.prod(batch) != 1:
        raise step.unsupported(f"multiplies shapes {weights.shape} and {source.shape}")
    shape = batch + (() if vector else (matrix.shape[0],)) + columns
    step.check(shape, math.prod(columns) * weights.size)
    spread = repeat_columns(matrix, math.prod(columns))
    return Computed(step.builder.linear(step.name, source.index, spread), shape)


def _add(step: Step) -> Value:
    return _sum(step, subtract=False)


def _sub(step: Step) -> Value:
    return _sum(step, subtract=True)


def _sum(step: Step, *, subtract: bool) -> Value:
    left, right = step.value(0), step.value(1)
    if isinstance(left, Computed) and isinstance(right, Computed):
        if math.prod(left.shape) != math.prod(right.shape):
            raise step.unsupported(f"broadcasts computed values of shapes {left.shape} and {right.shape}")
        _, shape = step.broadcast(np.zeros(right.shape), left)
        return Computed(step.builder.add(step.name, left.index, right.index, subtract=subtract), shape)
    if isinstance(left, Computed):
        constant, shape = step.broadcast(step.constant(1, "right operand"), left)
        return Computed(step.builder.shift(step.name, left.index, -constant if subtract else constant), shape)
    source = step.computed(1)
    constant, shape = step.broadcast(step.constant(0, "left operand"), source)
    value = source.index
    if subtract:
        value = step.builder.scale(step.name, value, np.full(len(constant), -1.0))
    return Computed(step.builder.shift(step.name, value, constant), shape)


def _mul(step: Step) -> Value:
    left, right = step.value(0), step.value(1)
    if isinstance(left, Computed) and isinstance(right, Computed):
        raise step.unsupported("multiplies two computed values; milpq needs one constant")
    source, constant = (
        (step.computed(0), step.constant(1, "factor"))
        if isinstance(left, Computed)
        else (
            step.computed(1),
            step.constant(0, "factor"),
        )
    )
    factors, shape = step.broadcast(constant, source)
    return Computed(step.builder.scale(step.name, source.index, factors), shape)


def _div(step: Step) -> Value:
    source = step.computed(0)
    divisors, shape = step.broadcast(step.constant(1, "divisor"), source)
    mantissas = np.abs(np.frexp(divisors)[0])
    if (mantissas != 0.5).any():
        raise step.unsupported(
            "divides by a constant whose reciprocal is not exact (not a power of two); "
            "multiply by the reciprocal instead"
        )
    return Computed(step.builder.scale(step.name, source.index, 1.0 / divisors), shape)


def _neg(step: Step) -> Value:
    source = step.computed(0)
    size = math.prod(source.shape)
    return Computed(step.builder.scale(step.name, source.index, np.full(size, -1.0)), source.shape)


def _relu(step: Step) -> Value:
    source = step.computed(0)
    return Computed(step.builder.clamp(step.name, source.index, 0.0, np.inf), source.shape)


def _clip(step: Step) -> Value:
    source = step.computed(0)
    lower = step.scalar(1, "min", step.options.get("min", -np.inf))
    upper = step.scalar(2, "max", step.options.get("max", np.inf))
    if not lower < upper:
        raise InvalidNetworkError(str(step.damaged(f"clips to the empty range [{lower}, {upper}]")))
    return Computed(step.builder.clamp(step.name, source.index, lower, upper), source.shape)


def _sigmoid(step: Step) -> Value:
    source = step.computed(0)
    value = step.builder.smooth(step.name, source.index, SIGMOID)
    return Computed(value, source.shape, after="Sigmoid", before=source.index)


def _tanh(step: Step) -> Value:
    source = step.computed(0)
    return Computed(step.builder.smooth(step.name, source.index, TANH), source.shape)


def _softmax(step: Step) -> Value:
    source = step.computed(0)
    return Computed(source.index, source.shape, after="Softmax", before=source.index)


def _reshaped(operator: str) -> Callable[[Step], Value]:
    """Return the handler of an operator that gives its input another shape; the flattened order stays."""

    def reshape(step: Step) -> Value:
        source = step.value(0)
        shape = new_shape(operator, step, source.shape)
        if isinstance(source, Computed):
            return replace(source, shape=shape)
        return source.reshape(shape)

    return reshape


def _dequantize(step: Step) -> Value:
    """Return quantized weights as the real numbers ``scale · (code − zero point)``, exactly."""
    codes = step.value(0)
    if isinstance(codes, Computed) or codes.dtype.kind not in "iu":
        raise step.unsupported("dequantizes what is no constant of integers")
    scales = step.constant(1, "scale")
    zero_points = step.value(2) if step.has(2) else np.zeros(scales.shape, dtype=np.int64)
    if isinstance(zero_points, Computed) or zero_points.dtype.kind not in "iu":
        raise step.unsupported("its zero point is no integer constant")
    if zero_points.size != scales.size:
        raise step.damaged(f"{scales.size} scales but {zero_points.size} zero points")
    centered = codes.astype(np.int64) - _spread(step, zero_points.astype(np.int64), codes.shape)
    # 24 bits times 29 fit into the 53 of float64, so the products are exact.
    if (scales.astype(np.float32) != scales).any() or (np.abs(centered) >= 2**29).any():
        raise step.unsupported("its scales are not float32, or a code exceeds 2^29")
    return centered * _spread(step, scales, codes.shape)


def _spread(step: Step, numbers: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Spread scales or zero points over the codes: one for all, one a channel, or one a block of an axis."""
    if numbers.size == 1:
        return np.broadcast_to(numbers.ravel()[0], shape)
    axis, block = int(step.options.get("axis", 1)), int(step.options.get("block_size", 0))
    if not -len(shape) <= axis < len(shape) or block < 0:
        raise step.damaged(f"its axis {axis} or block size {block} does not fit shape {shape}")
    axis %= len(shape)
    expected = (shape[axis],)
    if block:
        expected = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    if numbers.shape != expected:
        raise step.damaged(f"scales of shape {numbers.shape} for codes of shape {shape}; expected {expected}")
    if block:
        return np.repeat(numbers, block, axis=axis).take(np.arange(shape[axis]), axis=axis)
    column = [1] * len(shape)
    column[axis] = -1
    return np.broadcast_to(numbers.reshape(column), shape)


def _identity(step: Step) -> Value:
    return step.value(0)


def _dropout(step: Step) -> Value:
    if step.has(2):
        mode = step.value(2)
        if isinstance(mode, Computed) or mode.any():
            raise step.unsupported("is in training mode; export the model for inference")
    return step.value(0)


def _cast(step: Step) -> Value:
    source = step.value(0)
    # TensorProto.FLOAT and DOUBLE; a real-arithmetic network is the same in both.
    if step.options.get("to") not in {1, 11}:
        raise step.unsupported("casts to something other than float32 or float64")
    if isinstance(source, Computed):
        return source
    with np.errstate(over="ignore", invalid="ignore"):
        return source.astype(np.float32 if step.options["to"] == 1 else np.float64)


def _constant(step: Step) -> Value:
    if len(step.options) != 1:
        raise step.damaged("does not have exactly one value")
    ((name, value),) = step.options.items()
    if name == "value" and isinstance(value, np.ndarray):
        return cast("npt.NDArray[Any]", value)
    if name in {"value_float", "value_floats"}:
        return np.asarray(value, dtype=np.float32)
    if name in {"value_int", "value_ints"}:
        return np.asarray(value, dtype=np.int64)
    raise step.unsupported(f"has a value of kind {name!r}")


SHAPE_ONLY = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})

HANDLERS: dict[str, Callable[[Step], Value]] = {
    **IMAGE_HANDLERS,
    "Add": _add,
    "Cast": _cast,
    "Clip": _clip,
    "Constant": _constant,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Dropout": _dropout,
    "Flatten": _reshaped("Flatten"),
    "Gemm": _gemm,
    "Identity": _identity,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": _neg,
    "Relu": _relu,
    "Reshape": _reshaped("Reshape"),
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Squeeze": _reshaped("Squeeze"),
    "Sub": _sub,
    "Tanh": _tanh,
    "Unsqueeze": _reshaped("Unsqueeze"),
}

REMEDIES = {
    "LogSoftmax": "end the network before the LogSoftmax (its inputs, the logits, are what milpq compares)",
    "QuantizeLinear": "this is a quantized graph, not a float network",
}
