from fractions import Fraction

import numpy as np
import pytest
from random_pairs import all_codes, box, float_network, quantized
from search_problems import almost_constant, problem_of

from milpq.errors import UsageError
from milpq.merge import Cubes, Problem
from milpq.search.budget import Budget
from milpq.search.codes import MANY, count_codes, levels_of
from milpq.search.enumerate import enumerate_codes, enumerate_cubes
from milpq.search.execution import Execution, signed
from milpq.search.pool import WitnessPool, enclose_difference, sharpen
from milpq.search.threads import ThreadExecutor


def small(seed, sizes=(2, 5, 4, 2)):
    rng = np.random.default_rng(seed)
    network = float_network(rng, list(sizes), (0.0, np.inf))
    return Problem.create(network, quantized(rng, network, "tflm"), box(-0.3, 0.4, sizes[0]), "codes")


@pytest.mark.parametrize("seed", range(3))
def test_enumeration_is_brute_force_in_fractions(seed):
    problem = small(seed)
    exact = [[least for least, _ in enclose_difference(problem, point)] for point in all_codes(problem)]
    result = enumerate_codes(problem)
    assert result.complete
    assert result.exact.all()
    assert result.codes == len(exact)
    for k in range(4):
        truth = max((1 if k < 2 else -1) * row[k % 2] for row in exact)
        assert Fraction(float(result.pool.lower[k])) <= truth <= Fraction(float(result.upper[k]))
        assert np.nextafter(result.pool.lower[k], np.inf) >= result.upper[k]


@pytest.mark.parametrize(("codes", "exact"), [(50, True), (1000, False)])
def test_ties_within_the_error_are_settled_exactly_up_to_a_number(codes, exact):
    problem = almost_constant(codes)
    result = enumerate_codes(problem)
    assert result.exact.tolist() == [exact, exact]
    truth = enclose_difference(problem, np.zeros(1))[0][0]
    assert truth <= Fraction(float(result.upper[0]))
    lowest = -enclose_difference(problem, np.array([codes - 1.0]))[0][0]
    assert lowest <= Fraction(float(result.upper[1]))
    if exact:
        assert result.pool.levels[:, 0].tolist() == [0, codes - 1]


def test_levels_are_numbered_through_all_cubes():
    lower = np.array([[0, -1, 5], [2, 2, 2], [-3, 0, 0]])
    upper = np.array([[1, 1, 5], [2, 2, 2], [-2, 1, 2]])
    cubes = Cubes(lower.astype(float), upper.astype(float), lower, upper)
    counts = count_codes(cubes)
    assert counts.tolist() == [6, 1, 12]
    owner, levels = levels_of(cubes, 0, 19)
    assert np.array_equal(np.bincount(owner), counts)
    assert len({(int(o), *row) for o, row in zip(owner, levels.tolist(), strict=True)}) == 19
    assert ((levels >= lower[owner]) & (levels <= upper[owner])).all()
    part_owner, part = levels_of(cubes, 5, 9)
    assert np.array_equal(part, levels[5:9])
    assert np.array_equal(part_owner, owner[5:9])


def test_counts_saturate():
    for inputs in (100, 3072):  # the second product leaves float64, too
        lower, upper = np.full((1, inputs), -128), np.full((1, inputs), 127)
        cubes = Cubes(lower.astype(float), upper.astype(float), lower, upper)
        assert count_codes(cubes)[0] == MANY


