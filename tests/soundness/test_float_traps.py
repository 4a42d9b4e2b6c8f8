"""Networks made to be misjudged by float64: bounds must hold against exact fractions.

References: Zombori et al., *Fooling a Complete Neural Network Verifier*, ICLR 2021.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from milpq.bounds import differential, interval, symbolic, zonotope
from milpq.merge import Cubes, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.region.box import Box

METHODS = (interval, symbolic, differential, zonotope)
HUGE, TINY = 1e17, 1e-17


def chain(*layers: tuple[list, list], clamp: tuple[float, float] = (0.0, np.inf)) -> FloatNetwork:
    """Return an MLP from weights and biases."""
    nodes: list[Affine | Clamp] = []
    for index, (weights, bias) in enumerate(layers):
        nodes.append(Affine(f"linear{index}", (Term(len(nodes), np.array(weights)),), np.array(bias)))
        if index < len(layers) - 1:
            nodes.append(Clamp(f"clamp{index}", len(nodes), *clamp))
    return FloatNetwork(len(layers[0][0][0]), tuple(nodes), len(nodes))


def prefix(network: FloatNetwork, value: int) -> FloatNetwork:
    """Return the network that ends at one of its values."""
    return FloatNetwork(network.input_size, network.nodes[:value], value)


def assert_holds(first: FloatNetwork, second: FloatNetwork, box: Box, points: np.ndarray) -> list:
    problem = Problem.create(first, second, box)
    middle = np.clip(0.5 * box.lower + 0.5 * box.upper, box.lower, box.upper)
    domain = problem.domain
    cubes = Cubes.concatenate([domain.root, domain.cubes_of_boxes(box.lower[None], middle[None])])
    found = [method(problem, cubes) for method in METHODS]
    found.append(found[0].intersect(found[1]).intersect(found[2]))
    # A chain merges node by node.
    sides = [
        [prefix(network, value) for value in range(len(network.nodes) + 1)] for network in (first, second)
    ]
    for x in points:
        inside = (x >= cubes.lower).all(axis=1) & (x <= cubes.upper).all(axis=1)
        assert inside[0]
        for value, pair in enumerate(zip(*sides, strict=True)):
            a, v = (network.evaluate_exact(x) for network in pair)
            exact = (a, v, [q - p for p, q in zip(a, v, strict=True)])
            for bounds in found:
                faces = bounds.values[value]
                for face, side in zip(
                    exact, (faces.float_side, faces.quantized_side, faces.difference), strict=True
                ):
                    for cube in np.flatnonzero(inside):
                        for neuron, number in enumerate(face):
                            assert (
                                Fraction(side.lower[cube, neuron])
                                <= number
                                <= Fraction(side.upper[cube, neuron])
                            )
    return found


def unit_points(rng: np.random.Generator, box: Box, count: int) -> np.ndarray:
    shape = count, box.size
    points = np.clip(
        rng.uniform(0, 1, size=shape) * (box.upper - box.lower) + box.lower, box.lower, box.upper
    )
    ends = rng.integers(0, 2, size=shape).astype(bool)
    points[::2] = np.where(ends, box.lower, box.upper)[::2]
    return points


def test_a_sum_that_float64_absorbs():
    # In exact arithmetic relu(1e17 + x) − relu(1e17) = x; in float64 it is 0.
    steps = ([[1.0], [0.0]], [HUGE, HUGE]), ([[1.0, -1.0]], [0.0])
    constant = ([[0.0], [0.0]], [HUGE, HUGE]), ([[1.0, -1.0]], [0.0])
    box = Box([0.0], [1.0])
    found = assert_holds(chain(*steps), chain(*constant), box, np.array([[0.0], [0.5], [1.0], [0.3]]))
    assert found[-1].difference.lower[0, 0] <= -1


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5, 1.0])
def test_a_backdoor_behind_huge_and_tiny_weights(shift):
    # Two neurons carry the same number through 1e17 and 1e-17, and the last layer subtracts them again.
    def network(last: float) -> FloatNetwork:
        return chain(
            ([[HUGE, 1.0], [TINY, 0.0]], [shift, 0.0]),
            ([[TINY, 0.0], [0.0, HUGE], [TINY, -HUGE]], [0.0, 0.0, 0.0]),
            ([[1.0, -1.0, last]], [0.0]),
        )

    rng = np.random.default_rng(0)
    box = Box([-1.0, -1.0], [1.0, 0.7])
    assert_holds(network(1.0), network(1.0 + 2.0**-40), box, unit_points(rng, box, 40))


@pytest.mark.parametrize("clamp", [(0.0, np.inf), (0.0, 6.0), (-0.7, 0.9)])
@pytest.mark.parametrize("seed", range(12))
def test_weights_of_every_magnitude(seed, clamp):
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) * 10.0 ** rng.integers(-17, 18, size=shape)

    layers = [(numbers(4, 2), numbers(4)), (numbers(3, 4), numbers(3)), (numbers(2, 3), numbers(2))]
    changes = [0.0, 2.0**-52, 1e-3]
    changed = [
        (w * (1 + rng.choice(changes, size=w.shape)), b * (1 + rng.choice(changes, size=b.shape)))
        for w, b in layers
    ]
    radius = 10.0 ** rng.integers(-17, 18)
    box = Box(np.full(2, -radius), np.full(2, 0.3 * radius))
    assert_holds(chain(*layers, clamp=clamp), chain(*changed, clamp=clamp), box, unit_points(rng, box, 12))


@pytest.mark.parametrize("seed", range(6))
def test_pairs_that_cancel_exactly(seed):
    # Each row and its negative: the exact output is the small difference that the huge parts leave.
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, 2)) * HUGE
    first = np.concatenate([rows, rows])
    bias = rng.normal(size=3)
    last = np.concatenate([np.ones(3), -np.ones(3)])[None]
    one = chain((first, np.concatenate([bias, bias + 2.0**-30])), (last, np.zeros(1)))
    other = chain((np.nextafter(first, 0), np.concatenate([bias, bias])), (last, np.zeros(1)))
    box = Box([-1.0, 0.1], [1.0, 0.1])
    assert_holds(one, other, box, unit_points(rng, box, 30))


@pytest.mark.parametrize("seed", range(4))
def test_boxes_of_no_width_and_of_one_ulp(seed):
    rng = np.random.default_rng(seed)
    layers = [(rng.normal(size=(5, 3)), rng.normal(size=5)), (rng.normal(size=(2, 5)), rng.normal(size=2))]
    changed = [(w + 1e-9 * rng.normal(size=w.shape), b) for w, b in layers]
    x = rng.normal(size=3)
    for upper in (x, np.nextafter(x, np.inf)):
        found = assert_holds(chain(*layers), chain(*changed), Box(x, upper), np.stack([x, upper]))
        assert (found[-1].difference.upper - found[-1].difference.lower < 1e-13).all()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_kink_met_exactly(sign):
    # The pre-activation is exactly 0 at an end of the box, on one side or on both.
    layers = ([[1.0], [-1.0]], [sign, 0.0]), ([[1.0, 1.0]], [0.0])
    moved = ([[1.0], [-1.0]], [sign * (1 + 2.0**-52), 0.0]), ([[1.0, 1.0]], [0.0])
    points = np.array([[-1.0], [0.0], [1.0], [2.0**-60]])
    for box in (Box([-1.0], [1.0]), Box([-1.0], [2.0**-60])):
        inside = points[points[:, 0] <= box.upper[0]]
        assert_holds(chain(*layers), chain(*moved), box, inside)


@pytest.mark.parametrize("small", [1e-160, 1e-200, 5e-324])
def test_products_that_underflow(small):
    layers = ([[small, 1.0], [-small, small]], [0.0, small]), ([[small, -small], [1.0, 1e150]], [0.0, small])
    moved = (
        ([[2 * small, 1.0], [-small, small]], [small, small]),
        ([[small, -small], [1.0, 1e150]], [0.0, 0.0]),
    )
    rng = np.random.default_rng(0)
    for radius in (1.0, small):
        box = Box([-radius, -radius], [radius, radius])
        assert_holds(chain(*layers), chain(*moved), box, unit_points(rng, box, 12))
