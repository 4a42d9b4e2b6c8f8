"""Write an open integer-network file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milpq._arrays import Matrix
from milpq.errors import UnsupportedModelError
from milpq.formats._files import PathLike, beside
from milpq.formats._float_builder import MAX_WEIGHTS
from milpq.network.quantized_model import (
    QuantizedLinear,
    QuantizedLookup,
    QuantizedModel,
    StatedRequantization,
)
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
    arrays = _Arrays(inline=sum(math.prod(layer.weights.shape) for layer in linear) <= INLINE_NUMBERS)
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
    layers: list[dict[str, object]] = []
    for number, layer in enumerate(model.layers, start=1):
        if isinstance(layer, QuantizedLookup):
            layers.append(_lookup_entry(layer))
        elif isinstance(layer, QuantizedLinear):
            layers.append(_linear_entry(layer, number, arrays, model.origin))
        else:
            raise UnsupportedModelError(
                f"{model.origin}: layer {layer.name!r}: the open format states layers with weights and tables only"
            )
    file: dict[str, object] = {"schema": "milpq-network/1", "note": model.note}
    if arrays.stored:
        name = Path(path).with_suffix(".npz").name
        file["arrays"] = name
        with beside(path, name).open("wb") as stream:
            np.savez_compressed(stream, **arrays.stored)
    file |= {"input": entry, "layers": layers, "output": model.output}
    Path(path).write_text(json.dumps(file, allow_nan=False) + "\n", encoding="utf-8")


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
        "weights": arrays.put(f"weights{number}", _integers(layer.weights, layer.name, origin)),
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
        return {"target": None, "operator": stated.operator, "per_channel": stated.per_channel}
    return {
        key: arrays.put(f"{key}{number}", np.array(value, dtype=np.int64))
        if isinstance(value, list)
        else value
        for key, value in stated.statement.items()
    }


def _integers(matrix: Matrix, name: str, origin: str) -> npt.NDArray[Any]:
    if np.prod(matrix.shape) > MAX_WEIGHTS:
        raise UnsupportedModelError(f"{origin}: layer {name!r}: is too large to be written densely")
    dense = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    narrow = next((kind for kind in (np.int8, np.int16) if (dense == dense.astype(kind)).all()), np.int64)
    return dense.astype(narrow)


def _shortest(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | float:
    """Return one number where all entries are equal."""
    return float(values[0]) if (values == values[0]).all() else values
