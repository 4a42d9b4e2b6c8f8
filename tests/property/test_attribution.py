"""The contributions of all sources add up to the difference, and each stays within its bounds."""

import numpy as np
import pytest
from random_pairs import box, float_network, perturbed, quantized, residual_pair, sample, some_pair

from milpq.bounds import differential, interval
from milpq.bounds.attribution import attribute, list_sources
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.search.budget import Budget
from milpq.verify.layers import cut, explain_problem
from milpq.verify.spread import execute_sources


def _check(problem: Problem, seed: int, parts: int = 1) -> None:
    cubes = cut(problem, parts)
    bounds = interval(problem, cubes).intersect(differential(problem, cubes))
    found = attribute(problem, bounds)
    points = sample(np.random.default_rng(seed), problem, 400)
    sources = tuple(one.source for one in found)
    executed = execute_sources(problem, sources, points)
    reference = problem.run_quantized(points) - problem.float_network.evaluate(points)
    size = 1e-9 * (1 + np.abs(executed).sum(axis=0))
    assert (np.abs(executed.sum(axis=0) - reference) <= size).all()
    lower = np.stack([one.bounds.lower for one in found])
    upper = np.stack([one.bounds.upper for one in found])
    # Each point lies in some cube; the ends over all cubes hold every point.
    assert (executed >= lower.min(axis=1)[:, None] - size).all()
    assert (executed <= upper.max(axis=1)[:, None] + size).all()
    inside = ((points[:, None] >= cubes.lower) & (points[:, None] <= cubes.upper)).all(axis=2)
    assert inside.any(axis=1).all()
    for k, cube in np.argwhere(inside)[:200]:
        assert (executed[:, k] <= upper[:, cube] + size[k]).all()
        assert (executed[:, k] >= lower[:, cube] - size[k]).all()


@pytest.mark.parametrize("seed", range(40))
def test_contributions_of_random_pairs(seed: int) -> None:
    _check(some_pair(seed), seed, parts=1 if seed % 2 else 8)


@pytest.mark.parametrize("seed", range(6))
def test_contributions_of_residual_pairs(seed: int) -> None:
    network, other = residual_pair(np.random.default_rng(seed))
    _check(Problem.create(network, other, box(-0.5, 0.6, 3)), seed)


@pytest.mark.parametrize("seed", range(12))
def test_shares_cover_the_bound_and_the_bound_covers_samples(seed: int) -> None:
    found = explain_problem(some_pair(seed), parts=4)
    total = sum(one.certified for one in found.shares)
    assert (total * (1 + 1e-12) >= found.upper).all()
    assert (found.upper >= found.sampled * (1 - 1e-12)).all()
    for one in found.shares:
        assert (one.certified * (1 + 1e-9) >= one.sampled).all()
        assert (one.sampled >= one.rms * (1 - 1e-12)).all()


def test_parts_never_loosen_a_share() -> None:
    problem = some_pair(4)
    coarse, fine = (explain_problem(problem, parts=parts) for parts in (1, 64))
    assert (fine.upper <= coarse.upper * (1 + 1e-9)).all()
    assert sum(one.certified.sum() for one in fine.shares) < sum(one.certified.sum() for one in coarse.shares)


def test_only_what_differs_has_a_share() -> None:
    rng = np.random.default_rng(3)
    network = float_network(rng, [3, 6, 5, 2], (0.0, np.inf))
    changed = perturbed(rng, network, 0.05).nodes
    # Only the second affine layer differs.
    other = FloatNetwork(3, (*network.nodes[:2], changed[2], *network.nodes[3:]), network.output)
    found = explain_problem(Problem.create(network, other, box(-1, 1, 3)))
    nonzero = [one.layer for one in found.shares if one.certified.any()]
    assert nonzero == ["linear1"]
    assert [one.layer for one in found.ranked()] == nonzero
    assert "linear1" in found.advice


def test_one_layer_is_explained_exactly() -> None:
    """Of one affine layer the weights contribute exactly their interval image."""
    rng = np.random.default_rng(5)
    network = float_network(rng, [2, 1], (-np.inf, np.inf))
    other = perturbed(rng, network, 0.1)
    found = explain_problem(Problem.create(network, other, box(-1, 1, 2)), parts=1)
    (share,) = found.shares
    first, second = network.nodes[0], other.nodes[0]
    expected = np.abs(second.terms[0].matrix - first.terms[0].matrix).sum() + np.abs(second.bias - first.bias)
    assert share.certified == pytest.approx(expected)
    assert found.upper == pytest.approx(expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_coarser_codes_have_larger_shares_of_rounding(bits: int) -> None:
    network = float_network(np.random.default_rng(7), [2, 6, 2], (0.0, np.inf))
    problems = [
        Problem.create(
            network, quantized(np.random.default_rng(7), network, "tflm", bits=count), box(-0.5, 0.5, 2)
        )
        for count in (bits, bits + 2)
    ]
    rounding = [
        sum(one.certified.max() for one in explain_problem(problem).shares if one.kind == "rounding")
        for problem in problems
    ]
    assert 2 < rounding[0] / rounding[1] < 8


def test_sources_are_named_by_their_layers() -> None:
    problem = some_pair(1)
    kinds = list_sources(problem.merged, integer_input=problem.domain.integer is not None)
    assert [source.value for source in kinds] == sorted(source.value for source in kinds)
    assert all(source.layer for source in kinds)


def test_without_time_intervals_still_hold_every_sample() -> None:
    for seed in range(6):
        problem = some_pair(seed)
        hasty = explain_problem(problem, budget=Budget(0.0))
        careful = explain_problem(problem)
        for quick, slow in zip(hasty.shares, careful.shares, strict=True):
            assert (quick.certified * (1 + 1e-9) >= slow.certified).all()
            assert (quick.certified * (1 + 1e-9) >= quick.sampled).all()
