"""What each supported ONNX operator appends to a FloatBuilder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import InvalidNetworkError
from milpq.formats._float_builder import repeat_columns, repeat_rows
from milpq.formats._onnx_step import Computed, Step, Value


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
    return Computed(source.index, source.shape, after_sigmoid=True)


def _reshaped(step: Step, shape: tuple[int, ...]) -> Value:
    """Return input 0 under another shape; the flattened order stays."""
    source = step.value(0)
    if math.prod(shape) != math.prod(source.shape):
        raise step.damaged(f"reshapes {source.shape} to {shape}")
    if isinstance(source, Computed):
        return Computed(source.index, shape, source.after_sigmoid)
    return source.reshape(shape)


def _reshape(step: Step) -> Value:
    old = step.value(0).shape
    wanted = step.integers(1, "shape")
    for axis, extent in enumerate(wanted):
        if extent == 0 and not step.options.get("allowzero", 0):
            if axis >= len(old):
                raise step.damaged(f"reshapes {old} to {wanted}")
            wanted[axis] = old[axis]
    if wanted.count(-1) > 1 or any(extent < -1 for extent in wanted):
        raise step.damaged(f"reshapes {old} to {wanted}")
    if -1 in wanted:
        known = -math.prod(wanted)
        if known <= 0:
            raise step.damaged(f"reshapes {old} to {wanted}")
        wanted[wanted.index(-1)] = math.prod(old) // known
    return _reshaped(step, tuple(wanted))


def _flatten(step: Step) -> Value:
    old = step.value(0).shape
    axis = step.options.get("axis", 1)
    if not -len(old) <= axis <= len(old):
        raise step.damaged(f"its axis {axis} does not exist in shape {old}")
    axis = axis + len(old) if axis < 0 else axis
    return _reshaped(step, (math.prod(old[:axis]), math.prod(old[axis:])))


def _axes(step: Step, rank: int) -> set[int] | None:
    """Return the axes a Squeeze or Unsqueeze names by its input or its attribute; None if it names none."""
    axes = step.integers(1, "axes") if step.has(1) else step.integer_list("axes")
    if axes is None:
        return None
    if any(not -rank <= axis < rank for axis in axes):
        raise step.damaged(f"its axes {axes} do not exist")
    return {axis % rank for axis in axes}


def _squeeze(step: Step) -> Value:
    old = step.value(0).shape
    axes = _axes(step, len(old))
    drop = {axis for axis, extent in enumerate(old) if extent == 1} if axes is None else axes
    return _reshaped(step, tuple(extent for axis, extent in enumerate(old) if axis not in drop))


def _unsqueeze(step: Step) -> Value:
    old = step.value(0).shape
    count = len(step.integers(1, "axes")) if step.has(1) else len(step.integer_list("axes") or [])
    axes = _axes(step, len(old) + count)
    if not axes or len(axes) != count:
        raise step.damaged("names no axes, or one twice")
    extents = iter(old)
    return _reshaped(step, tuple(1 if axis in axes else next(extents) for axis in range(len(old) + count)))


def _transpose(step: Step) -> Value:
    source = step.value(0)
    if isinstance(source, Computed):
        raise step.unsupported("transposes a computed value")
    given = step.integer_list("perm")
    order = list(range(source.ndim))[::-1] if given is None else given
    if sorted(order) != list(range(source.ndim)):
        raise step.damaged(f"its perm {order} is no permutation")
    return source.transpose(order)


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
    "Add": _add,
    "Cast": _cast,
    "Clip": _clip,
    "Constant": _constant,
    "Div": _div,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": _identity,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": _neg,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Squeeze": _squeeze,
    "Sub": _sub,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

REMEDIES = {
    "Softmax": "end the network before the Softmax (its inputs, the logits, are what milpq compares)",
    "LogSoftmax": "end the network before the LogSoftmax (its inputs, the logits, are what milpq compares)",
    "BatchNormalization": "fold it into the layer before it on export",
    "QuantizeLinear": "this is a quantized graph, not a float network",
    "DequantizeLinear": "this is a quantized graph, not a float network",
}
