"""Executors: order, replacement of dead workers, and scripts of all manners."""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from random_pairs import interval_bounds
from search_problems import problem_of

from milpq.errors import UsageError, WorkersLostError
from milpq.search.bounding import Propagated
from milpq.search.executor import ProcessExecutor, SerialExecutor, open_executor
from milpq.search.split import SplitOptions, split_search

ROOT = Path(__file__).parents[3]


def triple(number):
    return 3 * number


@dataclass
class DiesOnce:
    """Ends the worker at one job, the first time it sees it."""

    marker: Path
    at: int

    def __call__(self, number):
        if number == self.at and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return number


def die_at_five_elsewhere(number):
    if number == 5 and multiprocessing.parent_process() is not None:
        os._exit(1)
    return number


def test_executors_keep_the_order_of_jobs():
    jobs = list(range(40))
    assert list(SerialExecutor().map(triple, jobs)) == [3 * job for job in jobs]
    with ProcessExecutor(2) as executor:
        assert list(executor.map(triple, jobs)) == [3 * job for job in jobs]
        assert list(executor.map(triple, iter(range(3)))) == [0, 3, 6]
    SerialExecutor().close()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_jobs_of_a_dead_worker_run_again(workers, tmp_path):
    with ProcessExecutor(workers) as executor:
        work = DiesOnce(tmp_path / "died", 5)
        assert list(executor.map(work, range(12))) == list(range(12))
        assert list(executor.map(work, range(3))) == [0, 1, 2]
    assert (tmp_path / "died").exists()


def test_a_job_that_kills_every_worker_is_an_error():
    with ProcessExecutor(1) as executor:
        done = executor.map(die_at_five_elsewhere, range(12))
        assert [next(done) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(WorkersLostError, match="died 4 times in a row"):
            next(done)


SCRIPT = """
import sys
import numpy as np
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
import milpq

rng = np.random.default_rng(0)
print("once")
weights = rng.normal(size=(300, 2)), rng.normal(size=(1, 300)) / 300
nodes = Affine("a", (Term(0, weights[0]),), np.zeros(300)), Clamp("r", 1), Affine("b", (Term(2, weights[1]),), [0])
other = Affine("a", (Term(0, weights[0] * 1.01),), np.zeros(300)), *nodes[1:]
networks = [FloatNetwork(2, n, 3) for n in (nodes, other)]
result = milpq.bound(*networks, milpq.Box([-1, -1], [1, 1]), jobs=2, gap=0.01)
print(result.status)
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["once", "optimal"]


@dataclass
class OutOfMemory:
    """A bounding method that runs out of memory after some calls, in whatever process."""

    calls: int

    def __call__(self, problem, cubes):
        self.calls -= 1
        if self.calls < 0:
            raise MemoryError
        return interval_bounds(problem, cubes)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_without_memory_keeps_its_bracket(workers):
    problem = problem_of("continuous")
    options = SplitOptions(gap=0.0, witness_evaluations=500, batch=4)
    executor = open_executor("local", workers)
    found = split_search(problem, Propagated(OutOfMemory(3)), options, executor=executor)
    executor.close()
    assert found.status == "lost"
    assert found.bounded_cubes > 0
    lower, upper = found.bracket
    assert 0 < lower <= upper < float("inf")


def test_a_search_whose_workers_all_die_keeps_its_bracket():
    problem = problem_of("continuous")
    root = len(problem.domain.root)
    options = SplitOptions(gap=0.0, witness_evaluations=500, batch=4)
    with ProcessExecutor(1) as executor:
        found = split_search(problem, Propagated(DiesAfterTheRoot(root)), options, executor=executor)
    assert found.status == "lost"
    assert found.bounded_cubes == root


@dataclass
class DiesAfterTheRoot:
    cubes: int

    def __call__(self, problem, cubes):
        if len(cubes) > self.cubes:
            os._exit(1)
        return interval_bounds(problem, cubes)


@pytest.mark.parametrize("name", ["cloud", "local://x", "dask://", ""])
def test_unknown_executors_are_refused(name):
    with pytest.raises(UsageError, match="unknown executor"):
        open_executor(name, 1)
