"""What suites build, against the definitions in plain integers."""

import numpy as np
import pytest

from milpq.bench.suite import BallRegion, CodesRegion
from milpq.bench.tasks import build_region, random_pair, rounded_weights
from milpq.errors import RegionError
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.network.pairing import check_pair
from milpq.quantization import quantize_fixed_point
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


@pytest.mark.parametrize("bits", [4, 8])
def test_a_random_pair_is_a_pair_and_close(bits: int) -> None:
    network, model = random_pair([4, 16, 16, 2], bits, seed=3)
    check_pair(network, model)
    quantized = model.on_target(get_target("tflm"))
    region = build_region(CodesRegion(radius_codes=2**bits), quantized, __file__)
    problem = Problem.create(network, quantized, region, "codes")
    levels = quantized.input.level_lower, quantized.input.level_upper + 1
    points = quantized.input.float_value(np.random.default_rng(0).integers(*levels, size=(500, 4)))
    difference, _ = problem.differences(points)
    spread = float(np.ptp(network.evaluate(points)))
    assert 0 < np.abs(difference).max() < (0.1 if bits == 8 else 1.0) * spread
    again, _ = random_pair([4, 16, 16, 2], bits, seed=3)
    assert (again.evaluate(points) == network.evaluate(points)).all()


def test_a_region_of_codes_is_clipped_to_what_the_input_holds() -> None:
    network = _network()
    integer = quantize_fixed_point(network, 8).on_target(None)
    ball = BallRegion(center=[0.0, 0.1, 0.49], radius=0.025, codes_per_unit=256.0)
    problem = Problem.create(network, integer, build_region(ball, integer, __file__), "codes")
    assert problem.domain.root.level_lower.tolist() == [[-6, 19, 119]]
    assert problem.domain.root.level_upper.tolist() == [[6, 32, 127]]
    with pytest.raises(RegionError, match="both networks are real"):
        build_region(ball, network, __file__)
