"""Lagrangian bounds and the search over phases: every execution lies below them, in exact arithmetic."""

from __future__ import annotations

import pickle
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from curve_pairs import changed, smooth_network, smooth_pair
from exact import Exact
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import all_codes, float_network, perturbed, quantized, residual_pair, sample, some_pair
from random_pairs import box as cube

from milpq.bounds import differential, interval, optimized
from milpq.bounds.hull import Ranges
from milpq.bounds.lagrangian import Lagrangian, Objectives, never, output_objectives
from milpq.bounds.symbolic import differential_within
from milpq.merge import DomainKind, MergedAffine, Problem
from milpq.network.curves import TANH
from milpq.search.budget import Budget
from milpq.search.inside import CuttingInside, last_narrow
from milpq.search.phase_branching import Experience, Trial
from milpq.search.phase_nodes import Offers, offer_cuts
from milpq.search.phase_step import PhaseJob, PhaseStep
from milpq.search.phases import PhaseOptions, PhaseSearch, phase_search
from milpq.search.threads import ThreadExecutor

SEEDS = st.integers(0, 100_000)
MAKERS = st.sampled_from([some_pair, smooth_pair])


def faces(relaxation: Lagrangian, values: list) -> np.ndarray:
    """Return the exact ``(a, v, d)`` of all open neurons at one input, shape (3, open)."""
    parts = [
        np.stack([values[source][0], values[source][1], values[source][1] - values[source][0]])[
            :, layer.neurons
        ]
        for layer, source in zip(relaxation.layers, relaxation.sources, strict=True)
    ]
    return np.concatenate([np.zeros((3, 0)), *parts], axis=1)


def around(rng: np.random.Generator, relaxation: Lagrangian, exact: np.ndarray) -> Ranges:
    """Return ranges of a node that holds one execution: each end moved towards it by some part of the way."""
    array = relaxation.ranges.array.copy()
    for face in range(3):
        value = exact[face].astype(np.float64)
        part = rng.choice([0.0, 0.5, 1.0], size=(2, relaxation.open))
        low, high = array[0, 2 * face], array[0, 2 * face + 1]
        new = low + part[0] * (value - low), high + part[1] * (value - high)
        size = 1e-12 * (1 + np.abs(value))
        array[0, 2 * face] = np.maximum(low, np.minimum(new[0], value) - size)
        array[0, 2 * face + 1] = np.minimum(high, np.maximum(new[1], value) + size)
    return Ranges(array).closed()[0]


@settings(max_examples=80, deadline=None)
@given(MAKERS, SEEDS)
def test_nodes_bound_the_executions_they_hold(maker, seed):
    rng = np.random.default_rng(seed)
    problem = maker(seed)
    exact = Exact(problem)
    relaxation = Lagrangian(problem, interval(problem, problem.domain.root))
    objectives = output_objectives(problem)
    x = sample(rng, problem, 8)[rng.integers(8)]
    values = exact.values(x)
    ranges = around(rng, relaxation, faces(relaxation, values))
    points = relaxation.points(ranges)
    a, v = values[problem.merged.output]
    truth = np.concatenate([(v - a)[problem.outputs], (a - v)[problem.outputs]])
    wild = rng.normal(size=(len(objectives), 2 * relaxation.open)).astype(np.float32)
    found = relaxation.ascend(objectives, 0 * wild, points, ranges, np.full(len(objectives), 0.1), 20)
    for multipliers in (0 * wild, wild, 1e3 * wild, found.multipliers):
        upper = relaxation.certify(objectives, multipliers, points)
        assert all(Fraction(float(end)) >= t for end, t in zip(upper, truth, strict=True))


@settings(max_examples=40, deadline=None)
@given(MAKERS, SEEDS)
def test_cuts_lose_no_execution(maker, seed):
    rng = np.random.default_rng(seed)
    problem = maker(seed)
    step = PhaseStep(problem, differential(problem, problem.domain.root), 5)
    relaxation = step.relaxation
    count = 2 * len(problem.outputs)
    nodes = step.root(np.arange(count), np.full(count, -1.0), never).nodes
    if not len(nodes):
        return
    halves, origin = nodes.halves()
    assert sorted(origin.tolist()) == sorted(2 * list(range(len(nodes))))
    exact = Exact(problem)
    for x in sample(rng, problem, 10):
        values = faces(relaxation, exact.values(x))
        inside = np.all(
            [
                (halves.array[:, 2 * face] <= values[face]) & (values[face] <= halves.array[:, 2 * face + 1])
                for face in range(3)
            ],
            axis=(0, 2),
        )
        for node in range(len(nodes)):
            assert inside[origin == node].any()


