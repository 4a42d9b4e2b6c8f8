"""The branch and bound over the relaxation: its brackets are the truth, both ends of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import all_codes, box, float_network, quantized, sample, some_pair

import milpq
from milpq.bounds import interval
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.solve import maximize_outputs
from milpq.search.budget import Budget
from milpq.search.tree import TreeOptions, tree_search
from milpq.search.tree.jobs import Effort

SEEDS = st.integers(0, 100_000)
HIGHS = HighsBackend()


def search(problem: Problem, limit_s: float = 60.0, **options):
    """Search with cheap bounds and few enumerations, so that the tree has something to do."""
    effort = Effort(programs=100, enumerate_codes=64, enumerate_cells=16)
    bounds = interval(problem, problem.domain.root)
    chosen = TreeOptions(effort=effort, witness_evaluations=0, **options)
    return tree_search(problem, bounds, HIGHS, chosen, budget=Budget(limit_s))


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_on_codes_both_ends_are_the_enumerated_extremes(seed):
    rng = np.random.default_rng(seed)
    target = ["tflm", "ort", "litert-ref", "cmsis-single", "pow2-half-up"][rng.integers(5)]
    options = [{}, {"raw_output": True}, {"stretch": 0.4}, {"lookup": True}][rng.integers(4)]
    sizes = [[2, 4, 2], [3, 4, 1], [2, 4, 3, 1], [4, 3, 2], [2, 3, 3, 3, 1]][rng.integers(5)]
    network = float_network(rng, sizes, [(0.0, np.inf), (0.0, 1.0)][rng.integers(2)])
    other = quantized(rng, network, target, bits=int(rng.integers(4, 9)), **options)
    radius = {2: 0.5, 3: 0.3, 4: 0.15}[sizes[0]]
    problem = Problem.create(network, other, box(-radius, radius, sizes[0]), "codes")
    differences, _ = problem.differences(all_codes(problem))
    truth = np.concatenate([differences.max(axis=0), -differences.min(axis=0)])
    found = search(problem, gap=0.0, each=True)
    np.testing.assert_allclose(found.upper, truth, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.pool.lower, truth, rtol=1e-9, atol=1e-9)
    assert not found.open or found.status == "closed"


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_brackets_hold_on_every_kind_of_domain(seed):
    problem = some_pair(seed)
    found = search(problem, 5.0 if problem.domain.kind == "continuous" else 60.0, gap=1e-4)
    points = sample(np.random.default_rng(seed), problem, 4000)
    differences, error = problem.differences(points)
    sampled = np.concatenate([differences - error, -differences - error], axis=1).max(axis=0)
    assert (sampled <= found.upper).all()
    lower, upper = found.bracket
    assert float(np.abs(differences).max()) <= upper + float(error.max())
    if problem.domain.kind != "continuous":
        assert upper - lower <= 1e-4 * upper


@pytest.mark.parametrize("seed", [1, 4, 11])
def test_the_checked_bound_is_the_one_that_a_solver_claims(seed):
    problem = some_pair(seed, sizes=[2, 4, 1])
    root = problem.domain.root
    found = search(problem, gap=1e-9, each=True)
    claimed = maximize_outputs(problem, root, interval(problem, root), HIGHS)
    for result in claimed.objectives:
        k = result.position + (0 if result.sign > 0 else len(problem.outputs))
        # What the solver's own tolerances can move.
        assert result.upper == pytest.approx(float(found.upper[k]), rel=1e-6, abs=1e-6)


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_the_method_milp_is_checked_and_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    target = ["tflm", "ort", "cmsis-single", "pow2-half-even"][rng.integers(4)]
    sizes = [[2, 4, 2], [3, 4, 3, 1], [4, 3, 2]][rng.integers(3)]
    network = float_network(rng, sizes, (0.0, np.inf))
    other = quantized(rng, network, target, bits=int(rng.integers(4, 9)))
    region = box(-0.15, 0.15, sizes[0])
    problem = Problem.create(network, other, region, "codes")
    differences, _ = problem.differences(all_codes(problem))
    result = milpq.bound(network, other, region, input_domain="codes", method="milp", gap=0.0)
    assert result.certificate.trust == "checked"
    assert {record.name for record in result.methods} >= {"lp", "milp"}
    truth = float(np.abs(differences).max())
    assert result.lower == pytest.approx(truth, rel=1e-9, abs=1e-9)
    assert result.upper == pytest.approx(truth, rel=1e-9, abs=1e-9)
