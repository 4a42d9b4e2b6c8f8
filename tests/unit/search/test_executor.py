"""Executors: order, want of memory, and scripts of all manners."""

import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

import pytest
from random_pairs import interval_bounds
from search_problems import problem_of

from milpq.errors import UsageError
from milpq.search.bounding import Propagated
from milpq.search.executor import SerialExecutor, open_executor
from milpq.search.split import SplitOptions, split_search
from milpq.search.threads import ThreadExecutor

ROOT = Path(__file__).parents[3]


def triple(number):
    return 3 * number


def test_executors_keep_the_order_of_jobs():
    jobs = list(range(40))
    assert list(SerialExecutor().map(triple, jobs)) == [3 * job for job in jobs]
    with ThreadExecutor(2) as executor:
        assert list(executor.map(triple, jobs)) == [3 * job for job in jobs]
        assert list(executor.map(triple, iter(range(3)))) == [0, 3, 6]
    SerialExecutor().close()


def test_no_room_for_a_thread_is_want_of_memory(monkeypatch):
    def full(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", full)
    with ThreadExecutor(2) as executor, pytest.raises(MemoryError, match="no room for another thread"):
        list(executor.map(triple, [1]))


def test_closing_threads_waits_for_no_job():
    gate, begun = threading.Event(), threading.Event()

    def work(_):
        begun.set()
        return gate.wait(30)

    executor = ThreadExecutor(1)
    running, waiting = executor.aside(work, 0), executor.aside(triple, 1)
    assert begun.wait(30)
    executor.close()
    gate.set()
    assert running.result(None) is True
    with pytest.raises(CancelledError):
        waiting.result(None)


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


@pytest.mark.parametrize("name", ["cloud", "local://x", "dask://", ""])
def test_unknown_executors_are_refused(name):
    with pytest.raises(UsageError, match="unknown executor"):
        open_executor(name, 1)
