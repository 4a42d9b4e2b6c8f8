"""The open integer-network file: one ``.json``, with a ``.npz`` beside it for large arrays.

It states the arithmetic of an integer network completely, so that anyone can describe an accelerator of their
own.  `open_network_schema` returns its JSON Schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, ModelFileError, TargetError, UnsupportedModelError
from milpq.formats._files import PathLike, beside, read_bytes, read_npz, to_float64
from milpq.formats._float_builder import MAX_VALUES, MAX_WEIGHTS
from milpq.formats._open_writer import write_open_network
from milpq.network.quantized_model import (
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedModel,
    StatedRequantization,
)
from milpq.rounding.requantization import Requantization, Requantizer
from milpq.rounding.requantizers import explicit_requantizer, power_of_two_requantizer
from milpq.rounding.targets import get_target

if TYPE_CHECKING:
    from milpq.formats import _open_schema as schema

MAX_JSON_BYTES = 2**28
"""Larger JSON files are refused; arrays belong into the ``.npz``."""

MAX_STEPS = 2**26
"""Largest number of thresholds of one layer, all channels together."""


__all__ = ["open_network_schema", "read_open_network", "write_open_network"]


def open_network_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    from milpq.formats._open_schema import NetworkFile

    return NetworkFile.model_json_schema()


def read_open_network(path: PathLike) -> QuantizedModel:
    """Return the model an open integer-network file states.

    Raises
    ------
    ModelFileError
        The file is missing, not JSON, or does not follow the schema; the place is named.
    InvalidNetworkError
        Its numbers are inconsistent; the layer is named.
    UnsupportedModelError
        It is larger than milpq reads.
    """
    from pydantic import ValidationError

    from milpq.formats._open_schema import NetworkFile

    content = read_bytes(path)
    if len(content) > MAX_JSON_BYTES:
        raise UnsupportedModelError(
            f"{path}: {len(content)} bytes of JSON; put its arrays into a .npz beside it"
        )
    try:
        file = NetworkFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"{path}: {place or 'the file'}: {first['msg']}") from error
    return _Builder(path, file).model()


class _Builder:
    """Turns the validated file into a QuantizedModel; `scales` and `sizes` are those of the values so far."""

    def __init__(self, path: PathLike, file: schema.NetworkFile) -> None:
        self.path = path
        self.file = file
        self.arrays = {} if file.arrays is None else read_npz(beside(path, file.arrays))
        self.layers: list[QuantizedLayer] = []
        self.scales: list[Float64Array] = []
        self.sizes: list[int] = []
        self.weights = 0

    def model(self) -> QuantizedModel:
        """Return the model."""
        given = self.file.input
        self.check_size(given.size, "input")
        self.check_codes("input", given.code_lower, given.code_upper, given.zero_point, 1)
        scale = np.full(given.size, given.scale)
        float_scale = scale
        if given.float_scale is not None:
            float_scale = self.scale_list(given.float_scale, given.size, "input.float_scale")
        self.scales.append(scale)
        self.sizes.append(given.size)
        for index, layer in enumerate(self.file.layers):
            source = index if layer.source is None else layer.source
            where = f"layer {layer.name!r}"
            if source > index:
                raise InvalidNetworkError(
                    f"{self.path}: {where}: reads layer {source}, which does not come before"
                )
            if layer.kind == "lookup":
                self.layers.append(self.lookup(layer, source, where))
            else:
                self.layers.append(self.linear(layer, source, where))
        output = len(self.layers) if self.file.output is None else self.file.output
        if output > len(self.layers):
            raise InvalidNetworkError(f"{self.path}: output is layer {output} of {len(self.layers)}")
        return QuantizedModel(
            scale,
            given.zero_point,
            given.code_lower,
            given.code_upper,
            float_scale,
            tuple(self.layers),
            output,
            str(self.path),
            self.file.note,
            given.rounding,
        )

    def linear(self, layer: schema.LinearLayer, source: int, where: str) -> QuantizedLinear:
        """Return a linear layer."""
        weights = self.integers(layer.weights, f"{where}: weights", 2)
        neurons, inputs = len(weights), int(weights.shape[1])
        if inputs != self.sizes[source]:
            raise InvalidNetworkError(
                f"{self.path}: {where}: weights for {inputs} inputs, {self.sizes[source]} come in"
            )
        self.check_size(neurons, where)
        self.weights += weights.size
        if self.weights > MAX_WEIGHTS:
            raise UnsupportedModelError(
                f"{self.path}: {where}: the network has more than {MAX_WEIGHTS} weights"
            )
        bias = np.zeros(neurons, dtype=np.int64)
        if layer.bias is not None:
            bias = self.integers(layer.bias, f"{where}: bias", 1) << layer.bias_shift
            if len(bias) != neurons:
                raise InvalidNetworkError(f"{self.path}: {where}: {len(bias)} biases for {neurons} neurons")
        channel = self.channels(layer, neurons, where)
        count = int(channel.max()) + 1
        weight_scales = self.scale_list(layer.weight_scales, count, f"{where}: weight_scales")
        input_scale = self.input_scale(layer.input_scale, source, where)
        requantization = None
        if layer.output is not None:
            requantization = self.requantization(layer.output, input_scale, weight_scales, where)
        result: Float64Array = np.take(input_scale * weight_scales, channel)
        if layer.output is not None:
            result = np.full(neurons, layer.output.scale, dtype=np.float64)
        self.scales.append(result)
        self.sizes.append(neurons)
        return QuantizedLinear(
            layer.name,
            source,
            weights.astype(np.float64) - layer.weight_zero_point,
            bias,
            input_scale,
            weight_scales,
            channel,
            requantization,
            layer.activation,
        )

    def channels(self, layer: schema.LinearLayer, neurons: int, where: str) -> Int64Array:
        """Return the channel of each neuron: stated, or one for all where nothing is given per channel."""
        if layer.channel is None:
            per_channel: list[object] = [layer.weight_scales]
            rounding = None if layer.output is None else layer.output.rounding
            per_channel += [getattr(rounding, key, 1) for key in ("multiplier", "shift")]
            single = all(isinstance(entry, int | float) for entry in per_channel)
            single &= not hasattr(rounding, "thresholds") and not hasattr(rounding, "target")
            return np.zeros(neurons, dtype=np.int64) if single else np.arange(neurons, dtype=np.int64)
        channel = self.integers(layer.channel, f"{where}: channel", 1)
        if len(channel) != neurons or channel.min() < 0 or channel.max() >= neurons:
            raise InvalidNetworkError(
                f"{self.path}: {where}: channel must name one of {neurons} for each neuron"
            )
        return channel

    def input_scale(self, stated: float | None, source: int, where: str) -> float:
        """Return the scale of what a layer reads; one that the file states too must be the same."""
        scales = np.unique(self.scales[source])
        if len(scales) != 1:
            raise InvalidNetworkError(f"{self.path}: {where}: reads values of several scales")
        if stated is not None and stated != scales[0]:
            raise InvalidNetworkError(
                f"{self.path}: {where}: input_scale {stated!r} is not the scale of what it reads, "
                f"{float(scales[0])!r}"
            )
        return float(scales[0])

    def requantization(
        self,
        output: schema.Output,
        input_scale: float,
        weight_scales: Float64Array,
        where: str,
    ) -> Requantization | StatedRequantization:
        """Return how a layer's accumulators become codes."""
        from milpq.formats import _open_schema as kinds

        channels = len(weight_scales)
        self.check_codes(where, output.code_lower, output.code_upper, output.zero_point, channels)
        rounding = output.rounding
        limits = (output.zero_point, output.code_lower, output.code_upper)
        statement: dict[str, object]
        try:
            if isinstance(rounding, kinds.TargetRounding):
                unsettled = Requantization(
                    rounding.operator,
                    input_scale,
                    weight_scales,
                    rounding.per_channel,
                    output.scale,
                    *limits,
                )
                if rounding.target is None:
                    return unsettled
                requantizer = get_target(rounding.target).requantizer(unsettled)
                statement = rounding.model_dump()
            elif isinstance(rounding, kinds.ThresholdRounding):
                thresholds = self.thresholds(rounding, channels, where)
                requantizer = _threshold_requantizer(thresholds, rounding.first_code, *limits[1:])
                statement = {"thresholds": thresholds.tolist(), "first_code": rounding.first_code}
            else:
                shift = self.per_channel(rounding.shift, channels, f"{where}: shift")
                statement = {"shift": shift.tolist(), "rounding": rounding.rounding}
                if isinstance(rounding, kinds.MultiplierRounding):
                    multiplier = self.per_channel(rounding.multiplier, channels, f"{where}: multiplier")
                    requantizer = explicit_requantizer(multiplier, shift, rounding.rounding, *limits)
                    statement["multiplier"] = multiplier.tolist()
                else:
                    requantizer = power_of_two_requantizer(shift, rounding.rounding, *limits)
        except TargetError as error:
            raise InvalidNetworkError(f"{self.path}: {where}: {error}") from error
        return StatedRequantization(requantizer, output.scale, *limits, statement)

    def thresholds(self, rounding: schema.ThresholdRounding, channels: int, where: str) -> Int64Array:
        """Return the threshold rows, one for each channel."""
        rows = self.integers(rounding.thresholds, f"{where}: thresholds", 2)
        if len(rows) not in {1, channels}:
            raise InvalidNetworkError(
                f"{self.path}: {where}: {len(rows)} rows of thresholds for {channels} channels"
            )
        if (np.diff(rows, axis=1) < 0).any():
            raise InvalidNetworkError(f"{self.path}: {where}: thresholds must not decrease")
        return np.broadcast_to(rows, (channels, rows.shape[1]))

    def lookup(self, layer: schema.LookupLayer, source: int, where: str) -> QuantizedLookup:
        """Return a table of codes."""
        table = self.integers(layer.table, f"{where}: table", 1)
        zero_point, lower, upper = self.codes_of(source, where)
        if (np.diff(table) < 0).any():
            raise InvalidNetworkError(
                f"{self.path}: {where}: its table decreases; milpq needs monotone tables"
            )
        if layer.code_lower > lower or layer.code_lower + len(table) - 1 < upper:
            raise InvalidNetworkError(
                f"{self.path}: {where}: its table does not cover the codes {lower} to {upper}"
            )
        self.scales.append(np.full(self.sizes[source], layer.output.scale))
        self.sizes.append(self.sizes[source])
        return QuantizedLookup(
            layer.name,
            source,
            table,
            layer.code_lower,
            zero_point,
            layer.output.scale,
            layer.output.zero_point,
        )

    def codes_of(self, source: int, where: str) -> tuple[int, int, int]:
        """Return zero point, smallest and largest code of a value."""
        if source == 0:
            given = self.file.input
            return given.zero_point, given.code_lower, given.code_upper
        maker = self.layers[source - 1]
        if isinstance(maker, QuantizedLookup):
            return maker.output_zero_point, int(maker.table[0]), int(maker.table[-1])
        requantization = maker.requantization if isinstance(maker, QuantizedLinear) else None
        if requantization is None:
            raise InvalidNetworkError(f"{self.path}: {where}: a table reads codes, not accumulators")
        return requantization.output_zero_point, requantization.code_lower, requantization.code_upper

    def check_size(self, size: int, where: str) -> None:
        """Raise UnsupportedModelError if a value is larger than milpq handles."""
        if not 0 < size <= MAX_VALUES:
            raise UnsupportedModelError(f"{self.path}: {where}: {size} values; milpq reads 1 to {MAX_VALUES}")

    def check_codes(self, where: str, lower: int, upper: int, zero_point: int, channels: int) -> None:
        """Raise unless the code limits leave a code, fit int32, and are not too many."""
        if not lower < upper:
            raise InvalidNetworkError(
                f"{self.path}: {where}: code_lower {lower} is not below code_upper {upper}"
            )
        if max(abs(lower), abs(upper), abs(zero_point)) >= 2**31:
            raise InvalidNetworkError(f"{self.path}: {where}: codes must fit int32")
        if (upper - lower) * channels > MAX_STEPS:
            raise UnsupportedModelError(
                f"{self.path}: {where}: {upper - lower + 1} codes for {channels} channels; "
                f"milpq reads {MAX_STEPS} steps a layer"
            )

    def per_channel(self, given: schema.Integers, channels: int, where: str) -> Int64Array:
        """Return one integer for each channel."""
        values = self.integers([given] if isinstance(given, int) else given, where, 1)
        if isinstance(given, int):
            return np.full(channels, values[0])
        if len(values) != channels:
            raise InvalidNetworkError(f"{self.path}: {where}: {len(values)} entries for {channels} channels")
        return values

    def integers(self, given: list[Any] | schema.ArrayReference, where: str, dimensions: int) -> Int64Array:
        """Return a nonempty list, list of lists, or array of the ``.npz``, as integers."""
        if isinstance(given, list):
            try:
                array: npt.NDArray[Any] = np.array(given, dtype=np.int64)
            except (ValueError, OverflowError) as error:
                raise InvalidNetworkError(f"{self.path}: {where}: is no array of int64 ({error})") from error
        else:
            array = self.array(given, where)
            if array.dtype.kind not in "iu":
                raise InvalidNetworkError(f"{self.path}: {where}: array {given.array!r} holds {array.dtype}")
        if array.ndim != dimensions or not array.size:
            raise InvalidNetworkError(
                f"{self.path}: {where}: has shape {array.shape}, not {dimensions} dimensions"
            )
        if (np.abs(array.astype(np.float64)) >= 2.0**31).any():
            raise InvalidNetworkError(f"{self.path}: {where}: an entry does not fit int32")
        return array.astype(np.int64)

    def scale_list(self, given: schema.Scales, count: int, where: str) -> Float64Array:
        """Return one positive scale for each of `count` entries."""
        if isinstance(given, float | int):
            return np.full(count, float(given))
        array = np.array(given) if isinstance(given, list) else self.array(given, where)
        if array.dtype.kind not in "fiu" or array.shape != (count,):
            raise InvalidNetworkError(f"{self.path}: {where}: has shape {array.shape}, not ({count},)")
        scales = to_float64(array)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise InvalidNetworkError(f"{self.path}: {where}: a scale is not positive and finite")
        return scales

    def array(self, reference: schema.ArrayReference, where: str) -> npt.NDArray[Any]:
        """Return an array of the ``.npz``."""
        if reference.array not in self.arrays:
            there = self.file.arrays or "the file, which names no .npz"
            raise ModelFileError(f"{self.path}: {where}: no array {reference.array!r} in {there}")
        return self.arrays[reference.array]


def _threshold_requantizer(thresholds: Int64Array, first_code: int, lower: int, upper: int) -> Requantizer:
    def requantize(accumulator: Int64Array) -> Int64Array:
        codes = np.empty(accumulator.shape, dtype=np.int64)
        for row, reached, result in zip(thresholds, accumulator, codes, strict=True):
            result[:] = np.searchsorted(row, reached, side="right")
        return np.clip(first_code + codes, lower, upper)

    return requantize
