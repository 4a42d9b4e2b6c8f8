"""An executor of threads in this process: the one for a single machine.

The heavy parts of a job, compiled sweeps and matrix products, release the interpreter, so threads scale as
processes do, start at once, and share the problem without sending it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from milpq.search.ordered import OrderedExecutor, check_workers


class ThreadExecutor(OrderedExecutor["Future[Any]"]):
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
        check_workers(workers)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="milpq")

    @property
    def workers(self) -> int:
        """Number of threads."""
        return self._workers

    def close(self) -> None:
        """Drop the jobs that wait, and leave those under way: they end soon, and nobody wants their results."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[Any], object], job: object) -> Future[Any]:
        try:
            return self._pool.submit(work, job)
        except RuntimeError as error:
            raise MemoryError("no room for another thread") from error

    def _result(self, ticket: Future[Any]) -> Any:  # noqa: ANN401
        return ticket.result()

    def _cancel(self, ticket: Future[Any]) -> bool:
        return ticket.cancel()
