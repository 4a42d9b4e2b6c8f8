"""Leaves as small as they can be: decided at the very values that an input has, in boxes that it is on the edge of.

A bound that is short of it by one rounding fails here: what the input does is known in fractions.
"""

from __future__ import annotations

from fractions import Fraction
from math import inf, nextafter

import numpy as np
import pytest
from curve_pairs import smooth_pair
from exact import Exact
from random_pairs import box, float_network, residual_pair, sample, some_pair

from milpq.certificate.rewriting import PLANES, Rewriter
from milpq.certificate.slopes import dual_upper
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Cubes, MergedActivation, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Term

POINTS = 6
ENCLOSED = Fraction(1, 10**45)
"""Values of curves are known within this."""


def below(value: Fraction) -> float:
    near = float(value)
    return near if Fraction(near) <= value else nextafter(near, -inf)


def changed(rng: np.random.Generator, network: FloatNetwork, factors: list[float]) -> FloatNetwork:
    """Return a network whose weights are multiplied by some of these factors."""
    nodes = [
        Affine(
            node.name,
            tuple(Term(t.source, t.matrix * rng.choice(factors, t.matrix.shape)) for t in node.terms),
            node.bias * rng.choice(factors, node.bias.shape),
        )
        if isinstance(node, Affine)
        else node
        for node in network.nodes
    ]
    return FloatNetwork(network.input_size, tuple(nodes), network.output)


def some_problem(seed: int) -> Problem:
    """Return integer, real and smooth pairs, and real ones with weights of every magnitude."""
    rng = np.random.default_rng(seed)
    if seed % 4 == 0:
        return some_pair(seed, sizes=[2, 4, 2])
    if seed % 4 == 1:
        return smooth_pair(seed, sizes=[2, 3, 2])
    if seed % 8 == 2:
        return Problem.create(*residual_pair(rng), box(-0.3, 0.4, 3))
    sizes = [10.0**k for k in range(-17, 18)]
    network = changed(rng, float_network(rng, [2, 4, 3, 2], (0.0, 6.0 if seed % 3 else np.inf)), sizes)
    other = changed(rng, network, [1.0, 1 + 2.0**-52, 1 - 2.0**-40, 1.001])
    return Problem.create(network, other, box(-1.0, 0.3, 2))


def decided(
    problem: Problem, exact: Exact, values: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return ends of all quantities that these values of one input satisfy, many of them by no more than a rounding."""
    lower, upper = [], []
    for node in problem.merged.nodes:
        if not isinstance(node, MergedActivation):
            continue
        a, v = values[node.source]
        exactly = v if node.step is None else v / exact.scales[node.source]
        for value in (*a, *exactly):
            least, most = below(value - ENCLOSED), -below(-value - ENCLOSED)
            if value.denominator == 1 and abs(value) < 2**53:
                least = most = float(value)
            known = rng.uniform(size=2) < 0.5
            lower.append(least if known[0] else -np.inf)
            upper.append(most if known[1] else np.inf)
    return np.array(lower), np.array(upper)


def around(problem: Problem, x: np.ndarray, rng: np.random.Generator) -> Cubes:
    """Return a part of the domain that holds an input: it alone, it on an edge, or all."""
    root, integer = problem.domain.root, problem.domain.integer
    kind = int(rng.integers(3))
    if kind == 2:
        return root
    if integer is not None:
        level = problem.quantized_levels(x[None])
        cell = problem.domain.cubes_of_levels(level, level)
        alone = kind == 0 and problem.domain.kind == "continuous"
        return Cubes(x[None], x[None], level, level) if alone else cell
    far = x if kind == 0 else np.minimum(root.upper[0], x + 10.0 ** rng.integers(-14, 0))
    return Cubes(x[None], far[None], root.level_lower, root.level_upper)


@pytest.mark.parametrize("seed", range(24))
def test_no_bound_of_a_tiny_leaf_is_short_of_the_input_in_it(seed: int) -> None:
    problem, rng = some_problem(seed), np.random.default_rng(seed)
    exact, zonotope = Exact(problem), Zonotope(problem)
    points = sample(rng, problem, 4 * POINTS)[::4]
    known = [exact.values(x) for x in points]
    leaves = [around(problem, x, rng) for x in points]
    cubes = Cubes.concatenate(leaves)
    ends = [decided(problem, exact, values, rng) for values in known]
    limits = tuple(np.stack(side, axis=1) for side in zip(*ends, strict=True))
    truth = []
    for values in known:
        a, v = values[problem.merged.output]
        truth.append([*(v - a), *(a - v)])
    with np.errstate(over="ignore", invalid="ignore"):
        trace = zonotope.trace(cubes, limits)
        assert not trace.empty.any()
        found = [zonotope.upper(cubes), zonotope.bounds(trace)]
        for size in (0.0, 1e-9, 1.0, 1e9):
            multipliers = size * rng.normal(size=(len(zonotope.whole), POINTS))
            bounds = [dual_upper(problem, trace, k, multipliers) for k in range(len(truth[0]))]
            found.append(np.stack(bounds, axis=1))
        planes = rng.normal(size=(len(zonotope.whole), PLANES)) * rng.choice([0.0, 1.0], size=PLANES)
        rewritten = []
        for row, leaf in enumerate(leaves):
            rewriter = Rewriter(
                problem, zonotope, lambda first, layer, _: planes[first : first + 2 * len(layer.a[0])]
            )
            own = limits[0][:, row : row + 1], limits[1][:, row : row + 1]
            rewritten.append(rewriter.upper(leaf, own)[0])
        found.append(np.stack(rewritten))
    for upper in found:
        assert not np.isnan(upper).any()
        for bounds, objectives in zip(upper, truth, strict=True):
            for bound, value in zip(bounds.tolist(), objectives, strict=True):
                assert value - ENCLOSED <= bound
    nodes = [node for node in problem.merged.nodes if isinstance(node, MergedActivation)]
    for layer, node in zip(trace.layers, nodes, strict=True):
        for leaf, values in enumerate(known):
            a, v = values[node.source]
            h, z = values[problem.merged.nodes.index(node) + 1]
            sides = (layer.a, a), (layer.v, v), (layer.d, v - a), (layer.z, z)
            for ends, inside in (*sides, (layer.stairs.phi.image(layer.a), h)):
                for low, high, value in zip(ends[0][:, leaf], ends[1][:, leaf], inside, strict=True):
                    assert value + ENCLOSED >= float(low) and value - ENCLOSED <= float(high)
