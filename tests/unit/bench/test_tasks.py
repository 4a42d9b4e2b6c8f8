"""What suites build, against the definitions in plain integers."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from milpq.bench.suite import BallRegion, CodesRegion
from milpq.bench.tasks import build_region, fixed_point_pair, random_pair, rounded_weights
from milpq.errors import RegionError, UnsupportedModelError
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.pairing import check_pair
from milpq.rounding.targets import get_target


def _network(seed: int = 0, *, scale: float = 1.0) -> FloatNetwork:
    rng = np.random.default_rng(seed)
    first, second, third = (scale * rng.normal(size=shape) for shape in ((6, 3), (5, 6), (2, 5)))
    nodes = (
        Affine("first", (Term(0, first),), rng.normal(size=6)),
        Clamp("relu1", 1),
        Affine("second", (Term(2, second),), rng.normal(size=5)),
        Clamp("relu2", 3),
        Affine("third", (Term(4, third),), rng.normal(size=2)),
    )
    return FloatNetwork(3, nodes, 5)


def test_weights_are_rounded_to_the_grid_of_their_bits() -> None:
    network = _network()
    rounded = rounded_weights(network, 4)
    for before, after in zip(network.nodes, rounded.nodes, strict=True):
        if isinstance(before, Affine) and isinstance(after, Affine):
            assert (before.bias == after.bias).all()
            scale = np.abs(before.terms[0].matrix).max() / 7
            codes = after.terms[0].matrix / scale
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-9)
            assert np.abs(codes).max() == pytest.approx(7)
            assert (np.abs(before.terms[0].matrix - after.terms[0].matrix) <= scale / 2 + 1e-12).all()


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
    integer = fixed_point_pair(network, bits)
    codes = np.random.default_rng(1).integers(-128, 128, size=(40, 3))
    levels = integer.execute(codes)
    for row, point in zip(levels, codes.tolist(), strict=True):
        got = [Fraction(a) * Fraction(s) for a, s in zip(row.tolist(), integer.output_scale, strict=True)]
        assert got == _run_fixed_point(network, bits, point)
    assert integer.input.float_value(np.array([[-128, 255 - 128, 0]])).tolist() == [
        [-128 * (1 / 255), 127 * (1 / 255), 0.0]
    ]


def test_fixed_point_refuses_what_is_no_chain() -> None:
    network = _network()
    clamped = FloatNetwork(3, (*network.nodes[:1], Clamp("relu6", 1, 0.0, 6.0), *network.nodes[2:]), 5)
    with pytest.raises(UnsupportedModelError, match="relu6"):
        fixed_point_pair(clamped, 8)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_random_pair_is_a_pair_and_close(bits: int) -> None:
    network, model = random_pair([4, 16, 16, 2], bits, seed=3)
    check_pair(network, model)
    quantized = model.on_target(get_target("tflm"))
    region = build_region(CodesRegion(radius_codes=2**bits), quantized, __file__)
    problem = Problem.create(network, quantized, region, "codes")
    points = quantized.input.float_value(
        np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size=(500, 4))
    )
    difference, _ = problem.differences(points)
    spread = float(np.ptp(network.evaluate(points)))
    assert 0 < np.abs(difference).max() < (0.1 if bits == 8 else 1.0) * spread
    again, _ = random_pair([4, 16, 16, 2], bits, seed=3)
    assert (again.evaluate(points) == network.evaluate(points)).all()


def test_a_region_of_codes_is_clipped_to_what_the_input_holds() -> None:
    network = _network()
    integer = fixed_point_pair(network, 8)
    ball = BallRegion(center=[0.0, 0.1, 0.49], radius=0.025, codes_per_unit=256.0)
    problem = Problem.create(network, integer, build_region(ball, integer, __file__), "codes")
    assert problem.domain.root.level_lower.tolist() == [[-6, 19, 119]]
    assert problem.domain.root.level_upper.tolist() == [[6, 32, 127]]
    with pytest.raises(RegionError, match="both networks are real"):
        build_region(ball, network, __file__)
