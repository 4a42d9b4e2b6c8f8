"""The mixed-integer encoding is what execution is: every sample is a point, every solution an execution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import (
    all_codes,
    box,
    float_network,
    interval_bounds,
    perturbed,
    quantized,
    residual_pair,
    sample,
    some_pair,
)

from milpq.errors import UsageError
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.encode import Encoder, encode
from milpq.milp.relax import lp_bound
from milpq.milp.solve import MilpOptions, maximize_outputs

SEEDS = st.integers(0, 100_000)


HIGHS = HighsBackend()


def encoded(problem: Problem, *, cuts: bool = False):
    root = problem.domain.root
    return encode(problem, root, interval_bounds(problem, root), cuts=cuts)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_executions_are_points_of_the_model(seed):
    problem = some_pair(seed)
    encoding = encoded(problem, cuts=True)
    rng = np.random.default_rng(seed)
    points = sample(rng, problem, 60)
    differences, _ = problem.differences(points)
    for x, difference in zip(points, differences, strict=True):
        point = encoding.start_from_input(x)
        assert encoding.model.violation(point) < 1e-9
        assert encoding.solver_model.violation(point) < 1e-9
        np.testing.assert_allclose(point[encoding.differences], difference, rtol=0, atol=1e-9)
        np.testing.assert_allclose(encoding.point_to_input(point), x, rtol=0, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(SEEDS)
def test_a_fixed_input_leaves_the_execution_alone(seed):
    """With the input fixed, the largest and the smallest difference are both the executed one."""
    problem = some_pair(seed)
    encoding = encoded(problem)
    for x in sample(np.random.default_rng(seed), problem, 3):
        point = encoding.start_from_input(x)
        # Fixed to within the solver's own feasibility tolerance; exactly, its presolve may call rounding infeasible.
        known = encoding.solver_model
        lower = np.maximum(x - 1e-9, known.lower[encoding.inputs])
        upper = np.minimum(x + 1e-9, known.upper[encoding.inputs])
        model = known.with_column_bounds(encoding.inputs, lower, upper)
        if encoding.levels is not None:
            model = model.with_fixed(encoding.levels, point[encoding.levels])
        integer_levels = [face.quantized.columns for face in encoding.faces[1:] if face.unit is not None]
        with HIGHS.open(model) as session:
            for position in range(len(problem.outputs)):
                for sign in (1, -1):
                    solution = session.maximize(encoding.objective(position, sign))
                    assert solution.status == "optimal"
                    expected = sign * point[encoding.differences[position]]
                    assert solution.claimed_bound == pytest.approx(expected, rel=0, abs=1e-7)
                    for columns in integer_levels:
                        np.testing.assert_allclose(solution.point[columns], point[columns], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_the_optimum_on_codes_is_the_enumerated_one(seed):
    rng = np.random.default_rng(seed)
    target = ["tflm", "ort", "litert-ref", "cmsis-single", "pow2-half-up"][rng.integers(5)]
    options = [{}, {"raw_output": True}, {"stretch": 0.4}, {"lookup": True}][rng.integers(4)]
    network = float_network(rng, [2, 4, 2], [(0.0, np.inf), (0.0, 1.0)][rng.integers(2)])
    other = quantized(rng, network, target, bits=int(rng.integers(4, 9)), **options)
    problem = Problem.create(network, other, box(-0.5, 0.5, 2), "codes")
    differences, _ = problem.differences(all_codes(problem))
    root = problem.domain.root
    found = maximize_outputs(problem, root, interval_bounds(problem, root), HIGHS)
    for result in found.objectives:
        truth = float((result.sign * differences[:, result.position]).max())
        assert result.outcome == "optimal"
        assert result.attained == pytest.approx(truth, rel=1e-9, abs=1e-9)
        # How far above a solver's claim may lie hangs on its tolerance of integrality, 1e-6, times big-Ms.
        assert truth <= result.upper <= truth + 1e-5


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_relaxation_program_and_samples_are_ordered(seed):
    """Certified LP bound ≥ claimed optimum ≥ every sample, for all kinds of domain."""
    problem = some_pair(seed, sizes=[2, 4, 1])
    root = problem.domain.root
    bounds = interval_bounds(problem, root)
    relaxed = lp_bound(problem, root, bounds, HIGHS)
    found = maximize_outputs(problem, root, bounds, HIGHS, MilpOptions(time_limit=20))
    differences, error = problem.differences(sample(np.random.default_rng(seed), problem, 4000))
    for result in found.objectives:
        certified = relaxed.upper if result.sign > 0 else -relaxed.lower
        sampled = float((result.sign * differences - error)[:, result.position].max())
        # A claim carries a margin for the tolerances of its solver.
        assert certified[result.position] >= result.attained
        assert certified[result.position] >= result.upper - 2e-6
        assert result.upper >= sampled
        assert result.upper >= result.attained


def test_a_skipped_activation_names_no_column_twice():
    problem = Problem.create(*residual_pair(np.random.default_rng(3)), box(-0.3, 0.3, 3))
    encoding = encoded(problem, cuts=True)
    for x in sample(np.random.default_rng(4), problem, 200):
        assert encoding.model.violation(encoding.start_from_input(x)) < 1e-9


def test_stable_activations_and_decided_steps_cost_no_integers():
    rng = np.random.default_rng(1)
    network = float_network(rng, [3, 6, 2], (0.0, np.inf))
    real = Problem.create(network, perturbed(rng, network, 1e-3), box(0.2, 0.2 + 1e-6, 3))
    assert encoded(real).integers.size == 0
    one_code = Problem.create(network, quantized(rng, network, "tflm"), box(0.24, 0.26, 3), "codes")
    assert encoded(one_code).integers.size == 0


def test_difference_rows_tighten_the_relaxation():
    """Two wide networks that hardly differ: the bound scales with the difference, not with the networks."""
    rng = np.random.default_rng(2)
    network = float_network(rng, [4, 20, 20, 1], (0.0, np.inf))
    root_bounds = []
    for size in (1e-2, 1e-4):
        problem = Problem.create(network, perturbed(rng, network, size), box(-0.02, 0.02, 4))
        root = problem.domain.root
        found = lp_bound(problem, root, interval_bounds(problem, root), HIGHS)
        root_bounds.append(float(found.upper[0] - found.lower[0]))
    assert root_bounds[1] < 0.05 * root_bounds[0]


def test_an_encoder_serves_many_cubes_but_one_at_a_time():
    problem = some_pair(3)
    encoder = Encoder(problem)
    root = problem.domain.root
    bounds = interval_bounds(problem, root)
    first, second = encoder.encode(root, bounds), encoder.encode(root, bounds)
    np.testing.assert_array_equal(first.model.values, second.model.values)
    with pytest.raises(UsageError, match="one cube"):
        encoder.encode(type(root).concatenate([root, root]), bounds)
