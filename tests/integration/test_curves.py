"""Sigmoid and tanh inside real files: one bracket from every format, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from running import Milpq
from torch import nn

import milpq
from benchmarks.models.tflite_graph import Codes, GraphWriter
from milpq.errors import MilpqError

RESULTS = {"LOGISTIC": Codes(1 / 256, -128), "TANH": Codes(1 / 128, 0)}


def write_pair(folder: Path, operator: str, *, seed: int = 0) -> tuple[Path, Path, nn.Module]:
    """Write a float and an int8 `.tflite` model with a curve inside, and return them with the same as a module."""
    rng = np.random.default_rng(seed)
    read, hidden, result = Codes(1 / 64, 3), Codes(1 / 32, -5), Codes(1 / 32, 10)
    curve = RESULTS[operator]
    codes = [rng.integers(-100, 101, shape).astype(np.int8) for shape in ((4, 2), (1, 4))]
    biases = [rng.integers(-1500, 1500, 4), rng.integers(-1500, 1500, 1)]
    scale = np.array([2.0**-6], np.float32)
    integers, floats = GraphWriter((1, 2), read), GraphWriter((1, 2), None)
    value = integers.fully_connected(integers.input, codes[0], biases[0], hidden, weight_scales=scale)
    value = integers.unary(operator, value, curve)
    value = integers.fully_connected(value, codes[1], biases[1], result, weight_scales=scale)
    weights = [(matrix * scale[0]).astype(np.float32) for matrix in codes]
    offsets = [
        (bias * unit * scale[0]).astype(np.float32)
        for bias, unit in zip(biases, (read.scale, curve.scale), strict=True)
    ]
    other = floats.fully_connected(floats.input, weights[0], offsets[0], None)
    other = floats.fully_connected(floats.unary(operator, other, None, 1), weights[1], offsets[1], None)
    float_file, int8_file = folder / "float.tflite", folder / "int8.tflite"
    float_file.write_bytes(floats.finish(other))
    int8_file.write_bytes(integers.finish(value))
    module = nn.Sequential(
        nn.Linear(2, 4), nn.Sigmoid() if operator == "LOGISTIC" else nn.Tanh(), nn.Linear(4, 1)
    )
    for layer, matrix, offset in zip((module[0], module[2]), weights, offsets, strict=True):
        layer.weight.data, layer.bias.data = torch.from_numpy(matrix), torch.from_numpy(offset)
    return float_file, int8_file, module


@pytest.mark.parametrize("operator", sorted(RESULTS))
@pytest.mark.parametrize("target", ["tflm", "litert-ref"])
def test_the_bracket_is_what_brute_force_finds(operator: str, target: str, tmp_path: Path) -> None:
    float_file, int8_file, module = write_pair(tmp_path, operator)
    box = milpq.Box([-0.2, -0.1], [0.15, 0.2])
    result = milpq.bound(float_file, int8_file, box, target=target, input_domain="codes")
    assert result.status == "optimal"
    levels = np.stack(np.meshgrid(np.arange(-12, 10), np.arange(-6, 13)), axis=-1).reshape(-1, 2)
    integers = milpq.load(int8_file).on_target(milpq.rounding.targets.get_target(target))
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(levels / 64)).numpy()[:, 0]
    apart = np.abs(integers.execute(levels)[:, 0] / 32 - expected).max()
    assert result.lower - 1e-6 <= apart <= result.upper + 1e-6
    same = milpq.bound(module.float(), int8_file, box, target=target, input_domain="codes")
    twin = milpq.bound(
        float_file, int8_file, box, target=target, input_domain="codes", float_twin="dequantized"
    )
    for other in (same, twin):
        assert other.upper == pytest.approx(result.upper, rel=1e-6)


def test_continuous_inputs_close_and_programs_stay_in_order(tmp_path: Path) -> None:
    float_file, int8_file, _ = write_pair(tmp_path, "TANH", seed=3)
    box = milpq.Box([-0.06, -0.02], [0.03, 0.04])
    closed = milpq.bound(float_file, int8_file, box, target="tflm", gap=1e-3)
    assert closed.status == "optimal"
    loose = milpq.bound(float_file, int8_file, box, target="tflm", method="milp", time_limit=5)
    ends = {method.name: method.upper for method in loose.methods}
    assert closed.lower <= ends["milp"] * (1 + 1e-9)
    assert ends["milp"] <= ends["lp"] <= ends["differential"] <= ends["interval"]


def test_a_certificate_of_a_pair_with_curves_is_checked_from_its_files(milpq: Milpq, tmp_path: Path) -> None:
    float_file, int8_file, _ = write_pair(tmp_path, "LOGISTIC")
    proof, region = tmp_path / "proof.milpq", tmp_path / "region.toml"
    region.write_text("center = [0.0, 0.1]\nradius = 0.06\n")
    outcome = milpq(
        "bound",
        float_file,
        int8_file,
        "--region",
        region,
        "--target",
        "tflm",
        "--gap",
        "0.01",
        "--certificate",
        proof,
    )
    assert outcome.code == 0, outcome.err
    checked = milpq("check", proof, "--float", float_file, "--quantized", int8_file)
    assert checked.code == 0, checked.err
    assert "PROVED" in checked.out


def test_what_is_refused(tmp_path: Path) -> None:
    float_file, int8_file, _ = write_pair(tmp_path, "LOGISTIC")
    box = milpq.Box([-0.1, -0.1], [0.1, 0.1])
    with pytest.raises(MilpqError, match="float32 runtimes compute a sigmoid"):
        milpq.bound(float_file, int8_file, box, target="tflm", float_arithmetic="float32")
    with pytest.raises(MilpqError, match="explains piecewise linear"):
        milpq.explain(float_file, int8_file, box, target="tflm")
