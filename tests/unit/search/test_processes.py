"""Workers that are processes: started when it pays, replaced when they die, and of no concern to the script."""

import operator
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from search_problems import problem_of

from milpq.bounds import interval
from milpq.errors import UsageError, WorkersLostError
from milpq.milp.backends.highs import HighsBackend
from milpq.search.pool import WitnessPool
from milpq.search.processes import ProcessExecutor
from milpq.search.tree import Evidence, Node, TreeOptions, tree_search
from milpq.search.tree.branching import Gains
from milpq.search.tree.jobs import Effort, Job
from milpq.search.tree.work import TreeWork

ROOT = Path(__file__).parents[3]


@pytest.fixture
def workers(monkeypatch):
    """Two workers that start with the first job."""
    monkeypatch.setattr("milpq.search.processes._WORTH_S", -1.0)
    with ProcessExecutor(2) as executor:
        yield executor


def await_workers(executor):
    """Run jobs until all workers are up."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert list(executor.map(operator.neg, [1])) == [-1]
        if executor._processes and all(worker.ready for worker in executor._processes):
            return
        time.sleep(0.05)
    raise AssertionError("no worker has started")


# Tests are no module that a worker could import, so jobs are made of what it can.
CALL = operator.methodcaller("__call__")


def kill_once(marker):
    """Return a job that kills its worker, the first time."""
    code = f"import os, pathlib; p = pathlib.Path({marker!r}); p.exists() or (p.touch(), os.kill(os.getpid(), 9))"
    return partial(exec, code)


def test_short_jobs_start_no_process():
    with ProcessExecutor(2) as executor:
        assert list(executor.map(operator.neg, range(9))) == [-n for n in range(9)]
        assert not executor._processes
    with pytest.raises(UsageError):
        ProcessExecutor(0)


def test_jobs_run_elsewhere_in_order_and_works_change(workers):
    await_workers(workers)
    found = list(workers.map(CALL, [os.getpid] * 9))
    assert os.getpid() not in found
    assert set(found) <= {worker.process.pid for worker in workers._processes}
    assert list(workers.map(operator.neg, range(9))) == [-n for n in range(9)]


def test_a_killed_worker_is_replaced_and_its_job_runs_again(workers, tmp_path):
    await_workers(workers)
    jobs = [os.getpid, kill_once(str(tmp_path / "died")), *[os.getpid] * 6]
    found = list(workers.map(CALL, jobs))
    assert found[1] is None
    assert os.getpid() not in found
    assert (tmp_path / "died").exists()
    assert workers.notes == ("worker processes that died and were replaced: 1; their jobs ran again",)


def test_a_job_that_kills_every_worker_is_an_error(workers):
    await_workers(workers)
    with pytest.raises(WorkersLostError, match="died at the same job"):
        list(workers.map(CALL, [partial(exec, "import os; os._exit(1)")]))


@pytest.mark.parametrize("part", ["subprocess.Popen", "threading.Thread.start"])
def test_without_room_for_workers_jobs_run_here(part, workers, monkeypatch):
    calls = []

    def full(*_, **__):
        calls.append(part)
        raise OSError("no memory") if part == "subprocess.Popen" else RuntimeError("can't start new thread")

    monkeypatch.setattr(part, full)
    assert list(workers.map(operator.neg, range(5))) == [0, -1, -2, -3, -4]
    assert calls and not workers._processes


def test_what_a_job_raises_comes_in_its_turn(workers):
    await_workers(workers)
    results = workers.map(partial(divmod, 7), [2, 0, 3])
    assert next(results) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    answers = workers.map(CALL, [partial(eval, "lambda: 0")])
    with pytest.raises(RuntimeError, match="cannot be sent"):
        next(answers)


def test_a_work_that_cannot_be_sent_runs_here(workers):
    assert list(workers.map(lambda _: os.getpid(), range(9))) == [os.getpid()] * 9
    assert not workers._processes


def test_dropped_jobs_do_not_hold_up_the_next(workers):
    await_workers(workers)
    results = workers.map(CALL, [os.getpid, partial(time.sleep, 0.3), *[os.getpid] * 6])
    assert next(results) != os.getpid()
    results.close()
    assert list(workers.map(operator.neg, range(9))) == [-n for n in range(9)]


def test_the_tree_is_the_same_in_processes(workers):
    problem = problem_of("codes", seed=5)
    bounds = interval(problem, problem.domain.root)
    effort = Effort(programs=12, enumerate_codes=8, enumerate_cells=8)
    options = TreeOptions(effort=effort, max_programs=120, witness_evaluations=500)
    await_workers(workers)
    alone, there = (
        tree_search(problem, bounds, HighsBackend(), options, executor=executor)
        for executor in (None, workers)
    )
    np.testing.assert_array_equal(alone.upper, there.upper)
    np.testing.assert_array_equal(alone.pool.points, there.pool.points)
    assert (alone.status, alone.rounds, alone.programs) == (there.status, there.rounds, there.programs)


def test_jobs_under_way_end_with_their_search(workers):
    """Jobs of the tree with endless effort do not keep the workers from what comes next."""
    problem = problem_of("real", sizes=(9, 24, 24, 1))
    bounds = interval(problem, problem.domain.root)
    work = TreeWork(problem, bounds, HighsBackend(), Effort(programs=10**9, gap=0.0))
    root = Node(0, (), float(bounds.difference.upper[0, 0]), Evidence("root", 0))
    endless = Job(root, WitnessPool.empty(problem), Gains(), None)
    short = replace(endless, deadline=0.0)
    await_workers(workers)
    results = workers.map(work, [short, endless, endless, endless])
    assert next(results).programs == 0
    results.close()
    assert next(workers.map(work, [short])).programs == 0


SCRIPT = """
import os, signal, sys, time
import milpq.search.processes as processes
processes._WORTH_S = -1.0
import operator
print("once", flush=True)
executor = processes.ProcessExecutor(2)
while not any(worker.ready for worker in executor._processes):
    list(executor.map(operator.neg, [1]))
try:
    for worker in executor._processes:
        print(worker.process.pid, flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    list(executor.map(time.sleep, [600, 600, 600]))
except KeyboardInterrupt:
    executor.close()
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("ending", ["kill", "interrupt"])
def test_workers_leave_with_a_script_without_a_guard(tmp_path, ending):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, script, ending],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(3)]
        assert said[0] == "once"
        if ending == "interrupt":
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read().split()
        assert rest == ([] if ending == "kill" else ["interrupted"])
        process.wait(60)
    deadline = time.monotonic() + 60
    while any(is_running(int(pid)) for pid in said[1:]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
