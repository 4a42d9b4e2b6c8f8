"""The float network behind a narrow layer: bounds on cubes of that layer hold, and are tighter."""

from __future__ import annotations

import numpy as np
import pytest
from curve_pairs import changed, smooth_network
from exact import Exact
from random_pairs import box as cube
from random_pairs import float_network, perturbed, quantized, residual_pair, sample

import milpq
from milpq.bounds import differential, interval
from milpq.bounds.symbolic import differential_within
from milpq.bounds.values import Bounds, Interval
from milpq.merge import MergedAffine, Problem
from milpq.network.curves import TANH
from milpq.network.float_network import FloatNetwork
from milpq.search import behind
from milpq.search.behind import bounds_behind, compile_behind, float_network_behind, narrowest
from milpq.search.budget import Budget
from milpq.search.threads import ThreadExecutor

SIZES = [9, 8, 3, 12, 12, 12, 2]


def clamped(seed: int) -> Problem:
    """Return a pair on codes with a layer of three."""
    rng = np.random.default_rng(seed)
    network = float_network(rng, SIZES, (0.0, np.inf))
    return Problem.create(network, quantized(rng, network, "tflm"), cube(-2.0, 2.0, 9), "codes")


def real(seed: int) -> Problem:
    """Return a pair with changed weights, of clamps at two ends."""
    rng = np.random.default_rng(seed)
    network = float_network(rng, SIZES, (0.0, 0.7))
    return Problem.create(network, perturbed(rng, network, 1e-2), cube(-2.0, 2.0, 9))


def smooth(seed: int) -> Problem:
    """Return a pair of curves with changed weights."""
    rng = np.random.default_rng(seed)
    network = smooth_network(rng, SIZES, TANH)
    return Problem.create(network, changed(rng, network, 1e-2), cube(-2.0, 2.0, 9))


def last_affine(problem: Problem, bounds: Bounds) -> Interval:
    """Return the bounds on the float side of the last affine value."""
    value = max(v for v, node in enumerate(problem.merged.nodes, 1) if isinstance(node, MergedAffine))
    return bounds.values[value].float_side


@pytest.mark.parametrize("make", [clamped, real, smooth])
def test_bounds_behind_hold_and_tighten(make, monkeypatch):
    monkeypatch.setattr(behind, "_CUBES", 300)
    tighter = 0
    for seed in range(2):
        problem = make(seed)
        root = problem.domain.root
        known = interval(problem, root)
        value = narrowest(problem.merged)
        assert problem.merged.nodes[value - 1].size == 3
        found = bounds_behind(problem, known, value, Budget())
        carried = differential_within(problem, root, found)
        exact, rng = Exact(problem), np.random.default_rng(seed)
        for x in sample(rng, problem, 8):
            for bounds in (found, carried):
                for known_value, (a, v) in zip(bounds.values, exact.values(x), strict=True):
                    for side, truth in (
                        (known_value.float_side, a),
                        (known_value.quantized_side, v),
                        (known_value.difference, v - a),
                    ):
                        assert all(side.lower[0] <= truth) and all(truth <= side.upper[0])
        before, after = (last_affine(problem, b) for b in (known, found))
        assert (after.upper <= before.upper).all() and (after.lower >= before.lower).all()
        tighter += bool(((after.upper - after.lower) < 0.9 * (before.upper - before.lower)).any())
    assert tighter == 2


def test_the_network_behind_is_the_rest_of_the_network():
    problem = clamped(1)
    value = narrowest(problem.merged)
    tail = float_network_behind(problem, value)
    rng = np.random.default_rng(0)
    network = problem.float_network
    for x in sample(rng, problem, 5):
        front = FloatNetwork(network.input_size, network.nodes[:value], value)
        at = front.evaluate(np.array([x], dtype=np.float64))
        whole = network.evaluate(np.array([x], dtype=np.float64))
        np.testing.assert_allclose(tail.evaluate(at), whole, rtol=1e-12)


def test_more_cubes_are_no_worse_and_workers_change_nothing(monkeypatch):
    problem = clamped(2)
    known = interval(problem, problem.domain.root)
    value = narrowest(problem.merged)
    widths = []
    for cubes in (1, 100, 600):
        monkeypatch.setattr(behind, "_CUBES", cubes)
        side = last_affine(problem, bounds_behind(problem, known, value, Budget()))
        widths.append(side.upper - side.lower)
    assert (widths[0] >= widths[1]).all() and (widths[1] >= widths[2]).all()
    assert (widths[2] < widths[0]).any()
    with ThreadExecutor(3) as workers:
        again = last_affine(problem, bounds_behind(problem, known, value, Budget(), workers.map))
    np.testing.assert_array_equal(again.upper - again.lower, widths[2])


def test_without_time_the_whole_box_is_bounded():
    problem = clamped(3)
    known = differential(problem, problem.domain.root)
    found = bounds_behind(problem, known, narrowest(problem.merged), Budget(0.0))
    for before, after in zip(known.values, found.values, strict=True):
        assert (after.float_side.upper <= before.float_side.upper).all()


def test_a_network_without_a_kink_is_not_split(monkeypatch):
    rng = np.random.default_rng(0)
    network = float_network(rng, SIZES, (-1e6, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-2), cube(-2.0, 2.0, 9))
    calls = []
    whole = behind._Splitting.bounded
    monkeypatch.setattr(
        behind._Splitting, "bounded", lambda self, cubes: calls.append(1) or whole(self, cubes)
    )
    bounds_behind(problem, differential(problem, problem.domain.root), narrowest(problem.merged), Budget())
    assert len(calls) == 1


def test_where_nothing_is_narrow_nothing_is_bounded():
    rng = np.random.default_rng(0)
    for sizes, expected in (
        ([9, 20, 20, 20, 2], 0),
        ([9, 3, 20, 2], 0),
        ([9, 20, 3, 2], 0),
        ([9, 20, 3, 20, 2], 3),
    ):
        network = float_network(rng, sizes, (0.0, np.inf))
        problem = Problem.create(network, perturbed(rng, network, 1e-2), cube(-2.0, 2.0, 9))
        assert narrowest(problem.merged) == expected
        compile_behind(problem)
    first, second = residual_pair(rng)
    skips = Problem.create(first, second, cube(-0.5, 0.5, 3)).merged
    value = narrowest(skips)
    assert all(source >= value for node in skips.nodes[value:] for source in node.sources)


def test_a_run_uses_them(monkeypatch):
    rng = np.random.default_rng(5)
    network = float_network(rng, [12, 10, 3, 10, 10, 2], (0.0, np.inf))
    other = quantized(rng, network, "tflm")
    monkeypatch.setattr("milpq.search.inside.NARROW", 4)
    monkeypatch.setattr("milpq.search.inside._NODES", 6)
    monkeypatch.setattr(behind, "_CUBES", 100)
    used = []
    monkeypatch.setattr(
        "milpq.verify.stages.bounds_behind", lambda *args: used.append(1) or bounds_behind(*args)
    )
    result = milpq.bound(network, other, cube(-1.0, 1.0, 12), input_domain="codes", time_limit=6.0)
    assert used and "inside" in {method.name for method in result.methods}
    assert result.lower <= result.upper and result.certificate.trust == "checked"