@pytest.mark.parametrize("maker", [some_pair, smooth_pair])
@pytest.mark.parametrize("block", range(4))
def test_optimized_bounds_hold_and_tighten(block, maker):
    for seed in range(5 * block, 5 * block + 5):
        problem = maker(seed)
        rng = np.random.default_rng(seed)
        known = differential(problem, problem.domain.root)
        found = optimized(problem, known, steps=20)
        exact = Exact(problem)
        for x in sample(rng, problem, 6):
            for value, (a, v) in zip(found.values, exact.values(x), strict=True):
                for side, truth in (
                    (value.float_side, a),
                    (value.quantized_side, v),
                    (value.difference, v - a),
                ):
                    assert all(side.lower[0] <= truth) and all(truth <= side.upper[0])
        for before, after in zip(known.values, found.values, strict=True):
            assert (after.difference.upper <= before.difference.upper).all()
            assert (after.difference.lower >= before.difference.lower).all()


def test_optimized_slopes_pay_on_a_deep_pair():
    rng = np.random.default_rng(3)
    network = float_network(rng, [12, 16, 16, 16, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-3), cube(-0.3, 0.3, 12))
    known = differential(problem, problem.domain.root).difference
    found = optimized(problem, differential(problem, problem.domain.root)).difference
    assert float((found.upper - found.lower).max()) < 0.9 * float((known.upper - known.lower).max())
    with ThreadExecutor(2) as workers:
        again = optimized(problem, differential(problem, problem.domain.root), spread=workers.map).difference
    np.testing.assert_array_equal(found.upper, again.upper)


@pytest.mark.parametrize("maker", [some_pair, smooth_pair])
def test_bounds_inside_hold_and_tighten(maker, monkeypatch):
    monkeypatch.setattr("milpq.search.inside._NODES", 6)
    for seed in range(6):
        problem = maker(seed)
        rng = np.random.default_rng(seed)
        known = differential(problem, problem.domain.root)
        inside = CuttingInside(problem, problem.merged.output, Budget())
        found = optimized(problem, known, steps=20, inside=inside)
        exact = Exact(problem)
        for x in sample(rng, problem, 6):
            for value, (a, v) in zip(found.values, exact.values(x), strict=True):
                for side, truth in (
                    (value.float_side, a),
                    (value.quantized_side, v),
                    (value.difference, v - a),
                ):
                    assert all(side.lower[0] <= truth) and all(truth <= side.upper[0])
        for before, after in zip(known.values, found.values, strict=True):
            assert (after.difference.upper <= before.difference.upper).all()
            assert (after.difference.lower >= before.difference.lower).all()


def narrow_pair() -> Problem:
    """Return a pair of narrow layers whose kinks nearly all lie inside."""
    rng = np.random.default_rng(4)
    network = float_network(rng, [9, 6, 6, 6, 1], (0.0, np.inf))
    return Problem.create(network, quantized(rng, network, "tflm"), cube(-0.5, 0.5, 9), "codes")


def test_bounds_inside_pay_and_depend_on_no_worker(monkeypatch):
    monkeypatch.setattr("milpq.search.inside._NODES", 12)
    problem = narrow_pair()
    slopes = optimized(problem, differential(problem, problem.domain.root))
    last = last_narrow(problem, slopes)
    assert last == problem.merged.output
    found = optimized(problem, slopes, inside=CuttingInside(problem, last, Budget()))
    widths = [bounds.difference.upper - bounds.difference.lower for bounds in (slopes, found)]
    assert (widths[1] < 0.9 * widths[0]).all()
    with ThreadExecutor(3) as workers:
        again = optimized(problem, slopes, inside=CuttingInside(problem, last, Budget(), workers.map))
    for value, other in zip(found.values, again.values, strict=True):
        np.testing.assert_array_equal(value.difference.upper, other.difference.upper)
        np.testing.assert_array_equal(value.float_side.lower, other.float_side.lower)


