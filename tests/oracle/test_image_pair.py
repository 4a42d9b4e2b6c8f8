"""The bundled convolutional pair: the runtimes, and a bracket against brute force over the runtime itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from milpq.formats import load_float, load_quantized, load_region
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.targets import get_target
from milpq.verify import bound
from tests.oracle.execution import executed
from tests.oracle.runtimes import runtime

MODELS = Path(__file__).resolve().parents[2] / "benchmarks" / "models"
FLOAT, INT8, REGION = (MODELS / f"digits_cnn{end}" for end in ("_float.tflite", "_int8.tflite", ".toml"))
TARGETS = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate")


@pytest.mark.parametrize("target", TARGETS)
def test_matches_the_runtime(target: str) -> None:
    model = load_quantized(INT8)
    assert isinstance(model, QuantizedModel)
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (10_000, 64))
    codes[::2] = np.where(rng.random((5_000, 64)) < 0.5, -128, codes[::2])
    theirs = runtime(target).run(INT8.read_bytes(), codes.astype(np.int8).reshape(-1, 8, 8, 1))
    ours = executed(model.on_target(get_target(target)), codes)
    assert ours.size >= 100_000
    assert np.count_nonzero(ours != theirs) == 0


def test_the_bracket_is_that_of_brute_force() -> None:
    """Every code of the region through LiteRT, against the float network: the bracket closes on the largest."""
    run = runtime("litert-ref").run
    result = bound(FLOAT, INT8, REGION, target="litert-ref", input_domain="codes")
    assert result.status == "optimal"
    model = load_quantized(INT8)
    assert isinstance(model, QuantizedModel)
    integer = model.on_target(get_target("litert-ref"))
    region = load_region(REGION)
    levels = np.arange(0, 256)
    readings = integer.input.float_value(levels[:, None])
    choices = [
        levels[(low <= x) & (x <= high)]
        for low, x, high in zip(region.lower, readings.T, region.upper, strict=True)
    ]
    grid = np.array(list(itertools.product(*(choice.tolist() for choice in choices))))
    assert len(grid) == 2592
    codes = run(INT8.read_bytes(), (grid - 128).astype(np.int8).reshape(-1, 8, 8, 1))
    quantized = (codes.astype(np.int64) - integer.output_zero_point) * integer.output_scale
    exact = np.abs(quantized - load_float(FLOAT).evaluate(integer.input.float_value(grid))).max()
    assert result.lower == pytest.approx(exact, rel=1e-9)
    assert exact <= result.upper * (1 + 1e-12)
    assert result.upper == pytest.approx(exact, rel=1e-3)
