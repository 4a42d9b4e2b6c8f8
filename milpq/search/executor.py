"""Where batches of work run: in this process, or in a few spawned ones.

A job is a pure function of its input, and results come back in the order of the jobs, so an answer does not
depend on the executor.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from milpq.errors import UsageError
from milpq.search.budget import Budget

Job = TypeVar("Job")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs jobs."""

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent.

        `work` must be picklable and is sent to each worker once, however many jobs follow.
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


class ProcessExecutor:
    """Runs jobs in spawned processes, each with one thread for linear algebra.

    Parameters
    ----------
    workers : int

    Raises
    ------
    UsageError
        Fewer than one worker.

    Notes
    -----
    Usable as a context manager.  The processes start at the first job, and again whenever `map` is given
    another `work` object, which is sent to them only then.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"--jobs must be at least 1, not {workers}")
        self._workers = workers
        self._work: Callable[[Any], Any] | None = None
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent."""
        pool = self._start(work)
        waiting: deque[Future[Any]] = deque()
        try:
            for job in jobs:
                if budget is not None and budget.spent:
                    break
                waiting.append(pool.submit(_run, job))
                while len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting and not (budget is not None and budget.spent):
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Stop the processes; jobs that wait are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._work = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, work: Callable[[Any], Any]) -> ProcessPoolExecutor:
        if self._pool is not None and self._work is work:
            return self._pool
        self.close()
        self._work = work
        with _one_thread_each():
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_receive,
                initargs=(work,),
            )
            # Children read their environment when they start, so start them all here.
            for future in [self._pool.submit(_nothing) for _ in range(self._workers)]:
                future.result()
        return self._pool


_received: list[Callable[[Any], Any]] = []
"""In a worker process: the work it was started for."""


def _receive(work: Callable[[Any], Any]) -> None:
    _received[:] = [work]


def _run(job: object) -> object:
    return _received[0](job)


def _nothing() -> None:
    return None


@contextmanager
def _one_thread_each() -> Generator[None]:
    """Start children with one linear algebra thread unless the user has chosen a number."""
    names = [n for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if n not in os.environ]
    for name in names:
        os.environ[name] = "1"
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