def test_many_cubes_at_once():
    problem = small(1)
    execution = Execution(problem)
    root = problem.domain.root
    middle = int(root.level_lower[0, 0] + root.level_upper[0, 0]) // 2
    upper = np.repeat(root.level_upper, 2, axis=0)
    lower = np.repeat(root.level_lower, 2, axis=0)
    upper[0, 0], lower[1, 0] = middle, middle + 1
    cubes = problem.domain.cubes_of_levels(lower, upper)
    bounds, pool = enumerate_cubes(execution, cubes, WitnessPool.empty(problem))
    whole = enumerate_codes(problem)
    assert np.allclose(bounds.max(axis=0), whole.upper, rtol=0, atol=1e-11)
    assert (bounds.max(axis=0) >= whole.upper).all()
    assert (pool.lower <= whole.upper).all()
    for cube in range(2):
        alone = enumerate_codes(problem, cubes.select(slice(cube, cube + 1)))
        assert np.allclose(bounds[cube], alone.upper, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_values_near_the_threshold_get_an_error_of_their_own(seed):
    problem = small(seed)
    execution, root, none = Execution(problem), problem.domain.root, WitnessPool.empty(problem)
    coarse, _ = enumerate_cubes(execution, root, none)
    fine, pool = enumerate_cubes(execution, root, none, np.full(execution.objectives, -np.inf))
    exact = [[least for least, _ in enclose_difference(problem, point)] for point in all_codes(problem)]
    for k in range(execution.objectives):
        truth = max((1 if k < 2 else -1) * row[k % 2] for row in exact)
        assert Fraction(float(pool.lower[k])) <= truth <= Fraction(float(fine[0, k]))
    assert (fine - pool.lower < 0.7 * (coarse - pool.lower)).all()
    far, _ = enumerate_cubes(execution, root, none, np.full(execution.objectives, np.inf))
    assert np.array_equal(far, coarse)


def test_witnesses_by_their_own_error_are_closer_and_still_below():
    problem = small(4)
    execution, point = Execution(problem), problem.domain.root.lower
    levels = problem.domain.root.level_lower
    none = WitnessPool.empty(problem)
    known = none.update(point, levels, execution.run(point, levels), execution.error)
    sharp = sharpen(problem, known)
    least = enclose_difference(problem, point[0])
    for k in range(execution.objectives):
        exact = (1 if k < 2 else -1) * least[k % 2][0]
        assert Fraction(float(sharp.lower[k])) <= exact
        assert known.lower[k] < sharp.lower[k]
    assert sharpen(problem, none) is none


def test_ranges_and_threads_give_the_same_answer():
    problem = small(2)
    whole = enumerate_codes(problem)
    seen = []
    parts = enumerate_codes(
        problem, range_size=17, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (whole.codes, whole.codes)
    with ThreadExecutor(2) as executor:
        threads = enumerate_codes(problem, range_size=17, executor=executor)
    for other in (parts, threads):
        assert np.array_equal(other.upper, whole.upper)
        assert np.array_equal(other.pool.lower, whole.pool.lower)


def test_an_unfinished_enumeration_claims_no_upper_bound():
    problem = small(0)
    done = []
    budget = Budget(cancelled=lambda: len(done) >= 2)
    result = enumerate_codes(problem, range_size=5, budget=budget, on_progress=lambda *_: done.append(1))
    assert not result.complete
    assert result.codes == 10
    assert np.isinf(result.upper).all()
    assert np.isfinite(result.pool.lower).all()
    nothing = enumerate_codes(problem, budget=Budget(cancelled=lambda: True))
    assert not nothing.complete
    assert nothing.pool.best is None


def test_only_domains_of_codes():
    with pytest.raises(UsageError):
        enumerate_codes(problem_of("continuous"))


def test_extremes_agree_with_plain_execution():
    problem = problem_of("codes")
    values = signed(Execution(problem).run(all_codes(problem)))
    assert np.allclose(enumerate_codes(problem).upper, values.max(axis=0), rtol=0, atol=1e-12)


def test_ties_are_not_settled_for_ever():
    """The time limit holds while candidates are compared exactly: what is left is known within the error."""
    problem = almost_constant(40)
    asked = []

    def late() -> bool:
        asked.append(1)
        return len(asked) > 5

    found = enumerate_codes(problem, budget=Budget(cancelled=late))
    whole = enumerate_codes(problem)
    assert found.complete and whole.exact.all()
    assert not found.exact.any()
    assert (found.upper >= whole.upper).all()
    assert (found.pool.lower <= whole.upper).all() and np.isfinite(found.pool.lower).all()
    assert (found.upper - found.pool.lower).max() < 1e-12
