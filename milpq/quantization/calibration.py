"""Calibration: the values a float network takes on sample inputs, and the ranges that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milpq.errors import InvalidNetworkError, UnsupportedModelError, UsageError
from milpq.formats._files import PathLike, read_npy, read_npz
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, FloatNode
from milpq.quantization.codes import Codes, activation_codes, curve_codes
from milpq.quantization.layers import (
    AverageLayer,
    CurveLayer,
    Layer,
    LinearLayer,
    SelectionLayer,
    SumLayer,
    keeps_codes,
    network_layers,
)
from milpq.quantization.scheme import Scheme
from milpq.rounding.kernels import power_of_two_pools
from milpq.rounding.requantization import Target

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


def calibrate(
    network: FloatNetwork, rows: Float32Array, scheme: Scheme, target: Target | None = None
) -> Calibrated:
    """Run the network on sample inputs and choose the codes of every activation.

    The values are computed in float32, as float runtimes do.  Layers that keep codes (max pools, windowed averages,
    pads, concatenations, clamps of their own) share them with what they read; sigmoid and tanh have those that their
    integer kernels fix.

    Parameters
    ----------
    rows : float32, shape (samples, inputs)
    target : Target, optional
        Some runtimes want power-of-two scales in front of a windowed average.

    Raises
    ------
    UnsupportedModelError
        A value overflows float32 on the samples, or the network has a structure that milpq does not quantize; the
        layer is named.
    InvalidNetworkError
        Values that must share their codes are to have different bits.
    """
    layers = network_layers(network)
    groups = _groups(layers)
    choosing = [number for number, layer in enumerate(layers, start=1) if not keeps_codes(layer)]
    widths = dict(zip(choosing, scheme.activation_widths(len(choosing)), strict=True)) | {
        0: scheme.input_bits
    }
    seen = _see(network, layers, rows)
    names = ["input", *(layer.name for layer in layers)]
    chosen: dict[int, Codes] = {}
    for root in sorted(set(groups)):
        members = [number for number, group in enumerate(groups) if group == root]
        bits = {widths[number] for number in members if number in widths}
        if len(bits) > 1:
            raise InvalidNetworkError(
                f"layer {names[members[-1]]!r}: joins codes of {' and '.join(map(str, sorted(bits)))} bits; give them "
                "one width"
            )
        layer = layers[root - 1] if root else None
        if isinstance(layer, CurveLayer):
            chosen[root] = curve_codes(layer.curve, bits.pop())
            continue
        ends = (layer.lower, layer.upper) if isinstance(layer, LinearLayer | SumLayer) else (-np.inf, np.inf)
        own = power_of_two_pools(target) and any(
            isinstance(reader, AverageLayer) and reader.windowed and groups[reader.sources[0]] == root
            for reader in layers
        )
        # Of layers that keep codes, only selections bring in what their sources do not hold.
        values = [n for n in members if n in widths or isinstance(layers[n - 1], SelectionLayer)]
        narrowed = replace(scheme, power_of_two=True) if own else scheme
        chosen[root] = _choose([seen[n] for n in values], bits.pop(), narrowed, names[root], ends)
    first, *rest = (chosen[group] for group in groups)
    return Calibrated(first, tuple(rest))


def _groups(layers: tuple[Layer, ...]) -> list[int]:
    """Return, for the input and each layer, the first value whose codes it shares."""
    groups = list(range(len(layers) + 1))
    for number, layer in enumerate(layers, start=1):
        if not keeps_codes(layer):
            continue
        joined = {groups[source] for source in layer.sources} | {number}
        root = min(joined)
        groups = [root if group in joined else group for group in groups]
    return groups


def _see(network: FloatNetwork, layers: tuple[Layer, ...], rows: Float32Array) -> list[_Seen]:
    """Return what the input and the results of the layers take on sample inputs."""
    sizes = network.graph.sizes
    seen = [_Seen(len(rows) * rows.shape[1]), *(_Seen(len(rows) * layer.size) for layer in layers)]
    watching: dict[int, list[_Seen]] = {0: [seen[0]]}
    for found, layer in zip(seen[1:], layers, strict=True):
        watching.setdefault(layer.value, []).append(found)
    chunk = max(1, CHUNK_VALUES // max(sizes))
    for start in range(0, len(rows), chunk):
        for value, values in _forward(network, rows[start : start + chunk]):
            for found in watching.get(value, ()):
                found.add(values)
    return seen


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


def _forward(network: FloatNetwork, rows: Float32Array) -> Iterator[tuple[int, Float32Array]]:
    """Yield every value with its index, dropping what no later node reads."""
    yield 0, rows
    values: list[Float32Array | None] = [rows]
    for index, node in enumerate(network.nodes):
        sources: list[Float32Array] = []
        for source in node.sources:
            read = values[source]
            assert read is not None
            sources.append(read)
        result = _apply(node, sources)
        yield index + 1, result
        values.append(result)
        for source in node.sources:
            if network.graph.last_use[source] == index:
                values[source] = None


def _apply(node: FloatNode, sources: list[Float32Array]) -> Float32Array:
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(node, Affine):
            result = node.bias.astype(np.float32)
            for term, values in zip(node.terms, sources, strict=True):
                result = result + np.asarray(values @ term.matrix.astype(np.float32).T, dtype=np.float32)
        elif isinstance(node, Clamp):
            result = np.clip(sources[0], np.float32(node.lower), np.float32(node.upper))
        else:
            result = node.curve.value(sources[0].astype(np.float64)).astype(np.float32)
    if not np.isfinite(result).all():
        raise UnsupportedModelError(
            f"layer {node.name!r}: its values overflow float32 on the calibration data"
        )
    return result


def _choose(seen: list[_Seen], bits: int, scheme: Scheme, name: str, ends: tuple[float, float]) -> Codes:
    """Return the codes of activations that share them; of one that is always 0, those of the ends of its clamp."""
    low, high = min(found.low for found in seen), max(found.high for found in seen)
    values = np.concatenate([found.values for found in seen]) if len(seen) > 1 else seen[0].values
    if low == high == 0.0:
        low, high = (end if np.isfinite(end) else 0.0 for end in ends)
    elif scheme.range_method == "percentile":
        low, high = (
            float(end) for end in np.percentile(values, [100.0 - scheme.percentile, scheme.percentile])
        )
    codes = activation_codes(
        low, high, bits, symmetric=scheme.symmetric_activations, power_of_two=scheme.power_of_two, name=name
    )
    if scheme.range_method != "mse":
        return codes
    return _least_squares(values, codes, low, high, scheme, name)


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
