"""Where batches of work run: in this process, or in a few spawned ones.

A job is a pure function of its input, and results come back in the order of the jobs, so an answer does not
depend on the executor.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
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
        self._start(work)
        waiting: deque[tuple[Any, Future[Any] | None]] = deque()
        try:
            for job in jobs:
                if budget is not None and budget.spent:
                    break
                waiting.append((job, self._submit(job)))
                while len(waiting) > 2 * self._workers:
                    yield self._result(work, *waiting.popleft())
            while waiting and not (budget is not None and budget.spent):
                yield self._result(work, *waiting.popleft())
        finally:
            for _, future in waiting:
                if future is not None:
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

    def _submit(self, job: object) -> Future[Any] | None:
        try:
            return None if self._pool is None else self._pool.submit(_run, job)
        except BrokenExecutor:
            return None

    def _result(self, work: Callable[[Any], Any], job: object, future: Future[Any] | None) -> Any:  # noqa: ANN401
        """Return the result of a job; jobs are pure, so those of a worker that died run here again."""
        if future is not None:
            try:
                return future.result()
            except BrokenExecutor:
                pass
        return work(job)

    def _start(self, work: Callable[[Any], Any]) -> None:
        if self._pool is not None and self._work is work:
            return
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


_received: list[Callable[[Any], Any]] = []
"""In a worker process: the work it was started for."""


def _receive(work: Callable[[Any], Any]) -> None:
    # An interrupt from the terminal reaches every process; only the one that leads answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
