"""The open integer-network file: one ``.json``, with a ``.npz`` beside it for large arrays.

It states the arithmetic of an integer network completely, so that anyone can describe an accelerator of their
own.  `open_network_schema` returns its JSON Schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, ModelFileError, TargetError, UnsupportedModelError
from milpq.formats._files import PathLike, read_bytes
from milpq.formats._float_builder import MAX_WEIGHTS
from milpq.formats._open_arrays import OpenArrays
from milpq.formats._open_operators import operator_layer
from milpq.formats._open_writer import write_open_network
from milpq.network.nodes import entries
from milpq.network.quantized_model import (
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLookup,
    QuantizedModel,
    StatedRequantization,
)
from milpq.rounding.kernels import Quantization
from milpq.rounding.requantization import INT8, UINT8, CodeRange, Requantization, Requantizer
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


class _Builder(OpenArrays):
    """Turns the validated file into a QuantizedModel; `scales`, `sizes` and `codes` are those of the values so far."""

    def __init__(self, path: PathLike, file: schema.NetworkFile) -> None:
        super().__init__(path, file.arrays)
        self.file = file
        self.layers: list[QuantizedLayer] = []
        self.scales: list[Float64Array] = []
        self.codes: list[Quantization | None] = []
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
        limits = CodeRange(given.code_lower, given.code_upper)
        self.made(given.size, scale, Quantization(given.scale, given.zero_point, limits))
        for index, layer in enumerate(self.file.layers):
            where = f"layer {layer.name!r}"
            if layer.kind == "lookup":
                source = self.earlier(index if layer.source is None else layer.source, where)
                self.layers.append(self.lookup(layer, source, where))
            elif layer.kind == "linear":
                source = self.earlier(index if layer.source is None else layer.source, where)
                self.layers.append(self.linear(layer, source, where))
            else:
                self.layers.append(operator_layer(self, layer, where))
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

    def earlier(self, source: int, where: str) -> int:
        """Return the number of a value; raise InvalidNetworkError unless it is there already."""
        if source >= len(self.sizes):
            raise InvalidNetworkError(
                f"{self.path}: {where}: reads layer {source}, which does not come before"
            )
        return source

    def made(self, size: int, scale: Float64Array, codes: Quantization | None) -> None:
        """Note a value."""
        self.sizes.append(size)
        self.scales.append(scale)
        self.codes.append(codes)

    def linear(self, layer: schema.LinearLayer, source: int, where: str) -> QuantizedLinear:
        """Return a linear layer."""
        weights = self.matrix(layer.weights, f"{where}: weights")
        neurons, inputs = (int(extent) for extent in weights.shape)
        if inputs != self.sizes[source]:
            raise InvalidNetworkError(
                f"{self.path}: {where}: weights for {inputs} inputs, {self.sizes[source]} come in"
            )
        self.check_size(neurons, where)
        if layer.weight_zero_point:
            if not isinstance(weights, np.ndarray):
                raise InvalidNetworkError(f"{self.path}: {where}: sparse weights have no zero point")
            weights = weights - layer.weight_zero_point
        self.weights += entries(weights).size
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
        codes = None
        if layer.output is not None:
            given = layer.output
            result = np.full(neurons, given.scale, dtype=np.float64)
            limits = CodeRange(given.code_lower, given.code_upper)
            codes = Quantization(given.scale, given.zero_point, limits)
        self.made(neurons, result, codes)
        return QuantizedLinear(
            layer.name,
            source,
            weights,
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
                    rounding.pairs_saturate,
                    UINT8 if rounding.code_type == "uint8" else INT8,
                )
                if rounding.target is None:
                    return unsettled
                requantizer = get_target(rounding.target).requantizer(unsettled)
                statement = unsettled.statement(rounding.target)
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
        read = self.codes_of(source, where)
        lower, upper = read.range.lower, read.range.upper
        if (np.diff(table) < 0).any():
            raise InvalidNetworkError(
                f"{self.path}: {where}: its table decreases; milpq needs monotone tables"
            )
        if layer.code_lower > lower or layer.code_lower + len(table) - 1 < upper:
            raise InvalidNetworkError(
                f"{self.path}: {where}: its table does not cover the codes {lower} to {upper}"
            )
        size, given = self.sizes[source], layer.output
        limits = CodeRange(int(table[0]), int(table[-1]))
        self.made(size, np.full(size, given.scale), Quantization(given.scale, given.zero_point, limits))
        return QuantizedLookup(
            layer.name,
            source,
            table,
            layer.code_lower,
            read.zero_point,
            layer.output.scale,
            layer.output.zero_point,
        )

    def codes_of(self, source: int, where: str) -> Quantization:
        """Return the codes of a value that must not be accumulators."""
        codes = self.codes[source]
        if codes is None:
            raise InvalidNetworkError(f"{self.path}: {where}: reads codes, not accumulators")
        return codes

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


def _threshold_requantizer(thresholds: Int64Array, first_code: int, lower: int, upper: int) -> Requantizer:
    def requantize(accumulator: Int64Array) -> Int64Array:
        codes = np.empty(accumulator.shape, dtype=np.int64)
        for row, reached, result in zip(thresholds, accumulator, codes, strict=True):
            result[:] = np.searchsorted(row, reached, side="right")
        return np.clip(first_code + codes, lower, upper)

    return requantize