def test_bounds_inside_without_time_are_those_known():
    problem = narrow_pair()
    known = optimized(problem, differential(problem, problem.domain.root))
    inside = CuttingInside(problem, problem.merged.output, Budget(0.0))
    for value in range(1, len(known.values)):
        neurons = np.arange(len(known.values[value].difference.upper[0]))
        if isinstance(problem.merged.nodes[value - 1], MergedAffine) and value > 1:
            found = inside(known, value, neurons)
            np.testing.assert_array_equal(found.difference.upper, known.values[value].difference.upper)
            np.testing.assert_array_equal(found.float_side.lower, known.values[value].float_side.lower)


def test_wide_layers_and_outputs_alone_are_not_for_bounds_inside(monkeypatch):
    problem = narrow_pair()
    known = differential(problem, problem.domain.root)
    monkeypatch.setattr("milpq.search.inside.NARROW", 3)
    assert last_narrow(problem, known) == 0
    assert CuttingInside(problem, 0, Budget())(known, 3, np.arange(4)) is None
    rng = np.random.default_rng(1)
    shallow = float_network(rng, [9, 4, 2], (0.0, np.inf))
    problem = Problem.create(shallow, quantized(rng, shallow, "tflm"), cube(-0.5, 0.5, 9), "codes")
    assert last_narrow(problem, differential(problem, problem.domain.root)) == 0


def bottleneck_pair(kind: DomainKind = "codes") -> Problem:
    """Return a pair with a layer of three between layers of ten."""
    rng = np.random.default_rng(7)
    network = float_network(rng, [9, 10, 10, 3, 10, 10, 2], (0.0, np.inf))
    return Problem.create(network, quantized(rng, network, "tflm"), cube(-0.5, 0.5, 9), kind)


@pytest.mark.parametrize("kind", ["codes", "continuous"])
def test_bounds_in_front_of_a_bottleneck_pay_behind_it(monkeypatch, kind):
    monkeypatch.setattr("milpq.search.inside.NARROW", 4)
    monkeypatch.setattr("milpq.search.inside._NODES", 12)
    problem = bottleneck_pair(kind)
    root = problem.domain.root
    slopes = optimized(problem, differential(problem, root))
    last = last_narrow(problem, slopes)
    assert problem.merged.nodes[last - 1].size == 3
    inside = CuttingInside(problem, last, Budget())
    assert inside(slopes, last + 2, np.arange(10)) is None
    tight = optimized(problem, slopes, inside=inside)
    found = differential_within(problem, root, tight)
    before, after = (bounds.difference.upper - bounds.difference.lower for bounds in (slopes, found))
    assert (after < 0.95 * before).all()
    exact, rng = Exact(problem), np.random.default_rng(0)
    for x in sample(rng, problem, 20):
        for value, (a, v) in zip(found.values, exact.values(x), strict=True):
            sides = (value.float_side, a), (value.quantized_side, v), (value.difference, v - a)
            for side, truth in sides:
                assert all(side.lower[0] <= truth) and all(truth <= side.upper[0])


def test_cutting_the_ranges_of_curves_closes_most_of_the_gap():
    rng = np.random.default_rng(6)
    network = smooth_network(rng, [9, 6, 1], TANH)
    problem = Problem.create(network, changed(rng, network, 1e-3), cube(-0.3, 0.3, 9))
    known = differential(problem, problem.domain.root)
    tight = optimized(problem, known)
    root = max(tight.difference.upper[0, 0], -tight.difference.lower[0, 0])
    assert root < max(known.difference.upper[0, 0], -known.difference.lower[0, 0])
    found = phase_search(problem, tight, PhaseOptions(max_nodes=1500, batch=32))
    assert found.nodes > 100
    assert found.upper.max() - found.pool.largest < 0.6 * (root - found.pool.largest)


