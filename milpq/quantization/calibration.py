"""Calibration: the values a float network takes on sample inputs, and the ranges that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milpq.errors import UnsupportedModelError, UsageError
from milpq.formats._files import PathLike, read_npy, read_npz
from milpq.quantization.codes import Codes, activation_codes
from milpq.quantization.layers import LinearLayer
from milpq.quantization.scheme import Scheme

Float32Array = npt.NDArray[np.float32]

CHUNK_VALUES = 2**25
"""Samples are run in parts, so that a layer has about so many values at once."""

KEPT_VALUES = 2**22
"""Most values of an activation kept for percentiles and squared errors."""

MSE_SAMPLE = 2**16
"""Most values of an activation that the mean squared error is taken over."""

MSE_SHARES = 40
"""How many shares of the whole range, down to a twentieth of it, are compared for one end."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """The codes of the input and of what each layer gives.

    Parameters
    ----------
    input : Codes
    layers : tuple of Codes
        Of the results of the layers, in order.
    """

    input: Codes
    layers: tuple[Codes, ...]


def load_calibration(path: PathLike) -> npt.NDArray[Any]:
    """Return the array of a ``.npy`` file, or that of a ``.npz`` with one array or one named ``inputs``.

    Raises
    ------
    UsageError
        The file is missing, damaged, of another kind, or holds several arrays.
    """
    ending = Path(path).suffix.lower()
    if ending == ".npy":
        return read_npy(path, UsageError)
    if ending != ".npz":
        raise UsageError(f"{path}: calibration data end in .npy or .npz, not {ending!r}")
    arrays = read_npz(path, UsageError)
    if "inputs" in arrays:
        return arrays["inputs"]
    if len(arrays) != 1:
        names = ", ".join(map(repr, sorted(arrays))) or "none"
        raise UsageError(f"{path}: holds the arrays {names}; name the one to use 'inputs'")
    return next(iter(arrays.values()))


def check_calibration(data: npt.ArrayLike, inputs: int, where: str) -> Float32Array:
    """Return calibration data in float32, shape (samples, inputs).

    Raises
    ------
    UsageError
        They are no numbers, empty, of another shape, or not finite in float32.
    """
    given = np.asarray(data)
    if given.dtype.kind not in "iufb":
        raise UsageError(f"{where}: holds {given.dtype}, not numbers")
    size = int(np.prod(given.shape[1:])) if given.ndim else 0
    if given.ndim < 1 or (given.ndim > 1 and size != inputs) or (given.ndim == 1 and inputs != 1):
        raise UsageError(
            f"{where}: has shape {given.shape}, but the network reads {inputs} values: give (samples, {inputs})"
        )
    if not given.size:
        raise UsageError(f"{where}: holds no samples")
    with np.errstate(over="ignore", invalid="ignore"):
        rows = given.reshape(len(given), inputs).astype(np.float32)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        sample, position = (int(index) for index in bad[0])
        raise UsageError(
            f"{where}: sample {sample}, input {position} is {given.reshape(len(given), inputs)[sample, position]}, "
            "not a finite float32"
        )
    return rows


def calibrate(layers: tuple[LinearLayer, ...], rows: Float32Array, scheme: Scheme) -> Calibrated:
    """Run the layers on sample inputs and choose the codes of every activation.

    The values are computed in float32, as float runtimes do.

    Parameters
    ----------
    rows : float32, shape (samples, inputs)

    Raises
    ------
    UnsupportedModelError
        A value overflows float32 on the samples; the layer is named.
    """
    widths = scheme.activation_widths(len(layers))
    sizes = [rows.shape[1], *(len(layer.bias) for layer in layers)]
    seen = [_Seen(len(rows) * size) for size in sizes]
    chunk = max(1, CHUNK_VALUES // max(sizes))
    for start in range(0, len(rows), chunk):
        for found, values in zip(seen, _forward(layers, rows[start : start + chunk]), strict=True):
            found.add(values)
    ends = [(-np.inf, np.inf), *((layer.lower, layer.upper) for layer in layers)]
    names = ["input", *(layer.name for layer in layers)]
    first, *rest = (
        _choose(found, bits, scheme, name, end)
        for found, bits, name, end in zip(seen, (scheme.input_bits, *widths), names, ends, strict=True)
    )
    return Calibrated(first, tuple(rest))


class _Seen:
    """What an activation has been seen to take: its exact ends, and so many of its values, evenly picked."""

    def __init__(self, total: int) -> None:
        self.low, self.high = np.inf, -np.inf
        self._stride = -(-total // KEPT_VALUES)
        self._kept: list[Float32Array] = []

    def add(self, values: Float32Array) -> None:
        """Take in the values of some samples."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self._kept.append(values.ravel()[:: self._stride].copy())

    @property
    def values(self) -> Float32Array:
        """The values kept."""
        return np.concatenate(self._kept)


