import numpy as np
import pytest
from random_pairs import box, float_network, perturbed

from milpq.errors import SoundnessError
from milpq.merge import Problem
from milpq.search.pool import WitnessPool
from milpq.verify.bracket import Bracket


@pytest.fixture
def problem() -> Problem:
    rng = np.random.default_rng(0)
    network = float_network(rng, [2, 4, 3], (0.0, np.inf))
    return Problem.create(network, perturbed(rng, network, 0.1), box(-1.0, 1.0, 2), outputs=[0, 2])


def _executed(problem: Problem, points: np.ndarray) -> WitnessPool:
    difference, error = problem.differences(points)
    return WitnessPool.empty(problem).update(
        points, np.zeros(points.shape, dtype=np.int64), difference, error
    )


def test_nothing_is_known_at_first(problem: Problem) -> None:
    bracket = Bracket(problem)
    assert (bracket.lower, bracket.upper) == (0.0, np.inf)
    assert bracket.signed_ends() == [(-np.inf, np.inf, -np.inf, np.inf)] * 2
    assert not bracket.closed(0.5)


def test_bounds_only_tighten(problem: Problem) -> None:
    bracket = Bracket(problem)
    bracket.tighten("one", np.array([4.0, 9.0, 9.0, 9.0]))
    bracket.tighten("two", np.array([8.0, 5.0, 6.0, 7.0]))
    assert bracket.objectives.tolist() == [4.0, 5.0, 6.0, 7.0]
    assert bracket.upper == 7.0
    assert [ends[1:3] for ends in bracket.signed_ends()] == [(4.0, -6.0), (5.0, -7.0)]


def test_not_a_number_is_no_bound(problem: Problem) -> None:
    bracket = Bracket(problem)
    bracket.tighten("one", np.full(4, 9.0))
    bracket.tighten("broken", np.full(4, np.nan))
    assert bracket.upper == 9.0


def test_a_claim_is_told_from_a_checked_bound(problem: Problem) -> None:
    bracket = Bracket(problem)
    bracket.tighten("ours", np.full(4, 9.0))
    assert bracket.trust == "checked"
    bracket.tighten("theirs", np.array([8.0, 9.0, 9.0, 9.0]), trust="solver_trusted")
    assert bracket.trust == "checked"
    bracket.tighten("theirs", np.full(4, 8.0), trust="solver_trusted")
    assert bracket.trust == "solver_trusted"
    bracket.tighten("ours", np.full(4, 8.0))
    assert bracket.trust == "checked"


@pytest.mark.parametrize("witness_first", [True, False])
def test_a_witness_above_a_bound_is_an_alarm(problem: Problem, witness_first: bool) -> None:
    pool = _executed(problem, np.random.default_rng(1).uniform(-1, 1, (20, 2)))
    bracket, bound = Bracket(problem), pool.lower.copy()
    bound[3] = np.nextafter(bound[3], -np.inf)
    if witness_first:
        bracket.add_witnesses(pool)
        with pytest.raises(SoundnessError, match=r"f - f_q of output 2 .* of a liar"):
            bracket.tighten("a liar", bound)
    else:
        bracket.tighten("a liar", bound)
        with pytest.raises(SoundnessError, match=r"f - f_q of output 2 .* of a liar"):
            bracket.add_witnesses(pool)


def test_neighbouring_numbers_close_any_gap(problem: Problem) -> None:
    bracket = Bracket(problem)
    pool = _executed(problem, np.zeros((1, 2)))
    bracket.add_witnesses(pool)
    bracket.tighten("exact", np.nextafter(pool.lower, np.inf))
    assert bracket.closed(0.0)


def test_a_contradicted_claim_is_dropped_and_noted(problem: Problem) -> None:
    bracket = Bracket(problem)
    bracket.tighten("ours", np.full(4, 9.0))
    bracket.tighten("a solver", np.full(4, -8.0), trust="solver_trusted")
    bracket.add_witnesses(_executed(problem, np.zeros((1, 2))))
    assert bracket.upper == bracket.checked_upper == 9.0
    assert bracket.trust == "checked"
    assert bracket.notes == ["claims of a solver were contradicted by an execution and dropped"]


def test_a_witness_outside_of_the_region_is_an_alarm(problem: Problem) -> None:
    bracket = Bracket(problem)
    bracket.add_witnesses(_executed(problem, np.array([[1.0, -1.0]])))
    for beyond in (np.nextafter(1.0, 2.0), np.nextafter(-1.0, -2.0)):
        with pytest.raises(SoundnessError, match="outside of the region"):
            bracket.add_witnesses(_executed(problem, np.array([[0.0, beyond]])))
