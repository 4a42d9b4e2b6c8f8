"""The registry of targets, its errors, and what only some targets refuse."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest

from milpq.errors import AccumulatorOverflowError, TargetError
from milpq.rounding.input_quantizer import RULES
from milpq.rounding.requantization import FloatBias, Requantization
from milpq.rounding.step import StepFunction
from milpq.rounding.targets import TargetFamily, get_target, list_targets, registry, target_options
from milpq.rounding.targets.tflm import TflmTarget


def layer(
    input_scale: float = 0.5, weight_scale: float = 0.25, output_scale: float = 1.0, channels: int = 2
) -> Requantization:
    scales = np.full(channels, np.float32(weight_scale), dtype=np.float64)
    bias = FloatBias(np.zeros(channels), np.zeros(channels, dtype=np.int64))
    return Requantization(
        "fully_connected", input_scale, scales, False, output_scale, 3, -128, 127, float_bias=bias
    )


def test_every_listed_target_is_found_by_its_name() -> None:
    for target in list_targets():
        assert get_target(target.name) == target
        assert target.summary
        assert target.input_rounding in RULES
        assert target.requantizer(layer())(np.array([[800], [-800]])).tolist() == [[103], [-97]]


def test_options_are_part_of_the_name() -> None:
    assert get_target("tflm:multiplier=float32").name == "tflm:multiplier=float32"
    assert get_target("tflm:multiplier=float64").name == "tflm"
    assert get_target("pow2-floor:input=floor-div").input_rounding == "floor-div"
    assert target_options("tflm") == {"multiplier": ("float64", "float32")}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tensorrt", "known targets: tflm, litert-ref"),
        ("", "known targets"),
        ("tflm:", "its options: multiplier"),
        ("tflm:multiplier", "its options: multiplier"),
        ("tflm:rounding=single", "its options: multiplier"),
        ("tflm:multiplier=float16", "float64, float32"),
        ("tflm:multiplier=float32,multiplier=float32", "twice"),
        ("ort:x=1", "its options: vnni"),
    ],
)
def test_unknown_ids_name_what_there_is(name: str, part: str) -> None:
    with pytest.raises(TargetError, match=part):
        get_target(name)


def test_third_parties_register_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", f"{__name__}:MINE", registry.ENTRY_POINT_GROUP)
    broken = EntryPoint("broken", f"{__name__}:layer", registry.ENTRY_POINT_GROUP)
    loaded = {"mine": TargetFamily("mine", lambda _: TflmTarget()), "broken": layer}

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        assert group == "milpq.targets"
        return [found for found in (entry, broken) if name in (None, found.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: loaded[self.name])
    assert get_target("mine") == TflmTarget()
    with pytest.raises(TargetError, match="not a TargetFamily"):
        get_target("broken")
    with pytest.raises(TargetError, match="broken, mine"):
        get_target("other")


def test_power_of_two_targets_need_a_power_of_two() -> None:
    with pytest.raises(TargetError, match=r"channel 0 .* not a power of two"):
        get_target("pow2-floor").requantizer(layer(weight_scale=0.3))
    # Neither scale is a power of two, their ratio is.
    scale = float(np.float32(0.3))
    requantize = get_target("pow2-floor").requantizer(layer(scale, 0.25, scale))
    assert requantize(np.array([[7], [-7]])).tolist() == [[4], [1]]


def test_power_of_two_roundings_on_a_tie() -> None:
    accumulators = np.array([[-12, -4, 4, 12]])
    found = {
        name: get_target(f"pow2-{name}").requantizer(layer(channels=1))(accumulators)[0].tolist()
        for name in ("half-up", "floor", "half-even")
    }
    assert found == {"half-up": [2, 3, 4, 5], "floor": [1, 2, 3, 4], "half-even": [1, 3, 3, 5]}


def test_xnnpack_refuses_large_factors() -> None:
    get_target("litert-xnnpack").requantizer(layer(255.0, 1.0, 1.0))
    with pytest.raises(TargetError, match="256"):
        get_target("litert-xnnpack").requantizer(layer(256.0, 1.0, 1.0))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 0.1])
def test_scales_must_be_positive_float32(scale: float) -> None:
    for target in list_targets():
        with pytest.raises(TargetError, match="scale"):
            target.requantizer(layer(input_scale=scale))


def test_wrapping_is_refused_however_narrow_the_thresholds() -> None:
    """Bisection alone would never ask the far ends, where the left shift wraps."""
    requantize = get_target("tflm").requantizer(layer(8.0, 1.0, 1.0, channels=1))
    small, large = np.array([-1000]), np.array([2**29])
    StepFunction.from_function(requantize, small, -small, -128, 127)
    with pytest.raises(AccumulatorOverflowError):
        StepFunction.from_function(requantize, small, large, -128, 127)


def test_tosa_defines_fewer_accumulators_than_cmsis() -> None:
    accumulator = np.array([[2**30 - 1]])
    doubled = layer(2.0, 0.5, 1.0, channels=1)
    assert get_target("cmsis-single").requantizer(doubled)(accumulator)[0, 0] == 127
    with pytest.raises(AccumulatorOverflowError, match="TOSA"):
        get_target("tosa-single").requantizer(doubled)(accumulator)
