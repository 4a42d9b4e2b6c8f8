"""Whatever a solver says, the branch and bound over its programs reports bounds that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import all_codes, box, float_network, perturbed, quantized, sample

from milpq.bounds import interval
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend, HighsSession
from milpq.search.budget import Budget
from milpq.search.tree import TreeOptions, tree_search
from milpq.search.tree.jobs import Effort

POISON = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, 0.0])


def garbage(rng, array):
    noise = rng.normal(size=array.shape) * 10.0 ** rng.integers(-12, 12, array.shape)
    return np.where(rng.random(array.shape) < 0.1, rng.choice(POISON, array.shape), noise)


def wrong_objective(_rng, solution, _model):
    return replace(solution, claimed_bound=-1e9, claimed_value=1e9)


def wrong_status(rng, solution, _model):
    return replace(solution, status=["optimal", "stopped", "time_limit", "error"][rng.integers(4)])


def always_infeasible(rng, solution, model):
    ray = None if rng.integers(2) else garbage(rng, np.zeros(model.rows))
    return replace(solution, status="infeasible", claimed_bound=-np.inf, point=None, duals=None, ray=ray)


def infeasible_by_its_duals(_rng, solution, _model):
    return replace(solution, status="infeasible", claimed_bound=-np.inf, ray=solution.duals)


def point_off(rng, solution, _model):
    if solution.point is None:
        return solution
    return replace(solution, point=solution.point + 1e-6 * rng.normal(size=solution.point.shape))


def point_anywhere(rng, solution, model):
    return replace(solution, point=garbage(rng, np.zeros(model.columns)))


def garbage_duals(rng, solution, model):
    return replace(solution, duals=garbage(rng, np.zeros(model.rows)))


def duals_too_large(_rng, solution, _model):
    return solution if solution.duals is None else replace(solution, duals=1.5 * solution.duals)


def nan_duals(_rng, solution, model):
    return replace(solution, duals=np.full(model.rows, np.nan))


def silent(_rng, solution, _model):
    return replace(solution, status="error", point=None, duals=None, ray=None, claimed_bound=np.inf)


def now_and_then(rng, solution, model):
    return LIES[rng.integers(len(LIES) - 1)](rng, solution, model) if rng.random() < 0.3 else solution


LIES = [
    wrong_objective,
    wrong_status,
    always_infeasible,
    infeasible_by_its_duals,
    point_off,
    point_anywhere,
    garbage_duals,
    duals_too_large,
    nan_duals,
    silent,
    now_and_then,
]


class Liar(HighsBackend):
    """HiGHS behind somebody who lies."""

    __slots__ = ("lie", "rng")

    def __init__(self, lie, seed: int) -> None:
        self.lie, self.rng = lie, np.random.default_rng(seed)

    def open(self, model):
        backend = self

        class Session(HighsSession):
            __slots__ = ()

            def maximize(self, objective, options):
                return backend.lie(backend.rng, super().maximize(objective, options), model)

        return Session(model)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_lying_solver_costs_tightness_only(lie, seed):
    rng = np.random.default_rng(seed)
    network = float_network(rng, [2, 4, 3, 1], (0.0, np.inf))
    if seed % 3:
        problem = Problem.create(network, quantized(rng, network, "tflm"), box(-0.5, 0.5, 2), "codes")
        points = all_codes(problem)
    else:
        problem = Problem.create(network, perturbed(rng, network, 0.02), box(-0.5, 0.5, 2))
        points = sample(rng, problem, 4000)
    differences, error = problem.differences(points)
    truth = np.concatenate([differences - error, -differences - error], axis=1).max(axis=0)
    effort = Effort(programs=20, enumerate_codes=16)
    found = tree_search(
        problem,
        interval(problem, problem.domain.root),
        Liar(lie, seed),
        TreeOptions(effort=effort, max_programs=100, each=True, witness_evaluations=0),
        budget=Budget(60.0),
    )
    assert (found.upper >= truth).all()
    assert (found.pool.lower <= found.upper).all()
