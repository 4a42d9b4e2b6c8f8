"""Where batches of work run: in this process, in threads of it, or on a Dask cluster.

A job is a pure function of its input, and results come back in the order of the jobs, so an answer does not
depend on the executor.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from milpq.errors import UsageError
from milpq.search.budget import Budget
from milpq.search.threads import ThreadExecutor

Job = TypeVar("Job")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs jobs."""

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent.

        On a cluster `work` must be picklable; it is sent to each worker once, however many jobs follow.
        """
        ...

    def close(self) -> None:
        """Release the workers."""
        ...


class SerialExecutor:
    """Runs every job in this process."""

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent."""
        for job in jobs:
            if budget is not None and budget.spent:
                return
            yield work(job)

    def close(self) -> None:
        """Do nothing."""


def open_executor(name: str, workers: int) -> Executor:
    """Return the executor of a name: ``local``, ``dask`` or ``dask://HOST:PORT``.

    Parameters
    ----------
    workers : int
        Threads; a running Dask cluster has its own.

    Raises
    ------
    UsageError
        There is no such executor, Dask is not installed, or no scheduler answers.
    """
    check_executor(name)
    if name == "local":
        return SerialExecutor() if workers == 1 else ThreadExecutor(workers)
    from milpq.search.dask_executor import DaskExecutor  # noqa: PLC0415 - an extra, and slow to import

    return DaskExecutor(None if name == "dask" else name.removeprefix("dask://"), workers)


def check_executor(name: str) -> None:
    """Raise UsageError for the name of an executor that cannot be opened here."""
    kind, separator, address = name.partition("://")
    if kind not in {"local", "dask"} or (separator and (kind == "local" or not address)):
        raise UsageError(f"unknown executor {name!r}; use local, dask or dask://HOST:PORT")
    if kind == "dask" and importlib.util.find_spec("distributed") is None:
        raise UsageError("--executor dask needs Dask; pip install 'milpq[dask]'")
