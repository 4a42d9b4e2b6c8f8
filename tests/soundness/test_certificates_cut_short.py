"""A certificate that is written when time is up claims what its own leaves prove, not what is known otherwise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from certificates import codes_problem, real_problem
from random_pairs import box, float_network, quantized

from milpq.bounds import differential
from milpq.certificate.check import check
from milpq.certificate.format import BOUND, DUAL
from milpq.certificate.tree import Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Problem
from milpq.milp.backends import choose_backend
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.decider import Decider, Leaves
from milpq.search.proof import Tree, write


def after(calls: int) -> Callable[[float, int, int], None]:
    """Return what is told of progress, and interrupts at some call of it."""
    told: list[float] = []

    def listen(proved: float, *_: int) -> None:
        told.append(proved)
        if len(told) == calls:
            raise KeyboardInterrupt

    return listen


def many_inputs() -> Problem:
    """Return a problem whose leaves are bounded far better by multipliers than by forms."""
    rng = np.random.default_rng(5)
    network = float_network(rng, [12, 10, 3, 10, 10, 2], (0.0, np.inf))
    return Problem.create(network, quantized(rng, network, "tflm"), box(-1.0, 1.0, 12), "codes")


@pytest.mark.parametrize("programs", [1, 2, 5, 12])
def test_halves_that_were_not_bounded_leave_the_evidence_of_the_whole(programs, tmp_path, monkeypatch):
    problem = many_inputs()
    monkeypatch.setattr(Decider, "_search", lambda *_: Leaves())
    backend, bounds = choose_backend("highs").backend, differential(problem, problem.domain.root)
    decider = Decider(problem, Zonotope(problem), backend, bounds)
    trees = decider.run(1.0, Budget(), after(programs))
    upper = np.concatenate([tree.upper for tree in trees])
    assert np.isfinite(upper).all()
    path = tmp_path / "proof.milpq"
    write(path, problem, trees, upper, None, dequantized=False)
    verified = check(path, problem.float_network, problem.quantized)
    np.testing.assert_array_equal(verified.objectives, upper)
    assert sum(verified.leaves.values()) == sum(tree.leaves for tree in trees)
    assert verified.leaves["multipliers"]


@pytest.mark.parametrize("make", [codes_problem, real_problem])
def test_regions_half_split_are_proved(make, tmp_path):
    problem = make()
    found = Certifier(problem).run(1e-3, Budget(), on_progress=after(2))
    assert not found.complete
    path = tmp_path / "proof.milpq"
    write(path, problem, found.trees, found.upper, None, dequantized=False)
    verified = check(path, problem.float_network, problem.quantized)
    np.testing.assert_array_equal(verified.objectives, found.upper)


def test_pruned_trees():
    problem = real_problem()
    splitter = Splitter(problem.domain, Zonotope(problem).whole)
    tree = Tree(splitter.root(), 0, 1)

    def halve(number: int) -> list[int]:
        part = tree.parts([number])[0]
        cut = float(0.5 * part.box[0] + 0.5 * part.box[len(part.box) // 4])
        return tree.split(number, 0, cut, splitter.split(part, 0, cut))

    duals = np.array([3]), np.array([0.5])
    tree.settle(0, DUAL, np.array([4.0]), duals)
    low, high = halve(0)
    assert tree.bound(low) == tree.bound(high) == 4.0
    assert tree.proved(low) == np.inf
    tree.settle(low, BOUND, np.array([3.0]))
    tree.settle(high, DUAL, np.array([2.0]), duals)
    # One half of the upper half is worse than it, of the lower half's nothing is known.
    above = halve(high)
    tree.settle(above[0], BOUND, np.array([1.0]))
    tree.settle(above[1], BOUND, np.array([2.5]))
    halve(low)
    assert tree.upper == np.inf
    tree.prune()
    assert (tree.upper, tree.leaves) == (3.0, 2)
    nodes, cuts, multipliers, planes = tree.preorder()
    assert nodes[1:] == [BOUND, DUAL]
    assert (len(cuts), len(multipliers), len(planes)) == (1, 1, 0)