def test_skips_are_followed():
    rng = np.random.default_rng(0)
    first, second = residual_pair(rng)
    problem = Problem.create(first, second, cube(-0.5, 0.5, 3))
    exact = Exact(problem)
    known = optimized(problem, differential(problem, problem.domain.root))
    found = phase_search(problem, known, PhaseOptions(max_nodes=200, batch=8))
    for x in sample(rng, problem, 20):
        a, v = exact.values(x)[problem.merged.output]
        assert all(Fraction(float(u)) >= t for u, t in zip(found.upper, [*(v - a), *(a - v)], strict=True))


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_on_codes_the_search_stays_above_the_enumerated_extremes(seed):
    rng = np.random.default_rng(seed)
    target = ["tflm", "ort", "litert-ref", "pow2-half-up"][rng.integers(4)]
    options = [{}, {"raw_output": True}, {"stretch": 0.4}, {"lookup": True}][rng.integers(4)]
    network = float_network(rng, [[2, 4, 2], [2, 4, 3, 1]][rng.integers(2)], (0.0, np.inf))
    other = quantized(rng, network, target, bits=int(rng.integers(4, 9)), **options)
    problem = Problem.create(network, other, cube(-0.5, 0.5, 2), "codes")
    differences, _ = problem.differences(all_codes(problem))
    truth = np.concatenate([differences.max(axis=0), -differences.min(axis=0)])
    known = differential(problem, problem.domain.root)
    root = np.concatenate(
        [known.difference.upper[0, problem.outputs], -known.difference.lower[0, problem.outputs]]
    )
    found = phase_search(problem, known, PhaseOptions(max_nodes=100, batch=8, witness_evaluations=100))
    assert (truth <= found.upper + 1e-12).all()
    assert (found.upper <= root + 1e-12).all()
    assert (found.pool.lower <= truth + 1e-12).all()


def test_a_real_pair_is_solved_and_threads_give_the_same():
    rng = np.random.default_rng(6)
    network = float_network(rng, [3, 5, 5, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-3), cube(-0.2, 0.2, 3))
    known = optimized(problem, differential(problem, problem.domain.root))
    options = PhaseOptions(gap=0.1, batch=16, max_nodes=1000)
    found = phase_search(problem, known, options)
    assert found.status in ("closed", "exhausted")
    assert found.pool.largest <= found.upper.max() <= 1.1 * found.pool.largest * (1 + 1e-12)
    assert found.upper.max() < max(known.difference.upper.max(), -known.difference.lower.min())
    with ThreadExecutor(1) as workers:
        again = phase_search(problem, known, options, executor=workers)
    np.testing.assert_array_equal(found.upper, again.upper)
    assert found.nodes == again.nodes


def test_limits_and_tolerances():
    rng = np.random.default_rng(6)
    network = float_network(rng, [10, 12, 12, 2], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-3), cube(-0.4, 0.4, 10))
    known = differential(problem, problem.domain.root)
    loose = phase_search(problem, known, PhaseOptions(max_nodes=1))
    assert loose.status == "limit"
    upper = float(loose.upper.max())
    assert phase_search(problem, known, PhaseOptions(tolerance=1.01 * upper)).status == "certified"
    assert phase_search(problem, known, PhaseOptions(tolerance=0.0)).status == "violated"
    stopped = phase_search(problem, known, budget=Budget(cancelled=lambda: True))
    assert stopped.status == "interrupted"
    assert stopped.upper.max() == max(known.difference.upper.max(), -known.difference.lower.min())
    late = phase_search(problem, known, budget=Budget(0.0))
    assert late.status == "limit"
    np.testing.assert_array_equal(late.upper, [*known.difference.upper[0], *-known.difference.lower[0]])
    shallow = phase_search(problem, known, PhaseOptions(max_nodes=200, memory_bytes=0))
    assert shallow.upper.max() <= upper * (1 + 1e-12)


def test_a_search_that_was_stopped_goes_on():
    rng = np.random.default_rng(6)
    network = float_network(rng, [3, 5, 5, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-3), cube(-0.2, 0.2, 3))
    known = optimized(problem, differential(problem, problem.domain.root))
    options = PhaseOptions(gap=0.05, batch=2)
    search = PhaseSearch(problem, known, options)
    assert search.go(budget=Budget(0.0)).status == "limit"
    rounds = []
    first = search.go(
        budget=Budget(cancelled=lambda: len(rounds) > 2), on_progress=lambda *_: rounds.append(1)
    )
    assert first.status == "interrupted"
    found, whole = search.go(), phase_search(problem, known, options)
    assert found.status == whole.status == "closed"
    assert found.nodes == whole.nodes > first.nodes
    np.testing.assert_array_equal(found.upper, whole.upper)


