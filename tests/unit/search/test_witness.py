from fractions import Fraction

import numpy as np
import pytest
from search_problems import problem_of

from milpq.errors import UsageError
from milpq.search.budget import Budget
from milpq.search.enumerate import enumerate_codes
from milpq.search.inputs import FeedableInputs
from milpq.search.moves import Moves
from milpq.search.pool import WitnessPool, enclose_difference, refine_exact, refine_pool, round_down, round_up
from milpq.search.witness import WitnessOptions, search_witnesses


@pytest.mark.parametrize("seed", range(4))
def test_the_search_never_exceeds_and_here_meets_the_enumeration(seed):
    problem = problem_of("codes", seed)
    truth = enumerate_codes(problem)
    pool = search_witnesses(problem, WitnessOptions(evaluations=40_000, each=True))
    assert (pool.lower <= truth.upper).all()
    assert np.allclose(pool.lower, truth.upper, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_witnesses_replay(kind):
    problem = problem_of(kind)
    pool = search_witnesses(problem, WitnessOptions(evaluations=5_000))
    for objective in range(4):
        witness = pool.witness(objective)
        exact = enclose_difference(problem, witness.point)[witness.output][0]
        assert witness.sign == (1 if objective < 2 else -1)
        assert Fraction(witness.lower) <= witness.sign * exact
        assert abs(float(exact) - witness.difference) < 1e-12
        if kind != "real":
            assert np.array_equal(problem.quantized_levels(witness.point[None])[0], witness.levels)
        refined = refine_exact(problem, witness)
        assert refined.lower >= witness.lower
        assert Fraction(refined.lower) <= witness.sign * exact < Fraction(np.nextafter(refined.lower, np.inf))
    assert (refine_pool(problem, pool).lower >= pool.lower).all()
    assert pool.best.lower == pool.largest


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_climbs_of_many_inputs_leave_random_inputs_far_behind(kind):
    problem = problem_of(kind, sizes=(24, 10, 2))
    pool = search_witnesses(problem, WitnessOptions(evaluations=20_000))
    points = FeedableInputs(problem).random(np.random.default_rng(0), 20_000)
    assert pool.largest > 1.1 * np.abs(problem.differences(points)[0]).max()
    exact = enclose_difference(problem, pool.best.point)[pool.best.output][0]
    assert Fraction(pool.largest) <= abs(exact)
    root = problem.domain.root
    assert ((root.lower[0] <= pool.best.point) & (pool.best.point <= root.upper[0])).all()


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_a_seed_decides_the_result(kind):
    problem = problem_of(kind)
    options = WitnessOptions(evaluations=6_000, seed=3)
    first, second = (search_witnesses(problem, options) for _ in range(2))
    assert np.array_equal(first.points, second.points)
    assert np.array_equal(first.lower, second.lower)


def test_known_witnesses_are_kept_and_starts_are_used():
    problem = problem_of("codes", sizes=(4, 8, 2))
    good = search_witnesses(problem, WitnessOptions(evaluations=60_000, each=True))
    few = WitnessOptions(evaluations=1)
    kept = search_witnesses(problem, few, pool=good)
    assert (kept.lower >= good.lower).all()
    started = search_witnesses(problem, few, starts=good.points + 1e-4)
    assert (started.lower >= good.lower).all()


def test_the_float_side_moves_inside_a_code_cell():
    continuous, codes = problem_of("continuous"), problem_of("codes")
    options = WitnessOptions(evaluations=20_000)
    assert search_witnesses(continuous, options).largest > search_witnesses(codes, options).largest


def test_budgets_stop_the_search():
    problem = problem_of("codes")
    budget = Budget(evaluations=3_000)
    search_witnesses(problem, budget=budget)
    assert 0 < budget.used < 20_000
    budget = Budget(cancelled=lambda: True)
    pool = search_witnesses(problem, budget=budget)
    assert np.isfinite(pool.lower).all()
    assert Budget(time_limit_s=0.0).spent


def test_an_empty_pool():
    pool = WitnessPool.empty(problem_of("codes"))
    assert pool.largest == 0.0
    assert pool.best is None
    full = search_witnesses(problem_of("codes"), WitnessOptions(evaluations=500))
    assert np.array_equal(pool.join(full).lower, full.lower)
    assert full.join(pool) is full


def test_rounding_of_fractions():
    third = Fraction(1, 3)
    assert Fraction(round_down(third)) < third < Fraction(round_up(third))
    assert np.nextafter(round_down(third), 1.0) == round_up(third)
    assert round_down(Fraction(1, 4)) == round_up(Fraction(1, 4)) == 0.25


def test_options_are_checked():
    with pytest.raises(UsageError):
        WitnessOptions(brood=1)


def test_networks_of_many_outputs_keep_a_generation_small(monkeypatch):
    """Hundreds of objectives of hundreds of inputs: only the most promising ones move."""
    problem = problem_of("real", sizes=(300, 4, 400), seed=2)
    sizes = []
    children = Moves.children

    def recorded(self, *arguments):
        result = children(self, *arguments)
        sizes.append(result.size)
        return result

    monkeypatch.setattr(Moves, "children", recorded)
    pool = search_witnesses(problem, budget=Budget(evaluations=10_000))
    assert sizes
    assert max(sizes) <= 2_000_000
    assert np.isfinite(pool.lower).all()
