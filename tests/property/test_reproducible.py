"""A run without a time limit finds the same for any number of workers: bounds, witness, way."""

from __future__ import annotations

import numpy as np
import pytest
from random_pairs import box, float_network, perturbed, quantized
from search_problems import problem_of

import milpq
from milpq.bounds import differential, interval
from milpq.errors import WorkersLostError
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend
from milpq.search.bounding import Propagated, Zonotope
from milpq.search.budget import Budget
from milpq.search.enumerate import enumerate_codes
from milpq.search.executor import SerialExecutor, open_executor
from milpq.search.ordered import AHEAD
from milpq.search.phases import PhaseOptions, phase_search
from milpq.search.split import SplitOptions, split_search
from milpq.search.threads import ThreadExecutor
from milpq.search.tree import TreeOptions, tree_search
from milpq.search.tree.jobs import Effort


def by_jobs(search):
    """Return what a search finds with one, two and three workers."""
    found = []
    for workers in (1, 2, 3):
        with open_executor("local", workers) as executor:
            found.append(search(executor))
    return found


def assert_same(found):
    first, *others = found
    for other in others:
        np.testing.assert_array_equal(other.upper, first.upper)
        for name in ("points", "levels", "values", "lower"):
            np.testing.assert_array_equal(getattr(other.pool, name), getattr(first.pool, name))


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
@pytest.mark.parametrize("bounding", [Propagated(interval), Zonotope()], ids=["interval", "zonotope"])
def test_splitting(kind, bounding):
    problem = problem_of(kind)
    few = {"enumerate_codes": 4, "enumerate_cells": 4, "witness_evaluations": 500}
    options = SplitOptions(gap=0.01, max_cubes=400, batch=8, **few)
    found = by_jobs(lambda executor: split_search(problem, bounding, options, executor=executor))
    assert_same(found)
    assert found[0].rounds > 2 * AHEAD
    assert len({(one.status, one.rounds, one.open_cubes, one.bounded_cubes) for one in found}) == 1


@pytest.mark.parametrize("kind", ["codes", "continuous"])
def test_the_tree(kind):
    problem = problem_of(kind, seed=5)
    bounds = interval(problem, problem.domain.root)
    effort = Effort(programs=12, enumerate_codes=8, enumerate_cells=8)
    options = TreeOptions(effort=effort, max_programs=120, witness_evaluations=500)

    def search(executor):
        return tree_search(problem, bounds, HighsBackend(), options, executor=executor)

    found = by_jobs(search)
    assert_same(found)
    assert found[0].rounds > 2 * AHEAD
    assert len({(one.status, one.rounds, one.programs, one.leaves) for one in found}) == 1


def test_phases():
    problem = problem_of("real", sizes=(6, 12, 12, 2))
    bounds = differential(problem, problem.domain.root)
    options = PhaseOptions(max_nodes=300, batch=8, tried_nodes=10, witness_evaluations=200)
    found = by_jobs(lambda executor: phase_search(problem, bounds, options, executor=executor))
    assert_same(found)
    assert found[0].nodes > 100
    assert len({(one.status, one.nodes, one.open_nodes) for one in found}) == 1


def test_enumeration():
    problem = problem_of("codes", 1)
    found = by_jobs(lambda executor: enumerate_codes(problem, executor=executor, range_size=100))
    assert all(one.complete for one in found)
    assert_same(found)


def test_the_budget_of_nodes_cuts_at_the_same_place():
    problem = problem_of("real", sizes=(6, 12, 12, 2))
    bounds = differential(problem, problem.domain.root)
    options = PhaseOptions(batch=8, tried_nodes=10, witness_evaluations=0)

    def search(executor):
        return phase_search(problem, bounds, options, executor=executor, budget=Budget(evaluations=100))

    found = by_jobs(search)
    assert found[0].status == "limit"
    assert_same(found)
    assert len({one.nodes for one in found}) == 1


@pytest.mark.parametrize("inputs", [3, 9], ids=["split", "many inputs"])
def test_whole_runs(inputs, monkeypatch):
    monkeypatch.setattr("milpq.verify.optimize._TRIAL_S", 0.3)
    rng = np.random.default_rng(1)
    network = float_network(rng, [inputs, 6, 4, 1], (0.0, np.inf))
    other = quantized(rng, network, "tflm") if inputs < 9 else perturbed(rng, network, 0.01)
    region = box(-0.2, 0.2, inputs) if inputs < 9 else box(-0.3, 0.4, inputs)
    runs = [milpq.bound(network, other, region, jobs=jobs, gap=0.01) for jobs in (1, 2, 3)]
    assert runs[0].status == "optimal"
    assert {method.name for method in runs[0].methods} >= (
        {"split"} if inputs < 9 else {"optimized", "phases", "milp"}
    )
    assert len({(run.status, run.lower, run.upper) for run in runs}) == 1
    for run in runs[1:]:
        np.testing.assert_array_equal(run.witness.input, runs[0].witness.input)


@pytest.mark.parametrize("executor", [SerialExecutor(), ThreadExecutor(3)], ids=["serial", "threads"])
def test_jobs_are_asked_for_at_the_same_places(executor):
    """The n-th job is asked for when exactly n − AHEAD results have been seen."""
    seen, asked = [], []

    def jobs():
        for number in range(20):
            asked.append(len(seen))
            yield number
            if number == 9:
                while len(seen) < 10:
                    yield None

    with executor:
        for result in executor.map(lambda job: 10 * job, jobs()):
            seen.append(result)  # noqa: PERF402 - looked at by `jobs` meanwhile
    assert seen == [10 * number for number in range(20)]
    expected = [max(0, n + 1 - AHEAD) for n in range(10)]
    assert asked[:10] == expected
    assert asked[10:] == [max(10, n + 1 - AHEAD) for n in range(10, 20)]


def test_none_with_nothing_under_way_ends():
    assert list(SerialExecutor().map(lambda job: job, iter([None, 1]))) == []
    assert list(SerialExecutor().map(lambda job: job, iter([1, None, 2, None, None, 3]))) == [1, 2]


def test_a_failing_job_is_raised_in_its_turn():
    def work(job):
        if job == 2:
            raise WorkersLostError("no more")
        return job

    with ThreadExecutor(2) as executor:
        results = executor.map(work, range(9))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(WorkersLostError):
            next(results)


def test_problems_differ():
    """What is compared above is no constant."""
    tops = [
        split_search(problem_of("codes", seed), Propagated(interval), SplitOptions(max_cubes=100)).upper.max()
        for seed in (0, 1)
    ]
    assert tops[0] != tops[1]
    assert isinstance(problem_of("codes"), Problem)
