"""Image operators: every execution inside every bound; the encoding with its input fixed is the execution."""

from __future__ import annotations

import numpy as np
import pytest
from image_pairs import CURVES, KINDS, image_pair
from random_pairs import sample
from test_bounds import all_methods, assert_inside, sub_cubes

from milpq.bounds import differential, interval, optimized
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.encode import encode
from milpq.milp.relax import lp_bound
from milpq.search.enumerate import enumerate_codes
from milpq.search.execution import signed
from milpq.search.phases import PhaseOptions, phase_search
from milpq.verify import bound

SEEDS = range(3)


@pytest.mark.parametrize("kind", [*KINDS, *CURVES])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_value_lies_inside_every_bound(kind, seed, tmp_path):
    problem = image_pair(seed, tmp_path, kind, radius=[1, 6, 40][seed])
    rng = np.random.default_rng(seed)
    cubes = sub_cubes(rng, problem, 2)
    found = all_methods(problem, cubes)
    single = all_methods(problem, problem.domain.root)  # one cube: coefficients stay sparse
    assert_inside(problem, cubes, found, rng, 3)
    assert_inside(problem, problem.domain.root, single, rng, 5)


@pytest.mark.parametrize("kind", [*KINDS, *CURVES])
def test_every_sampled_difference_lies_inside_every_bound(kind, tmp_path):
    for seed in range(3, 9):
        problem = image_pair(seed, tmp_path, kind, radius=2 * seed)
        points = sample(np.random.default_rng(seed), problem, 3000)
        difference, error = problem.differences(points)
        for name, bounds in all_methods(problem, problem.domain.root).items():
            assert (difference - error <= bounds.difference.upper[0]).all(), (name, seed)
            assert (difference + error >= bounds.difference.lower[0]).all(), (name, seed)


@pytest.mark.parametrize("kind", [*KINDS, *CURVES])
def test_slopes_cuts_and_linear_programs_hold_every_sample(kind, tmp_path):
    for seed in (9, 10):
        problem = image_pair(seed, tmp_path, kind, radius=4)
        root, rng = problem.domain.root, np.random.default_rng(seed)
        known = differential(problem, root).intersect(interval(problem, root))
        tight = optimized(problem, known, steps=8)
        assert_inside(problem, root, {"optimized": tight}, rng, 3)
        options = PhaseOptions(max_nodes=24, batch=8, steps=4, tried_nodes=8, witness_evaluations=0)
        relaxed = lp_bound(problem, root, known, HighsBackend())
        found = {
            "optimized": np.concatenate(
                [tight.difference.upper[0, problem.outputs], -tight.difference.lower[0, problem.outputs]]
            ),
            "phases": phase_search(problem, tight, options).upper,
            "lp": np.concatenate([relaxed.upper, -relaxed.lower]),
        }
        differences, error = problem.differences(sample(rng, problem, 2000))
        seen = (signed(differences) - np.tile(error, 2)).max(axis=0)
        for name, upper in found.items():
            assert (seen <= upper).all(), (name, seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_fixed_input_leaves_the_execution_alone(kind, seed, tmp_path):
    problem = image_pair(seed, tmp_path, kind, radius=3, domain="codes")
    root = problem.domain.root
    encoding = encode(problem, root, interval(problem, root))
    with_cuts = encode(problem, root, interval(problem, root), cuts=True)
    points = sample(np.random.default_rng(seed), problem, 40)
    for x in points:
        assert encoding.model.violation(encoding.start_from_input(x)) < 1e-7
        assert with_cuts.model.violation(with_cuts.start_from_input(x)) < 1e-7
    for x in points[:2]:
        point = encoding.start_from_input(x)
        known = encoding.solver_model
        lower = np.maximum(x - 1e-9, known.lower[encoding.inputs])
        upper = np.minimum(x + 1e-9, known.upper[encoding.inputs])
        model = known.with_column_bounds(encoding.inputs, lower, upper)
        assert encoding.levels is not None
        model = model.with_fixed(encoding.levels, point[encoding.levels])
        with HighsBackend().open(model) as session:
            for sign in (1, -1):
                solution = session.maximize(encoding.objective(0, sign))
                assert solution.status == "optimal"
                expected = sign * point[encoding.differences[0]]
                assert solution.claimed_bound == pytest.approx(expected, rel=0, abs=1e-6)


def test_points_that_are_no_numbers_become_inputs(tmp_path):
    problem = image_pair(0, tmp_path, "plain", radius=3)
    root = problem.domain.root
    encoding = encode(problem, root, interval(problem, root))
    for far in (1e300, -1e300):
        x = encoding.point_to_input(np.full(encoding.model.columns, far))
        assert (root.lower[0] <= x).all() and (x <= root.upper[0]).all()


@pytest.mark.parametrize("kind", ["residual", "max-pool", "average-pool"])
def test_the_bracket_is_the_enumerated_difference(kind, tmp_path):
    problem = image_pair(11, tmp_path, kind, radius=0, domain="codes")
    lower, upper = problem.domain.box.lower.copy(), problem.domain.box.upper.copy()
    upper[:6] += 3 * problem.domain.integer.scale[:6]  # four codes on six of the inputs
    result = bound(problem.float_network, problem.quantized, (lower, upper), input_domain="codes", gap=1e-9)
    assert result.status == "optimal"
    problem = type(problem).create(
        problem.float_network, problem.quantized, type(problem.domain.box)(lower, upper), "codes"
    )
    exact = enumerate_codes(problem)
    assert exact.complete
    assert exact.codes == 4**6
    assert result.upper == pytest.approx(float(exact.upper.max()), rel=1e-9)
    assert result.lower <= float(exact.upper.max()) * (1 + 1e-12)
