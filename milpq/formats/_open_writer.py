"""Write an open integer-network file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.errors import UnsupportedModelError
from milpq.formats._files import PathLike, beside
from milpq.formats._float_builder import MAX_WEIGHTS
from milpq.network.nodes import entries
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedMaximum,
    QuantizedModel,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
    StatedKernel,
    StatedRequantization,
)
from milpq.rounding.kernels import Quantization
from milpq.rounding.requantization import Requantization

INLINE_NUMBERS = 4096
"""Networks with more weights are written with their arrays in a ``.npz``."""


def write_open_network(model: QuantizedModel, path: PathLike) -> None:
    """Write a model as an open integer-network file; large arrays go into a ``.npz`` of the same name.

    Raises
    ------
    UnsupportedModelError
        The format cannot state the model.
    """
    if len(np.unique(model.input_scale)) != 1:
        raise UnsupportedModelError(
            f"{model.origin}: its inputs have several scales, which no file can state"
        )
    linear = [layer for layer in model.layers if isinstance(layer, QuantizedLinear)]
    arrays = _Arrays(inline=sum(entries(layer.weights).size for layer in linear) <= INLINE_NUMBERS)
    entry: dict[str, object] = {
        "size": len(model.input_scale),
        "scale": float(model.input_scale[0]),
        "zero_point": model.input_zero_point,
        "code_lower": model.input_code_lower,
        "code_upper": model.input_code_upper,
    }
    if (model.float_scale != model.input_scale).any():
        entry["float_scale"] = arrays.put("float_scale", _shortest(model.float_scale))
    if model.input_rounding is not None:
        entry["rounding"] = model.input_rounding
    layers = [
        _layer_entry(layer, number, arrays, model) for number, layer in enumerate(model.layers, start=1)
    ]
    file: dict[str, object] = {"schema": "milpq-network/1", "note": model.note}
    if arrays.stored:
        name = Path(path).with_suffix(".npz").name
        file["arrays"] = name
        with beside(path, name).open("wb") as stream:
            np.savez_compressed(stream, **arrays.stored)
    file |= {"input": entry, "layers": layers, "output": model.output}
    Path(path).write_text(json.dumps(file, allow_nan=False) + "\n", encoding="utf-8")


def _layer_entry(
    layer: QuantizedLayer, number: int, arrays: _Arrays, model: QuantizedModel
) -> dict[str, object]:
    if isinstance(layer, QuantizedLookup):
        return _lookup_entry(layer)
    if isinstance(layer, QuantizedLinear):
        return _linear_entry(layer, number, arrays, model.origin)
    if isinstance(layer, QuantizedSum):
        kernel = layer.kernel
        return {
            "kind": "sum",
            "name": layer.name,
            "first": _operand(layer.first, kernel.first),
            "second": _operand(layer.second, kernel.second),
            "activation": kernel.activation,
            "output": _codes(kernel.result),
            "rounding": _kernel_entry(layer.stated, number, arrays, as_unsigned=kernel.as_unsigned),
        }
    if isinstance(layer, QuantizedAverage):
        kernel = layer.kernel
        return {
            "kind": "average",
            "name": layer.name,
            "operand": _operand(layer.source, kernel.source),
            "candidates": arrays.put(f"candidates{number}", layer.candidates),
            "operator": kernel.kind,
            "spatial_keep": kernel.spatial_keep,
            "activation": kernel.activation,
            "output": _codes(kernel.result),
            "rounding": _kernel_entry(layer.stated, number, arrays, as_unsigned=kernel.as_unsigned),
        }
    if isinstance(layer, QuantizedMaximum):
        return {
            "kind": "maximum",
            "name": layer.name,
            "operand": _operand(layer.source, layer.quantization),
            "candidates": arrays.put(f"candidates{number}", layer.candidates),
            "activation": layer.activation,
        }
    if isinstance(layer, QuantizedSelection):
        return {
            "kind": "selection",
            "name": layer.name,
            "operands": [_operand(source, layer.quantization) for source in layer.sources],
            "chosen": arrays.put(f"chosen{number}", np.stack(layer.chosen)),
            "constant": arrays.put(f"constant{number}", layer.constant),
        }
    if isinstance(layer, QuantizedUnary):
        stated = None if layer.stated is None else layer.stated.statement["target"]
        return {
            "kind": "function",
            "name": layer.name,
            "operand": _operand(layer.source, layer.kernel.source),
            "operator": layer.kernel.kind,
            "output": _codes(layer.kernel.result),
            "target": stated,
        }
    raise UnsupportedModelError(
        f"{model.origin}: layer {layer.name!r}: adds a constant, which the open format does not state; fold it into "
        "the bias of a layer"
    )


def _operand(source: int, quantization: Quantization) -> dict[str, object]:
    limits = quantization.range
    return {"source": source, "code_lower": limits.lower, "code_upper": limits.upper}


def _codes(quantization: Quantization) -> dict[str, object]:
    limits = quantization.range
    return {
        "scale": float(quantization.scale),
        "zero_point": quantization.zero_point,
        "code_lower": limits.lower,
        "code_upper": limits.upper,
    }


def _kernel_entry(
    stated: StatedKernel | None, number: int, arrays: _Arrays, *, as_unsigned: bool
) -> dict[str, object]:
    if stated is None or "target" in stated.statement:
        target = None if stated is None else stated.statement["target"]
        return {"target": target, "as_unsigned": as_unsigned}
    return _arrays_of(stated.statement, number, arrays)


class _Arrays:
    """The arrays that go into the ``.npz``."""

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline
        self.stored: dict[str, Any] = {}

    def put(self, key: str, array: npt.NDArray[Any] | float) -> object:
        """Return what the JSON file says for an array: itself, or a reference to the ``.npz``."""
        if not isinstance(array, np.ndarray):
            return array
        if self._inline or array.size <= 1:
            return array.tolist()
        self.stored[key] = array
        return {"array": key}


def _lookup_entry(layer: QuantizedLookup) -> dict[str, object]:
    return {
        "kind": "lookup",
        "name": layer.name,
        "source": layer.source,
        "table": layer.table.tolist(),
        "code_lower": layer.input_code_lower,
        "output": {"scale": float(layer.output_scale), "zero_point": layer.output_zero_point},
    }


def _linear_entry(layer: QuantizedLinear, number: int, arrays: _Arrays, origin: str) -> dict[str, object]:
    neurons = len(layer.bias)
    one_channel = len(layer.weight_scales) == 1
    entry: dict[str, object] = {
        "name": layer.name,
        "source": layer.source,
        "weights": _weights(layer, number, arrays, origin),
        "weight_scales": float(layer.weight_scales[0])
        if one_channel
        else arrays.put(f"weight_scales{number}", layer.weight_scales),
        "bias": arrays.put(f"bias{number}", layer.bias),
        "input_scale": float(layer.input_scale),
        "activation": layer.activation,
    }
    if (layer.channel != (0 if one_channel else np.arange(neurons))).any() or one_channel:
        entry["channel"] = arrays.put(f"channel{number}", layer.channel)
    stated = layer.requantization
    if stated is not None:
        entry["output"] = {
            "scale": float(stated.output_scale),
            "zero_point": stated.output_zero_point,
            "code_lower": stated.code_lower,
            "code_upper": stated.code_upper,
            "rounding": _rounding_entry(stated, number, arrays),
        }
    return entry


def _rounding_entry(
    stated: Requantization | StatedRequantization, number: int, arrays: _Arrays
) -> dict[str, object]:
    if isinstance(stated, Requantization):
        return stated.statement(None)
    return _arrays_of(stated.statement, number, arrays)


def _arrays_of(statement: dict[str, object], number: int, arrays: _Arrays) -> dict[str, object]:
    return {
        key: arrays.put(f"{key}{number}", np.array(value, dtype=np.int64))
        if isinstance(value, list)
        else value
        for key, value in statement.items()
    }


def _weights(layer: QuantizedLinear, number: int, arrays: _Arrays, origin: str) -> object:
    matrix = layer.weights
    if isinstance(matrix, np.ndarray):
        return arrays.put(f"weights{number}", _integers(matrix, layer.name, origin))
    placed = matrix.tocoo()
    return {
        "shape": list(matrix.shape),
        "rows": arrays.put(f"rows{number}", placed.row.astype(np.int32)),
        "columns": arrays.put(f"columns{number}", placed.col.astype(np.int32)),
        "values": arrays.put(f"values{number}", _integers(placed.data, layer.name, origin)),
    }


def _integers(numbers: Float64Array, name: str, origin: str) -> npt.NDArray[Any]:
    if numbers.size > MAX_WEIGHTS:
        raise UnsupportedModelError(f"{origin}: layer {name!r}: has more weights than milpq reads")
    narrow = next((kind for kind in (np.int8, np.int16) if (numbers == numbers.astype(kind)).all()), np.int64)
    return numbers.astype(narrow)


def _shortest(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | float:
    """Return one number where all entries are equal."""
    return float(values[0]) if (values == values[0]).all() else values
