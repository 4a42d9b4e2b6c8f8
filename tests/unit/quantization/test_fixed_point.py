"""Fixed point against its definition in Python's integers."""

from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path

import numpy as np
import pytest

import milpq
from milpq.errors import UnsupportedModelError, UsageError
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel
from milpq.quantization import quantize_fixed_point


def _network(
    seed: int = 0, *, scale: float = 1.0, clamp: tuple[float, float] = (0.0, np.inf)
) -> FloatNetwork:
    rng = np.random.default_rng(seed)
    nodes: list[Affine | Clamp] = []
    for inputs, outputs in pairwise([3, 6, 5, 2]):
        weights = scale * rng.normal(size=(outputs, inputs))
        nodes.append(
            Affine(f"linear{len(nodes) // 2}", (Term(len(nodes), weights),), rng.normal(size=outputs))
        )
        if outputs > 2:
            nodes.append(Clamp("clamp", len(nodes), *clamp))
    return FloatNetwork(3, tuple(nodes), len(nodes))


def _half_away(value: Fraction) -> int:
    return floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def _fixed(value: float, bits: int) -> int:
    rounded = _half_away(Fraction(value) * 2 ** (bits - 2))
    return min(max(rounded, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def _run_fixed_point(network: FloatNetwork, bits: int, codes: list[int]) -> list[Fraction]:
    """Execute the definition of the fixed-point task in Python's integers."""
    values, fraction = codes, 8
    affine = [node for node in network.nodes if isinstance(node, Affine)]
    for index, node in enumerate(affine):
        weights = [[_fixed(w, bits) for w in row] for row in node.terms[0].matrix.tolist()]
        bias = [_fixed(b, bits) << fraction for b in node.bias.tolist()]
        sums = [
            sum(w * x for w, x in zip(row, values, strict=True)) + b
            for row, b in zip(weights, bias, strict=True)
        ]
        if index == len(affine) - 1:
            return [Fraction(acc, 2 ** (fraction + bits - 2)) for acc in sums]
        values = [
            min(max(floor(Fraction(acc, 2**fraction) + Fraction(1, 2)), 0), 2**bits - 1) for acc in sums
        ]
        fraction = bits - 2
    raise AssertionError


@pytest.mark.parametrize("bits", [4, 6, 8, 10])
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_fixed_point_is_its_definition(bits: int, scale: float) -> None:
    network = _network(bits, scale=scale)
    integer = quantize_fixed_point(network, bits).on_target(None)
    codes = np.random.default_rng(1).integers(-128, 128, size=(40, 3))
    levels = integer.execute(codes)
    for row, point in zip(levels, codes.tolist(), strict=True):
        got = [Fraction(a) * Fraction(s) for a, s in zip(row.tolist(), integer.output_scale, strict=True)]
        assert got == _run_fixed_point(network, bits, point)
    assert integer.input.float_value(np.array([[-128, 255 - 128, 0]])).tolist() == [
        [-128 * (1 / 255), 127 * (1 / 255), 0.0]
    ]


def test_fixed_point_by_hand() -> None:
    nodes = (
        Affine("hidden", (Term(0, np.array([[0.26, -3.0], [1.0, 0.5]])),), np.array([0.12, -0.125])),
        Clamp("relu", 1),
        Affine("output", (Term(2, np.array([[0.5, -1.0]])),), np.array([1.9])),
    )
    network = FloatNetwork(2, nodes, 3)
    model = quantize_fixed_point(network, 6)
    hidden, output = model.layers
    assert isinstance(hidden, QuantizedLinear) and isinstance(output, QuantizedLinear)
    assert np.asarray(hidden.weights).tolist() == [[4, -32], [16, 8]]
    assert hidden.bias.tolist() == [2 << 8, -2 << 8]
    assert output.bias.tolist() == [30 << 4]
    integer = model.on_target(None)
    codes = np.random.default_rng(0).integers(-128, 128, (1000, 2))
    accumulators = codes @ np.array([[4, -32], [16, 8]]).T + np.array([512, -512])
    middle = np.clip(np.floor(accumulators / 2**8 + 0.5), 0, 63)
    np.testing.assert_array_equal(integer.execute_codes(codes)[:, 0], middle @ [8, -16] + 480)
    assert integer.output_scale.tolist() == [2.0**-8]
    assert integer.input.float_value(np.array([[255.0]]))[0, 0] == pytest.approx(1.0)
    assert integer.input.scale.tolist() == [2.0**-8] * 2
    result = milpq.bound(network, integer, milpq.Box([0.0, 0.0], [0.2, 0.2]), input_domain="codes")
    assert result.status == "optimal"


def test_fixed_point_files_and_refusals(tmp_path: Path) -> None:
    network = _network()
    model = quantize_fixed_point(network, 10)
    milpq.save(model, tmp_path / "fixed.json")
    read = milpq.load(tmp_path / "fixed.json")
    assert isinstance(read, QuantizedModel)
    codes = np.random.default_rng(0).integers(-128, 128, (300, 3))
    np.testing.assert_array_equal(
        model.on_target(None).execute_codes(codes), read.on_target(None).execute_codes(codes)
    )
    assert read.float_scale[0] == 1 / 255
    for bits in (2, 17):
        with pytest.raises(UsageError):
            quantize_fixed_point(network, bits)
    with pytest.raises(UnsupportedModelError, match=r"'linear0': has no ReLU"):
        quantize_fixed_point(_network(clamp=(0.0, 6.0)), 8)
