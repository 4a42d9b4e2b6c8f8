"""What the compiled sweep says of the objectives: its dives into phases, its advice, its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_pairs import box, float_network, perturbed, some_pair
from test_bounds import points_of, sub_cubes

from milpq.bounds import zonotope
from milpq.bounds.zonotope import supports, zonotope_objectives
from milpq.errors import UnsupportedModelError
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.inexact import Float32Error
from milpq.network.nodes import Affine, Clamp, Term
from milpq.search.bounding import Propagated, fitting
from milpq.search.execution import signed


def narrow_cubes(rng, problem, count, width):
    root = problem.domain.root
    centre = rng.uniform(root.lower[0], root.upper[0], size=(count, root.lower.shape[1]))
    reach = width * rng.random((count, root.lower.shape[1])) * (root.upper - root.lower)
    return problem.domain.cubes_of_boxes(
        np.maximum(centre - reach, root.lower), np.minimum(centre + reach, root.upper)
    )


def real_pair(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    clamp = [(0.0, np.inf), (0.0, 1.0), (-0.5, np.inf)][seed % 3]
    network = float_network(rng, [3, 9, 8, 7, 2], clamp)
    return Problem.create(network, perturbed(rng, network, 0.03), box(-1, 1, 3))


@pytest.mark.parametrize("seed", range(12))
def test_dives_keep_every_sample(seed):
    problem = real_pair(seed)
    rng = np.random.default_rng(seed)
    cubes = narrow_cubes(rng, problem, 40, 0.2)
    plain = zonotope_objectives(problem, cubes, np.full(4, np.inf)).upper
    seen = np.full(plain.shape, -np.inf)
    error = np.zeros(plain.shape)
    for cube in range(len(cubes)):
        points = points_of(rng, problem, cubes, cube, 400)
        difference, slack = problem.differences(points)
        seen[cube] = signed(difference).max(axis=0)
        error[cube] = np.tile(slack.max(axis=0), 2)
    improved = 0
    for part in (0.0, 0.5, 0.9, 0.99):
        # Thresholds between what was seen and the plain bound: some can be reached, some cannot.
        for cube in range(len(cubes)):
            threshold = seen[cube] + (1 - part) * (plain[cube] - seen[cube])
            found = zonotope_objectives(problem, cubes.select(slice(cube, cube + 1)), threshold).upper[0]
            assert (found <= plain[cube]).all()
            assert (found >= seen[cube] - error[cube]).all()
            improved += int((found < plain[cube] - 1e-12).sum())
    assert improved > (0 if seed % 3 == 1 else 20)


def test_dives_are_exact_on_a_kink():
    # One neuron of each side, its kink inside the cube however small: without phases the bound stays at |d|.
    network = float_network(np.random.default_rng(0), [1, 1, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(np.random.default_rng(1), network, 0.2), box(-1, 1, 1))
    first = problem.merged.nodes[0]
    kink = -float(first.float_bias[0]) / float(first.terms[0].float_matrix[0, 0])
    assert -1 < kink < 1
    cubes = problem.domain.cubes_of_boxes(np.array([[kink - 1e-3]]), np.array([[kink + 1e-3]]))
    points = np.linspace(kink - 1e-3, kink + 1e-3, 4001)[:, None]
    seen = signed(problem.differences(points)[0]).max(axis=0)
    plain = zonotope_objectives(problem, cubes, np.full(2, np.inf)).upper[0]
    found = zonotope_objectives(problem, cubes, seen + 1e-7).upper[0]
    assert (found <= plain).all()
    assert (found <= seen + 1e-6).all()
    assert (found < plain - 1e-5).any()


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_objectives_are_those_of_the_values(seed):
    problem = some_pair(seed)
    cubes = sub_cubes(np.random.default_rng(seed), problem, 4)
    found = zonotope_objectives(problem, cubes, np.full(2 * len(problem.outputs), np.inf), every=True)
    assert supports(problem.merged)
    assert found.values is not None
    difference = found.values.difference
    expected = np.concatenate(
        [difference.upper[:, problem.outputs], -difference.lower[:, problem.outputs]], axis=1
    )
    assert (found.upper == expected).all()
    assert (found.towards >= cubes.lower).all() and (found.towards <= cubes.upper).all()
    assert (found.score >= 0).all()
    tighter = zonotope(problem, cubes).difference
    assert (tighter.upper <= difference.upper).all()


def test_an_overflow_bounds_nothing():
    rng = np.random.default_rng(0)
    network = float_network(rng, [2, 4, 2], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 0.1), box(-1e308, 1e308, 2))
    with np.errstate(over="ignore"):
        found = zonotope_objectives(problem, problem.domain.root, np.zeros(4))
    assert (found.upper == np.inf).all()


@pytest.mark.parametrize("scale", [1e307, 4e307, 8e307, 1.7e308])
@pytest.mark.parametrize("weight", [1.0, -1.0, 0.5])
def test_an_activation_that_overflows_bounds_nothing(scale, weight):
    # The affine forms of the last activation overflow although those of its source do not.
    def network(slope: float) -> FloatNetwork:
        layer = Affine("layer", (Term(0, np.array([[slope]])),), np.zeros(1))
        return FloatNetwork(1, (layer, Clamp("relu", 1)), 2)

    problem = Problem.create(network(1.0), network(weight), box(-scale, scale, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        found = zonotope_objectives(problem, problem.domain.root, np.zeros(2)).upper[0]
    above = max(weight - 1.0, 0.0) if weight > 0 else 1.0
    assert found[0] >= above * scale
    assert found[1] >= (1.0 - max(weight, 0.0)) * scale


def test_an_operation_known_within_a_band_is_refused():
    rng = np.random.default_rng(0)
    network = float_network(rng, [2, 4, 2], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 0.1), box(-1, 1, 2))
    activation = replace(problem.merged.nodes[1], inexact=Float32Error("near", 1, 1e-3, np.zeros(4)))
    nodes = (problem.merged.nodes[0], activation, *problem.merged.nodes[2:])
    object.__setattr__(problem, "merged", replace(problem.merged, nodes=nodes))
    assert not supports(problem.merged)
    assert isinstance(fitting(problem), Propagated)
    with pytest.raises(UnsupportedModelError, match="known exactly"):
        zonotope(problem, problem.domain.root)
