"""Where batches of work run: in this process, in threads of it, in processes beside it, or on a Dask cluster.

A job is a pure function of its input, and results come back in the order of the jobs, so an answer does not
depend on the executor (`milpq.search.ordered`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

from threadpoolctl import threadpool_limits

from milpq.errors import UsageError
from milpq.search.ordered import OrderedExecutor
from milpq.search.processes import ProcessExecutor
from milpq.search.threads import ThreadExecutor

Executor: TypeAlias = OrderedExecutor[Any]
"""Any executor; what it keeps of a job under way is its own business."""


class SerialExecutor(OrderedExecutor[tuple[Callable[[Any], Any], Any]]):
    """Runs every job in this process, when its result is asked for."""

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def close(self) -> None:
        """Do nothing."""

    def _submit(self, work: Callable[[Any], Any], job: object) -> tuple[Callable[[Any], Any], Any]:
        return work, job

    def _result(self, ticket: tuple[Callable[[Any], Any], Any]) -> Any:  # noqa: ANN401
        work, job = ticket
        return work(job)

    def _cancel(self, ticket: tuple[Callable[[Any], Any], Any]) -> bool:  # noqa: ARG002 - none has begun
        return True


def open_executor(name: str, workers: int, *, interpreted: bool = False) -> Executor:
    """Return the executor of a name: ``local``, ``dask`` or ``dask://HOST:PORT``.

    Parameters
    ----------
    workers : int
        Threads or processes; a running Dask cluster has its own.
    interpreted : bool
        Whether jobs spend their time in Python, which one thread at a time can run: local workers are processes
        then.

    Raises
    ------
    UsageError
        There is no such executor, Dask is not installed, or no scheduler answers.
    """
    check_executor(name)
    if name == "local":
        if workers == 1:
            return SerialExecutor()
        return ProcessExecutor(workers) if interpreted else ThreadExecutor(workers)
    from milpq.search.dask_executor import DaskExecutor  # noqa: PLC0415 - an extra, and slow to import

    return DaskExecutor(None if name == "dask" else name.removeprefix("dask://"), workers)


@contextmanager
def working(executor: Executor) -> Generator[Executor]:
    """Keep an executor open, its linear algebra in the threads that run jobs.

    More threads below these would only get in their way; and sums that are added up in another order, by other
    numbers of threads, are other sums.
    """
    with threadpool_limits(1), executor:
        yield executor


def check_executor(name: str) -> None:
    """Raise UsageError for the name of an executor that cannot be opened here."""
    kind, separator, address = name.partition("://")
    if kind not in {"local", "dask"} or (separator and (kind == "local" or not address)):
        raise UsageError(f"unknown executor {name!r}; use local, dask or dask://HOST:PORT")
    if kind == "dask" and importlib.util.find_spec("distributed") is None:
        raise UsageError("--executor dask needs Dask; pip install 'milpq[dask]'")