def test_late_jobs_end_with_valid_nodes():
    rng = np.random.default_rng(6)
    network = float_network(rng, [3, 6, 6, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-3), cube(-0.4, 0.4, 3))
    step = PhaseStep(problem, differential(problem, problem.domain.root), 20)
    threshold, asked = np.full(2, -1.0), iter([False] + [True] * 1000)
    root = step.root(np.arange(2), threshold, lambda: next(asked))
    assert root.experience.count == 0 and len(root.nodes) == 2
    job = PhaseJob(root.nodes, threshold, root.experience, tries=True, deadline=0.0)
    late = step(job)
    assert late.experience.count == 0 and len(late.nodes) > 0
    early = step(replace(job, deadline=None))
    assert early.experience.count > 0
    exact = Exact(problem)
    for x in sample(rng, problem, 10):
        a, v = exact.values(x)[problem.merged.output]
        for objective, truth in enumerate(((v - a)[0], (a - v)[0])):
            left = late.nodes.upper[late.nodes.objective == objective]
            assert Fraction(float(left.max(initial=late.highest[objective]))) >= truth


def test_a_decided_problem_has_nothing_to_cut():
    rng = np.random.default_rng(7)
    network = float_network(rng, [3, 4, 2], (-np.inf, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-2), cube(-1.0, 1.0, 3))
    found = phase_search(problem, interval(problem, problem.domain.root))
    assert found.status in ("closed", "exhausted")
    assert found.open_nodes == 0


def test_steps_survive_pickling():
    problem = some_pair(4)
    step = PhaseStep(problem, differential(problem, problem.domain.root), 5)
    threshold = np.full(2 * len(problem.outputs), -1.0)
    objectives = np.arange(len(threshold))
    first, second = (
        work.root(objectives, threshold, never) for work in (step, pickle.loads(pickle.dumps(step)))
    )
    np.testing.assert_array_equal(first.nodes.upper, second.nodes.upper)


def test_inner_objectives_are_bounded():
    problem = some_pair(11)
    relaxation = Lagrangian(problem, differential(problem, problem.domain.root))
    for source, layer in zip(relaxation.sources, relaxation.layers, strict=True):
        if not len(layer.neurons):
            continue
        neurons = layer.neurons
        one, none = np.ones(len(neurons)), np.zeros(len(neurons))
        objectives = Objectives(source, neurons, none, one)
        points = relaxation.points(relaxation.ranges, source)
        start = np.zeros((len(neurons), 2 * relaxation.open), dtype=np.float32)
        found = relaxation.ascend(objectives, start, points, relaxation.ranges, 0.01 * one, 30)
        upper = relaxation.certify(objectives, found.multipliers, points)
        offers = offer_cuts(
            relaxation, Ranges(np.repeat(relaxation.ranges.array, len(one), axis=0)), found.mean
        )
        cuts = Experience.none(relaxation.open).choose(offers)
        assert np.isfinite(upper).all()
        assert cuts.neuron.shape == upper.shape


def test_cuts_that_have_paid_are_preferred():
    gain, side, neuron = np.array([[0.0, 2.0, 1.0]]), np.zeros(3, dtype=np.int64), np.array([0, 0, 1])
    offers = Offers(gain, neuron, side, gain, gain)
    nothing = Experience.none(2)
    assert nothing.choose(offers).neuron == [0]
    trial = Trial.of(offers, nothing)
    assert trial.columns.tolist() == [1, 2]
    gains = np.array([[0.1, 0.9], [0.1, 0.5]])
    cuts, learned = trial.settle(gains, np.ones(1), 2)
    assert cuts.neuron == [1]
    for _ in range(6):
        learned = learned.join(learned)
    assert learned.choose(offers).neuron == [1]
    none, _ = Trial.of(Offers(0 * gain, neuron, side, gain, gain), nothing).settle(
        np.zeros((2, 0)), np.ones(1), 2
    )
    assert none.neuron == [-1]


def test_trials_without_a_witness_teach_what_is_finite():
    """Then all there is to gain is unbounded, and an empty part gains it."""
    gain, side, neuron = np.array([[0.0, 2.0, 1.0]]), np.zeros(3, dtype=np.int64), np.array([0, 0, 1])
    offers = Offers(gain, neuron, side, gain, gain)
    trial = Trial.of(offers, Experience.none(2))
    cuts, learned = trial.settle(np.array([[0.1, np.inf], [0.1, 0.5]]), np.full(1, np.inf), 2)
    assert cuts.neuron == [1]
    assert np.isfinite(learned.sums).all()
    assert np.isfinite(learned.score(offers)).all()
