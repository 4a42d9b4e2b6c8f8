"""The Dask executor gives the answer of every other, also when a worker is killed in the middle."""

import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
from search_problems import problem_of

from milpq.bounds import interval
from milpq.errors import UsageError, WorkersLostError
from milpq.search.bounding import Propagated
from milpq.search.dask_executor import DaskExecutor
from milpq.search.executor import open_executor
from milpq.search.split import SplitOptions, split_search


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


@pytest.fixture(scope="module")
def cluster():
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        executor = DaskExecutor(None, 2)
    yield executor
    executor.close()


def test_order_and_several_works(cluster, tmp_path):
    assert list(cluster.map(triple, range(30))) == [3 * job for job in range(30)]
    assert list(cluster.map(DiesOnce(tmp_path / "died", 5), range(12))) == list(range(12))
    assert (tmp_path / "died").exists()
    assert list(cluster.map(triple, range(3))) == [0, 3, 6]


def test_a_job_that_kills_every_worker_is_an_error(cluster):
    with pytest.raises(WorkersLostError, match="every Dask worker"):
        list(cluster.map(die_at_five_elsewhere, [5]))
    assert list(cluster.map(triple, range(3))) == [0, 3, 6]


def test_a_killed_worker_changes_nothing(cluster):
    problem = problem_of("continuous")
    options = SplitOptions(gap=0.02, batch=2, witness_evaluations=500, max_cubes=600)
    expected = split_search(problem, Propagated(interval), options)
    killed = []

    def kill(_lower, _upper, _open, closed):
        if closed > 20 and not killed:
            killed.append(next(iter(cluster._client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    found = split_search(problem, Propagated(interval), options, executor=cluster, on_progress=kill)
    assert killed
    assert found.status == expected.status
    assert (found.upper == expected.upper).all()
    assert (found.pool.points == expected.pool.points).all()


def test_a_cluster_elsewhere_is_used_by_its_address(cluster, monkeypatch):
    address = cluster._client.scheduler.address.removeprefix("tcp://")
    other = open_executor(f"dask://{address}", 1)
    assert list(other.map(triple, range(5))) == [0, 3, 6, 9, 12]
    other.close()
    assert list(cluster.map(triple, range(3))) == [0, 3, 6]
    monkeypatch.setattr("milpq.search.dask_executor._PATIENCE_S", 0.3)
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        DaskExecutor("127.0.0.1:1", 1)
