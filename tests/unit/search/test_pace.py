import numpy as np
import pytest
from random_pairs import interval_bounds
from search_problems import problem_of

from milpq.merge import Cubes
from milpq.search.bounding import Propagated
from milpq.search.branch import Branching
from milpq.search.codes import count_codes
from milpq.search.enumerate import enumerate_codes
from milpq.search.pace import LEAF, Pace
from milpq.search.split import SplitOptions, split_search

PRICE = 10


def pace(kind="codes", *, chosen=False):
    problem = problem_of(kind, 1)
    return Pace(Branching(problem, Propagated(interval_bounds, executions=PRICE), 2 * PRICE), chosen)


def slabs(problem, count):
    """Return the first `count` slices of the domain along its first input."""
    lower = np.repeat(problem.domain.root.level_lower, count, axis=0)
    upper = np.repeat(problem.domain.root.level_upper, count, axis=0)
    lower[:, 0] += np.arange(count)
    upper[:, 0] = lower[:, 0]
    return problem.domain.cubes_of_levels(lower, upper)


@pytest.mark.parametrize(("closed_each_time", "enumerated"), [(0, True), (1, True), (8, False)])
def test_what_splitting_closes_is_compared_with_what_executions_would(closed_each_time, enumerated):
    pacer = pace()
    problem = pacer.work.problem
    most = int(problem.domain.root.level_upper[0, 0] - problem.domain.root.level_lower[0, 0]) + 1
    each = int(count_codes(slabs(problem, 1))[0])
    left = most
    while left > 0 and not pacer.leaf_codes:
        if pacer.due:
            pacer.judge(slabs(problem, left))
        # As much work as executing two and a half slices.
        pacer.spent += int(2.5 * each) // PRICE
        left -= closed_each_time
    assert pacer.leaf_codes == (LEAF if enumerated else 0)


def test_nothing_is_judged_before_a_quarter_of_the_executions_or_where_codes_do_not_count():
    pacer = pace()
    total = int(count_codes(pacer.work.problem.domain.root)[0])
    pacer.judge(pacer.work.problem.domain.root)
    pacer.spent = int(0.24 * total) // PRICE
    pacer.judge(pacer.work.problem.domain.root)
    assert not pacer.leaf_codes
    pacer.spent = int(0.26 * total) // PRICE + 1
    pacer.judge(pacer.work.problem.domain.root)
    assert pacer.leaf_codes == LEAF
    assert not pacer.due
    assert not pace(chosen=True).due
    assert not pace("continuous").due


def test_jobs_hold_every_cube_once_and_no_more_than_they_should(monkeypatch):
    pacer = pace()
    pacer.leaf_codes = LEAF
    cubes = slabs(pacer.work.problem, 20)
    parts = pacer.jobs(cubes, 6)
    assert np.array_equal(np.concatenate(parts), np.arange(20))
    assert max(len(part) for part in parts) <= 6
    whole = pacer.work.problem.domain.root
    pacer.work = Branching(pacer.work.problem, Propagated(interval_bounds, executions=1), 1 << 30)
    monkeypatch.setattr("milpq.search.pace._JOB_CODES", int(3.5 * count_codes(whole)[0]))
    assert [len(part) for part in pacer.jobs(Cubes.concatenate([whole] * 8), 8)] == [3, 3, 2]


def test_where_bounds_close_nothing_the_rest_is_executed():
    problem = problem_of("codes", 1)
    truth = enumerate_codes(problem).upper
    bounding = Propagated(interval_bounds, executions=PRICE)
    ends = {"gap": 0.0, "absolute_gap": 1e-9, "witness_evaluations": 500}
    found = split_search(problem, bounding, SplitOptions(**ends))
    small = split_search(problem, bounding, SplitOptions(enumerate_codes=2 * PRICE, **ends))
    for result in (found, small):
        assert result.status == "closed"
        assert result.bracket[0] <= truth.max() <= result.bracket[1] <= result.bracket[0] + 1e-9
    assert found.bounded_cubes < small.bounded_cubes / 3