def _forward(layers: tuple[LinearLayer, ...], rows: Float32Array) -> Iterator[Float32Array]:
    """Yield the inputs and what each layer makes of them, dropping what no later layer reads."""
    yield rows
    values: list[Float32Array | None] = [rows]
    last_use = {layer.source: index for index, layer in enumerate(layers)}
    for index, layer in enumerate(layers):
        source = values[layer.source]
        assert source is not None
        result = _apply(layer, source)
        yield result
        values.append(result)
        for value, last in last_use.items():
            if last == index:
                values[value] = None


def _apply(layer: LinearLayer, values: Float32Array) -> Float32Array:
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = layer.matrix.astype(np.float32)
        result = np.asarray(values @ matrix.T, dtype=np.float32) + layer.bias.astype(np.float32)
        if np.isfinite(layer.lower) or np.isfinite(layer.upper):
            result = np.clip(result, np.float32(layer.lower), np.float32(layer.upper))
    if not np.isfinite(result).all():
        raise UnsupportedModelError(
            f"layer {layer.name!r}: its values overflow float32 on the calibration data"
        )
    return result


def _choose(seen: _Seen, bits: int, scheme: Scheme, name: str, ends: tuple[float, float]) -> Codes:
    """Return the codes of an activation; of one that is always 0, those of the ends of its clamp."""
    low, high = seen.low, seen.high
    if low == high == 0.0:
        low, high = (end if np.isfinite(end) else 0.0 for end in ends)
    elif scheme.range_method == "percentile":
        low, high = (
            float(end) for end in np.percentile(seen.values, [100.0 - scheme.percentile, scheme.percentile])
        )
    codes = activation_codes(
        low, high, bits, symmetric=scheme.symmetric_activations, power_of_two=scheme.power_of_two, name=name
    )
    if scheme.range_method != "mse":
        return codes
    return _least_squares(seen.values, codes, low, high, scheme, name)


def _least_squares(
    values: Float32Array, whole: Codes, low: float, high: float, scheme: Scheme, name: str
) -> Codes:
    """Return the codes with the least mean squared error that a descent over shrunk ranges finds.

    Both ends are drawn in together first, then each alone, because an outlier has one sign.
    """
    sample = values[:: -(-values.size // MSE_SAMPLE)].astype(np.float64)
    best, least, at = whole, whole.squared_error(sample), (1.0, 1.0)
    for moved in ("both", "high", "low", "high", "low"):
        kept = at
        for share in np.linspace(1.0, 0.05, MSE_SHARES):
            tried = (kept[0] if moved == "high" else share, kept[1] if moved == "low" else share)
            codes = activation_codes(
                tried[0] * low,
                tried[1] * high,
                whole.bits,
                symmetric=scheme.symmetric_activations,
                power_of_two=scheme.power_of_two,
                name=name,
            )
            error = codes.squared_error(sample)
            if error < least:
                best, least, at = codes, error, tried
    return best
