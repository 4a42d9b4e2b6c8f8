"""Every value of both executed networks lies inside the bounds of every method, in exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from exact import Exact
from random_pairs import box, float_network, perturbed, quantized, residual_pair, some_pair

from milpq.bounds import differential, interval, symbolic, zonotope
from milpq.merge import Cubes, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Term

METHODS = {"interval": interval, "symbolic": symbolic, "differential": differential, "zonotope": zonotope}
FACES = ("float_side", "quantized_side", "difference")


def sub_cubes(rng: np.random.Generator, problem: Problem, count: int) -> Cubes:
    """Return the root and random parts of it, single points among them."""
    domain, root = problem.domain, problem.domain.root
    parts = [root]
    size = root.lower.shape[1]
    if domain.integer is not None:
        ends = rng.integers(root.level_lower[0], root.level_upper[0] + 1, size=(2, count, size))
        ends[1, 0] = ends[0, 0]
        parts.append(domain.cubes_of_levels(ends.min(axis=0), ends.max(axis=0)))
    if domain.kind != "codes":
        ends = rng.uniform(root.lower[0], root.upper[0], size=(2, count, size))
        ends[1, 0] = ends[0, 0]
        parts.append(domain.cubes_of_boxes(ends.min(axis=0), ends.max(axis=0)))
    return Cubes.concatenate(parts)


def points_of(rng: np.random.Generator, problem: Problem, cubes: Cubes, cube: int, count: int) -> np.ndarray:
    """Return inputs of one cube, corners among them."""
    shape = count, cubes.lower.shape[1]
    corners = rng.integers(0, 2, size=shape).astype(bool)
    some = np.arange(count)[:, None] < count // 2
    if problem.domain.kind == "codes":
        low, high = cubes.level_lower[cube], cubes.level_upper[cube]
        levels = rng.integers(low, high + 1, size=shape)
        return problem.domain.integer.float_value(np.where(some, np.where(corners, low, high), levels))
    low, high = cubes.lower[cube], cubes.upper[cube]
    points = np.where(some, np.where(corners, low, high), rng.uniform(low, high, size=shape))
    points = np.clip(points, low, high)
    if problem.domain.integer is not None:
        # An end of a cell may be read as the level next to it.
        levels = problem.quantized_levels(points)
        inside = (levels >= cubes.level_lower[cube]) & (levels <= cubes.level_upper[cube])
        points = points[inside.all(axis=1)]
    return points


def assert_inside(problem: Problem, cubes: Cubes, all_bounds: dict, rng, count: int) -> None:
    exact = Exact(problem)
    for cube in range(len(cubes)):
        for x in points_of(rng, problem, cubes, cube, count):
            for index, (a, v) in enumerate(exact.values(x)):
                for name, bounds in all_bounds.items():
                    for face, found in zip(FACES, (a, v, v - a), strict=True):
                        side = getattr(bounds.values[index], face)
                        low, high = side.lower[cube], side.upper[cube]
                        assert all(low <= found) and all(found <= high), (name, index, face, cube)


def all_methods(problem: Problem, cubes: Cubes) -> dict:
    return {name: method(problem, cubes) for name, method in METHODS.items()}


@pytest.mark.parametrize("block", range(12))
def test_every_value_lies_inside_every_bound(block):
    for seed in range(10 * block, 10 * block + 10):
        problem = some_pair(seed)
        rng = np.random.default_rng(seed)
        cubes = sub_cubes(rng, problem, 3)
        found = all_methods(problem, cubes)
        # Bounds that hold meet, whatever rounding did.
        found["together"] = found["interval"].intersect(found["symbolic"]).intersect(found["differential"])
        found["together"] = found["together"].intersect(found["zonotope"])
        assert_inside(problem, cubes, found, rng, 4)


def one_layer_codes(seed: int, *, stretch: float = 1.0) -> Problem:
    rng = np.random.default_rng(seed)
    network = float_network(rng, [2, 5, 4, 2], [(0.0, np.inf), (0.0, 1.0), (-0.7, 0.9)][seed % 3])
    other = quantized(rng, network, "tflm", stretch=stretch)
    return Problem.create(network, other, box(-1, 0.9, 2), "codes")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stretch", [0.3, 1.0])
def test_all_codes_lie_inside(seed, stretch):
    problem = one_layer_codes(seed, stretch=stretch)
    levels = np.stack(np.meshgrid(*[np.arange(-16, 15)] * 2), axis=-1).reshape(-1, 2)
    points = problem.domain.integer.float_value(levels)
    for cubes in (problem.domain.root, problem.domain.cubes_of_levels(levels[::97], levels[::97] + 1)):
        for name, bounds in all_methods(problem, cubes).items():
            for cube in range(len(cubes)):
                here = (levels >= cubes.level_lower[cube]) & (levels <= cubes.level_upper[cube])
                difference, error = problem.differences(points[here.all(axis=1)])
                assert (difference - error <= bounds.difference.upper[cube]).all(), name
                assert (difference + error >= bounds.difference.lower[cube]).all(), name


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_residual_networks(seed, sparse):
    rng = np.random.default_rng(seed)
    network, other = residual_pair(rng)
    if sparse:
        network, other = as_sparse(network), as_sparse(other)
    problem = Problem.create(network, other, box(-1, 0.7, 3))
    cubes = sub_cubes(rng, problem, 3)
    assert_inside(problem, cubes, all_methods(problem, cubes), rng, 8)


def as_sparse(network: FloatNetwork) -> FloatNetwork:
    nodes = tuple(
        Affine(node.name, tuple(Term(t.source, sp.csr_array(t.matrix)) for t in node.terms), node.bias)
        if isinstance(node, Affine)
        else node
        for node in network.nodes
    )
    return FloatNetwork(network.input_size, nodes, network.output)


@pytest.mark.parametrize("seed", range(4))
def test_equal_networks_differ_by_nothing_that_matters(seed):
    rng = np.random.default_rng(seed)
    network = float_network(rng, [3, 8, 8, 2], (0.0, np.inf))
    problem = Problem.create(network, network, box(-1, 1, 3))
    found = differential(problem, problem.domain.root).difference
    assert (found.lower <= 0).all() and (found.upper >= 0).all()
    assert max(-found.lower.min(), found.upper.max()) < 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_the_batch_a_cube_is_in_does_not_matter(seed):
    problem = some_pair(seed)
    cubes = sub_cubes(np.random.default_rng(seed), problem, 4)
    for name, batch in all_methods(problem, cubes).items():
        for cube in range(len(cubes)):
            single = METHODS[name](problem, cubes.select(slice(cube, cube + 1)))
            for one, many in zip(single.values, batch.values, strict=True):
                for face in FACES:
                    for end in ("lower", "upper"):
                        np.testing.assert_allclose(
                            getattr(getattr(many, face), end)[cube],
                            getattr(getattr(one, face), end)[0],
                            rtol=1e-9,
                            atol=1e-12,
                        )


@pytest.mark.parametrize("seed", range(60))
def test_backward_bounds_are_never_looser_than_intervals(seed):
    problem = some_pair(seed)
    cubes = sub_cubes(np.random.default_rng(seed), problem, 3)
    found = all_methods(problem, cubes)
    plain = found.pop("interval")
    for bounds in found.values():
        for tight, loose in zip(bounds.values, plain.values, strict=True):
            for face in FACES:
                one, other = getattr(tight, face), getattr(loose, face)
                slack = 1e-12 * (1 + np.abs(other.upper) + np.abs(other.lower))
                assert (one.upper <= other.upper + slack).all()
                assert (one.lower >= other.lower - slack).all()
        both = bounds.intersect(plain).difference
        assert (both.upper <= plain.difference.upper).all() and (both.lower >= plain.difference.lower).all()


def test_carrying_the_difference_pays_on_close_weights():
    rng = np.random.default_rng(0)
    network = float_network(rng, [4, 16, 16, 2], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-4), box(-0.3, 0.3, 4))
    width = {
        name: float((b.difference.upper - b.difference.lower).max())
        for name, b in all_methods(problem, problem.domain.root).items()
    }
    assert width["differential"] < 0.5 * width["interval"]
    assert width["differential"] < 0.5 * width["symbolic"]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("method", [symbolic, differential])
def test_passes_that_are_left_out_bound_nothing(method, sparse):
    rng = np.random.default_rng(1)
    network = float_network(rng, [4, 20, 20, 2], (0.0, np.inf))
    other = perturbed(rng, network, 0.05)
    if sparse:
        network, other = as_sparse(network), as_sparse(other)
    problem = Problem.create(network, other, box(-1, 0.7, 4))
    root = problem.domain.root
    plain, whole = interval(problem, root), method(problem, root)
    outer = np.inf
    for passes in range(4):
        asked = iter([False] * passes + [True] * 1000)
        stopped = method(problem, root, lambda asked=asked: next(asked))
        assert_inside(problem, root, {"stopped": stopped}, rng, 8)
        width = sum(float((v.float_side.upper - v.float_side.lower).sum()) for v in stopped.values)
        assert width <= outer
        outer = width
        output = stopped.difference
        assert (output.upper <= plain.difference.upper).all()
    assert (whole.difference.upper <= stopped.difference.upper + 1e-12).all()
