"""From a region of a suite to the box of one case."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bench.places import find
from milpq.bench.suite import BallRegion, BoxRegion, CodesRegion, FileRegion
from milpq.errors import RegionError
from milpq.formats.region_files import load_region
from milpq.merge import QuantizedNetwork
from milpq.network.integer_network import IntegerInput, IntegerNetwork
from milpq.region.box import Box


def build_region(
    spec: FileRegion | BoxRegion | BallRegion | CodesRegion, quantized: QuantizedNetwork, folder: Path
) -> Box:
    """Return the box of a region whose sweeps have been settled.

    Parameters
    ----------
    quantized : IntegerNetwork or FloatNetwork
        Whose inputs, and input codes, are meant.
    folder : Path
        Of the suite.

    Raises
    ------
    RegionError
        The region does not fit the network.
    """
    if isinstance(spec, FileRegion):
        return load_region(find(spec.file, folder))
    if isinstance(spec, BoxRegion):
        return Box(spec.lower, spec.upper)
    inputs = quantized.input.size if isinstance(quantized, IntegerNetwork) else quantized.input_size
    if isinstance(spec, CodesRegion):
        return _codes(spec, _input(spec, quantized))
    assert isinstance(spec.radius, float | int)
    stated = [spec.center] * inputs if isinstance(spec.center, float | int) else spec.center
    center: Float64Array = np.array(stated, dtype=np.float64)
    lower, upper = center - spec.radius, center + spec.radius
    if spec.codes_per_unit is not None:
        integer = _input(spec, quantized)
        ends = (np.rint(end * spec.codes_per_unit).astype(np.int64) for end in (lower, upper))
        return _code_box(integer, *ends)
    if spec.clip is not None:
        low, high = spec.clip
        lower, upper = np.clip(lower, low, high), np.clip(upper, low, high)
    return Box(lower, upper)


def _input(spec: BallRegion | CodesRegion, quantized: QuantizedNetwork) -> IntegerInput:
    if not isinstance(quantized, IntegerNetwork):
        raise RegionError(f"region {spec.name!r}: is one of input codes, but both networks are real")
    return quantized.input


def _codes(spec: CodesRegion, integer: IntegerInput) -> Box:
    center: Int64Array
    if spec.center_codes == "normal":
        deviates = np.random.default_rng(spec.seed).normal(size=integer.size) * spec.spread
        center = np.rint(deviates).astype(np.int64) + integer.zero_point
    elif not isinstance(spec.center_codes, list):
        code = integer.zero_point if spec.center_codes == "zero" else int(spec.center_codes)
        center = np.full(integer.size, code, dtype=np.int64)
    else:
        center = np.array(spec.center_codes, dtype=np.int64)
        if len(center) != integer.size:
            raise RegionError(
                f"region {spec.name!r}: {len(center)} codes for a network of {integer.size} inputs"
            )
    assert isinstance(spec.radius_codes, int)
    levels = center - integer.zero_point
    return _code_box(integer, levels - spec.radius_codes, levels + spec.radius_codes)


def _code_box(integer: IntegerInput, lower: Int64Array, upper: Int64Array) -> Box:
    """Return what the float side reads for two corners of levels, clipped to those the input can hold."""
    ends: list[Float64Array] = [
        integer.float_value(np.clip(levels, integer.level_lower, integer.level_upper))
        for levels in (lower, upper)
    ]
    return Box(*ends)
