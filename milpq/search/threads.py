"""An executor of threads in this process: the one for a single machine.

The heavy parts of a job, compiled sweeps and matrix products, release the interpreter, so threads scale as
processes do, start at once, and share the problem without sending it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from threadpoolctl import threadpool_limits

from milpq.errors import UsageError
from milpq.search.budget import Budget

Job = TypeVar("Job")
Result = TypeVar("Result")


class ThreadExecutor:
    """Runs jobs in a few threads.

    Parameters
    ----------
    workers : int

    Raises
    ------
    UsageError
        Fewer than one worker.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"--jobs must be at least 1, not {workers}")
        self._workers = workers
        # Threads of linear algebra below these would only get in their way.
        self._limit = threadpool_limits(1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="milpq")

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent."""
        waiting: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                if budget is not None and budget.spent:
                    break
                waiting.append(self._pool.submit(work, job))
                while len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting and not (budget is not None and budget.spent):
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Wait for the jobs under way; jobs that wait are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._limit.restore_original_limits()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
