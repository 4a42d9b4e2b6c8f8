"""Witness searches beside other work: handed over at places that depend on that work alone."""

import operator

import numpy as np
import pytest
from search_problems import problem_of

from milpq.search.budget import Budget
from milpq.search.executor import SerialExecutor
from milpq.search.lookout import Lookout
from milpq.search.pool import WitnessPool, sharpen
from milpq.search.processes import ProcessExecutor
from milpq.search.threads import ThreadExecutor
from milpq.search.witness import WitnessOptions, search_witnesses

OPTIONS = WitnessOptions(evaluations=400, seed=3)


@pytest.fixture
def problem():
    return problem_of("continuous")


@pytest.mark.parametrize(
    "executor", [SerialExecutor(), ThreadExecutor(2), ProcessExecutor(2)], ids=lambda e: type(e).__name__
)
def test_a_job_aside_is_no_part_of_the_others(executor):
    with executor:
        aside = executor.aside(operator.neg, 5)
        results = executor.map(abs, range(-9, 0))
        assert next(results) == 9
        late = executor.aside(operator.neg, 7)
        assert aside.result(None) == -5
        assert list(results) == list(range(8, 0, -1))
        assert late.result(None) == -7


def test_what_is_found_is_handed_over_after_as_much_other_work(problem):
    nothing = WitnessPool.empty(problem)
    expected = sharpen(problem, search_witnesses(problem, OPTIONS, pool=nothing))
    for executor in (SerialExecutor(), ThreadExecutor(2)):
        with executor:
            lookout = Lookout(problem, executor, OPTIONS, 0, 40)
            assert lookout.opening
            lookout.begin(nothing, 5, Budget())
            assert not lookout.opening
            assert lookout.collect(nothing, 34, Budget()) is nothing  # 400 executions, each as dear as three
            found = lookout.collect(nothing, 35, Budget())
        np.testing.assert_array_equal(found.points, expected.points)
        np.testing.assert_array_equal(found.lower, expected.lower)
        assert not lookout.opening


def test_the_first_searches_go_on_while_they_gain(problem):
    """Each is as long as all before it, until one gains nothing or all are done."""

    def lengths(evaluations, gains):
        lookout, executor = None, Recording(gains, WitnessPool.empty(problem))
        lookout = Lookout(problem, executor, WitnessOptions(evaluations=1), evaluations, 1)
        pool = WitnessPool.empty(problem)
        while lookout.opening:
            lookout.begin(pool, 0, Budget())
            pool = lookout.finish(pool, Budget())
        return [look.options.evaluations for look in executor.looks]

    assert lengths(800, [0.5, 1.0, 1.5, 1.5]) == [200, 200, 400]
    assert lengths(1000, [0.5, 1.0, 1.5, 1.5]) == [250, 250, 500]
    assert lengths(800, [0.5, 0.5]) == [200, 200]
    assert lengths(800, [0.0, 0.1, 0.1]) == [200, 200, 400]


class Recording(SerialExecutor):
    """Keeps the jobs aside, and gives pools with the lower ends given."""

    def __init__(self, lower, pool):
        self.looks, self._lower, self._pool = [], iter(lower), pool

    def aside(self, work, job):  # noqa: ARG002 - gives what it was given
        self.looks.append(job)
        ends = np.full_like(self._pool.lower, next(self._lower))
        pool = WitnessPool(self._pool.points, self._pool.levels, ends, ends, self._pool.outputs)
        return super().aside(lambda _: pool, job)


def test_a_search_that_is_not_waited_for_ends(problem):
    """A search this long would take days."""
    endless = WitnessOptions(evaluations=10**12)
    nothing = WitnessPool.empty(problem)
    with ThreadExecutor(1) as executor:
        lookout = Lookout(problem, executor, endless, 0, 1)
        lookout.begin(nothing, 0, Budget())
        lookout.end()
        assert list(executor.map(abs, [-1])) == [1]
        lookout = Lookout(problem, executor, endless, 0, 1)
        lookout.begin(nothing, 0, Budget())
        late = Budget(time_limit_s=0.0)
        assert lookout.finish(nothing, late).largest >= 0.0


def test_none_where_none_is_wanted(problem):
    nothing = WitnessPool.empty(problem)
    lookout = Lookout(problem, SerialExecutor(), None, 1000, 1)
    lookout.begin(nothing, 0, Budget())
    assert lookout.collect(nothing, 10**9, Budget()) is nothing
