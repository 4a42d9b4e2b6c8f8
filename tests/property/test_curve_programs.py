"""Linear and mixed-integer programs of networks with curves hold every execution, and only nearly more."""

from __future__ import annotations

import numpy as np
import pytest
from curve_pairs import smooth_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import sample

from milpq.bounds import differential, interval
from milpq.bounds.values import Bounds
from milpq.merge import MergedAffine, Problem
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.encode import encode
from milpq.milp.encode_curve import CurvePart
from milpq.milp.relax import lp_bound
from milpq.milp.solve import MilpOptions, maximize_outputs
from milpq.search.tree import TreeOptions, tree_search

SEEDS = st.integers(0, 100_000)
HIGHS = HighsBackend()


def root_bounds(problem: Problem) -> Bounds:
    root = problem.domain.root
    return interval(problem, root).intersect(differential(problem, root))


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_executions_are_points_of_the_model(seed, cuts):
    problem = smooth_pair(seed)
    encoding = encode(problem, problem.domain.root, root_bounds(problem), cuts=cuts)
    points = sample(np.random.default_rng(seed), problem, 40)
    differences, _ = problem.differences(points)
    for x, difference in zip(points, differences, strict=True):
        point = encoding.start_from_input(x)
        assert encoding.model.violation(point) < 1e-12
        np.testing.assert_allclose(point[encoding.differences], difference, rtol=0, atol=1e-9)


@settings(max_examples=6, deadline=None)
@given(SEEDS)
def test_a_fixed_input_leaves_the_gap_of_the_chords(seed):
    """With the input fixed, the differences are the executed ones within what the chords of the segments miss."""
    problem = smooth_pair(seed, sizes=[2, 3, 1])
    encoding = encode(problem, problem.domain.root, root_bounds(problem))
    gap = 0.0
    for value, part in zip(encoding.values, encoding.parts, strict=True):
        if isinstance(part, CurvePart) and len(part.neurons):
            widths = np.diff(part.breakpoints, axis=1)
            # A chord of a function of |f''| < 0.78·rate misses less than w²·|f''|/8.
            missed = 0.1 * part.curve.rate * widths.max() ** 2 + 1e-9
            after = [
                node
                for node in problem.merged.nodes
                if value in node.sources and isinstance(node, MergedAffine)
            ]
            gap += (
                2
                * missed
                * max(float(np.abs(term.float_matrix).sum()) for node in after for term in node.terms)
            )
    for x in sample(np.random.default_rng(seed), problem, 2):
        point = encoding.start_from_input(x)
        known = encoding.solver_model
        lower = np.maximum(x - 1e-9, known.lower[encoding.inputs])
        upper = np.minimum(x + 1e-9, known.upper[encoding.inputs])
        model = known.with_column_bounds(encoding.inputs, lower, upper)
        if encoding.levels is not None:
            model = model.with_fixed(encoding.levels, point[encoding.levels])
        with HIGHS.open(model) as session:
            for sign in (1, -1):
                solution = session.maximize(encoding.objective(0, sign))
                assert solution.status == "optimal"
                executed = sign * point[encoding.differences[0]]
                assert executed - 1e-6 <= solution.claimed_bound <= executed + gap + 1e-6


@pytest.mark.parametrize("seed", [1, 2, 3, 6])
def test_witness_milp_lp_and_propagation_are_in_order(seed):
    problem = smooth_pair(seed, sizes=[2, 3, 1])
    root, bounds = problem.domain.root, root_bounds(problem)
    relaxed = lp_bound(problem, root, bounds, HIGHS)
    found = maximize_outputs(problem, root, bounds, HIGHS, MilpOptions(time_limit=3))
    tree = tree_search(problem, bounds, HIGHS, TreeOptions(gap=1e-2, max_programs=200))
    differences, error = problem.differences(sample(np.random.default_rng(seed), problem, 2000))
    for result in found.objectives:
        certified = relaxed.upper if result.sign > 0 else -relaxed.lower
        known = bounds.difference.upper if result.sign > 0 else -bounds.difference.lower
        sampled = float((result.sign * differences - error)[:, result.position].max())
        position = result.position + (0 if result.sign > 0 else len(problem.outputs))
        assert sampled <= result.upper <= certified[result.position] + 2e-6
        assert certified[result.position] <= known[0, problem.outputs[result.position]]
        assert sampled <= tree.upper[position] <= known[0, problem.outputs[result.position]]
