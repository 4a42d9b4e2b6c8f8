"""Bounds by linear programs hold whatever the solver says, and only ever tighten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import box, float_network, interval_bounds, perturbed, sample, some_pair

from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend, HighsSession
from milpq.milp.encode import Encoder
from milpq.milp.relax import lp_bound, obbt

HIGHS = HighsBackend()


class LyingSession(HighsSession):
    """Distorts the duals it gives."""

    __slots__ = ("_rng",)

    def maximize(self, objective, options=None):
        solution = super().maximize(objective) if options is None else super().maximize(objective, options)
        rng = np.random.default_rng(int(1e6 * abs(float(objective.sum()))) + objective.size)
        if solution.duals is None:
            return solution
        kinds = [
            -solution.duals,
            solution.duals * rng.normal(size=solution.duals.size),
            np.full(solution.duals.size, np.nan),
            rng.normal(size=solution.duals.size),
        ]
        return replace(solution, duals=kinds[rng.integers(4)], claimed_bound=-1e9)


class LyingHighs(HighsBackend):
    def open(self, model):
        return LyingSession(model)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 100_000), st.booleans())
def test_samples_stay_inside_whatever_the_solver_says(seed, honest):
    problem = some_pair(seed)
    backend = HIGHS if honest else LyingHighs()
    root = problem.domain.root
    bounds = interval_bounds(problem, root)
    tightened = obbt(problem, root, bounds, backend, budget_s=3.0)
    found = lp_bound(problem, root, tightened, backend)
    points = sample(np.random.default_rng(seed), problem, 500)
    differences, _ = problem.differences(points)
    assert (differences <= found.upper + 1e-12).all()
    assert (differences >= found.lower - 1e-12).all()
    encoding = Encoder(problem).encode(root, tightened, cuts=True)
    for x in points[:40]:
        assert encoding.model.violation(encoding.start_from_input(x)) < 1e-9
    for old, new in zip(bounds.values, tightened.values, strict=True):
        for face in ("float_side", "quantized_side", "difference"):
            assert (getattr(new, face).lower >= getattr(old, face).lower).all()
            assert (getattr(new, face).upper <= getattr(old, face).upper).all()


def test_tightening_helps_on_a_deep_pair():
    rng = np.random.default_rng(5)
    network = float_network(rng, [4, 12, 12, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-3), box(-0.1, 0.1, 4))
    root = problem.domain.root
    bounds = interval_bounds(problem, root)
    before = lp_bound(problem, root, bounds, HIGHS)
    after = lp_bound(problem, root, obbt(problem, root, bounds, HIGHS, 10.0), HIGHS)
    assert after.upper[0] < 0.7 * before.upper[0]
    assert before.complete
    assert before.points.shape == (2, 4)


def test_no_time_means_the_bounds_one_came_with():
    problem = some_pair(7)
    root = problem.domain.root
    bounds = interval_bounds(problem, root)
    found = lp_bound(problem, root, bounds, HIGHS, time_limit=0.0)
    assert not found.complete
    np.testing.assert_array_equal(found.upper, bounds.difference.upper[0, problem.outputs])
    assert obbt(problem, root, bounds, HIGHS, budget_s=0.0) is bounds


@pytest.mark.parametrize("seed", [11, 12])
def test_cuts_never_loosen_the_relaxation(seed):
    problem = some_pair(seed)
    root = problem.domain.root
    bounds = interval_bounds(problem, root)
    values = []
    for cuts in (False, True):
        encoding = Encoder(problem).encode(root, bounds, cuts=cuts)
        with HIGHS.open(encoding.solver_model.relaxed()) as session:
            values.append(session.maximize(encoding.objective(0, 1)).claimed_bound)
    assert values[1] <= values[0] + 1e-7
