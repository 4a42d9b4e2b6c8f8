"""Results in the order of their jobs, where later jobs may depend on earlier results.

A search hands out a job, works in the results that have come back, and hands out the next.  How many jobs are
under way at that time must not depend on how fast the workers are, or the search would take another way at every
run; so it is a fixed number, and results are given back in the order of their jobs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from milpq.errors import UsageError
from milpq.search.budget import Budget

Job = TypeVar("Job")
Result = TypeVar("Result")
Ticket = TypeVar("Ticket")

AHEAD: Final = 4
"""Jobs under way at any time, for as many workers or fewer."""


class _End:
    """Where an iterable of jobs ends."""


_END: Final = _End()


@dataclass(frozen=True, slots=True)
class Aside(Generic[Result]):
    """A job beside those of `OrderedExecutor.map`.

    Parameters
    ----------
    result : callable
        Waits for the job; returns what it gave, or None where the budget given ends first.
    cancel : callable
        Drops the job; returns False where it has begun.
    """

    result: Callable[[Budget | None], Result | None]
    cancel: Callable[[], bool]


class OrderedExecutor(ABC, Generic[Ticket]):
    """Runs jobs; what differs between executors is how one is submitted and waited for."""

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job | None], budget: Budget | None = None
    ) -> Generator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent.

        Parameters
        ----------
        work : callable
            Picklable where the workers are other processes; it is sent to each of them once.
        jobs : iterable
            Asked for a job whenever fewer than `AHEAD` are under way (more where there are more workers), always
            after the same results have been yielded.  None says that there is none before the next result, and
            ends everything where no job is under way.
        budget : Budget, optional
            Once it is spent, no job is asked for; once it has ended, jobs that have not begun are dropped, and those
            under way may be.
        """
        self._prepare(work)
        source, more = iter(jobs), True
        waiting: deque[Ticket] = deque()
        try:
            while True:
                if budget is not None and budget.spent:
                    more = False
                    while budget.ended and waiting and self._cancel(waiting[-1]):
                        waiting.pop()
                while more and len(waiting) < self._ahead():
                    job = next(source, _END)
                    more = not isinstance(job, _End)
                    if job is None or isinstance(job, _End):
                        break
                    waiting.append(self._submit(work, job))
                if not waiting or not self._wait(waiting[0], budget):
                    return
                yield self._result(waiting.popleft())
        finally:
            for ticket in waiting:
                self._cancel(ticket)

    def aside(self, work: Callable[[Job], Result], job: Job) -> Aside[Result]:
        """Have a job run beside those of `map`, which do not wait for it.

        Parameters
        ----------
        work : callable
            As in `map`; it may be another one.
        """
        self._prepare(work)
        ticket = self._submit(work, job)

        def result(budget: Budget | None) -> Result | None:
            return self._result(ticket) if self._wait(ticket, budget) else None

        return Aside(result, lambda: self._cancel(ticket))

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many jobs run at once; perhaps not always the same."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answer may want to know of the workers."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Release the workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ahead(self) -> int:
        return AHEAD if self.workers <= AHEAD else 2 * self.workers

    def _prepare(self, work: Callable[[Any], object]) -> None:
        """Get ready for jobs of a kind."""

    @abstractmethod
    def _submit(self, work: Callable[[Job], object], job: Job) -> Ticket:
        """Have a job run as soon as a worker is free."""

    def _wait(self, ticket: Ticket, budget: Budget | None) -> bool:  # noqa: ARG002 - for those that override it
        """Wait for the result of a job; return False where the budget ends first.

        By default `_result` waits, for jobs that end soon after their deadline.
        """
        return True

    @abstractmethod
    def _result(self, ticket: Ticket) -> Any:  # noqa: ANN401 - of whatever work
        """Return the result, or raise what the job has raised."""

    @abstractmethod
    def _cancel(self, ticket: Ticket) -> bool:
        """Drop a job; return False where it has begun."""


def check_workers(workers: int) -> None:
    """Raise UsageError for fewer than one worker."""
    if workers < 1:
        raise UsageError(f"the number of jobs must be at least 1, not {workers}")
