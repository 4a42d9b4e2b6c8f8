"""Where batches of work run: in this process, or in a few spawned ones.

A job is a pure function of its input, and results come back in the order of the jobs, so an answer does not
depend on the executor.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from milpq.errors import UsageError, WorkersLostError
from milpq.search.budget import Budget
from milpq.search.threads import ThreadExecutor

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOSSES: Final = 3
"""How often processes are replaced for one result before the search gives up."""


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
    another `work` object.  They do not import the script they were started from, so that needs no guard.
    When one dies, all are replaced and the jobs not done yet are sent again.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"--jobs must be at least 1, not {workers}")
        self._workers = workers
        self._work: Callable[[Any], Any] | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent.

        Raises
        ------
        WorkersLostError
            Processes died time and again with no job done.
        """
        self._start(work)
        waiting: deque[_Sent] = deque()
        try:
            for job in jobs:
                if budget is not None and budget.spent:
                    break
                waiting.append(_Sent(job, self._submit(job)))
                while len(waiting) > 2 * self._workers:
                    yield self._result(waiting)
            while waiting and not (budget is not None and budget.spent):
                yield self._result(waiting)
        finally:
            for sent in waiting:
                sent.future.cancel()

    def close(self) -> None:
        """Stop the processes; jobs that wait are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._work = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, job: object) -> Future[Any]:
        assert self._pool is not None
        try:
            return self._pool.submit(_run, job)
        except BrokenExecutor as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _result(self, waiting: deque[_Sent]) -> Any:  # noqa: ANN401
        """Take the first job's result; where a process has died, start anew with what is not done."""
        for _ in range(_LOSSES + 1):
            try:
                result = waiting[0].future.result()
            except BrokenExecutor:
                self._replace(waiting)
                continue
            waiting.popleft()
            return result
        raise WorkersLostError(
            f"worker processes died {_LOSSES + 1} times in a row, perhaps for want of memory; "
            "use fewer --jobs or a smaller region"
        )

    def _replace(self, waiting: deque[_Sent]) -> None:
        """Start new processes and send them every job that has no result."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._open_pool()
        for sent in waiting:
            if sent.future.cancelled() or sent.future.exception() is not None:
                sent.future = self._submit(sent.job)

    def _start(self, work: Callable[[Any], Any]) -> None:
        if self._pool is not None and self._work is work:
            return
        self.close()
        # The work may be large: a file cannot block as a pipe to a process that dies early can.
        self._folder = tempfile.TemporaryDirectory(prefix="milpq-")
        self._file().write_bytes(pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL))
        self._work = work
        self._open_pool()

    def _file(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "work.pickle"

    def _open_pool(self) -> None:
        with _one_thread_each(), _main_left_alone():
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_receive,
                initargs=(str(self._file()),),
            )
            # Children read their environment when they start, so start them all here.
            for future in [self._pool.submit(_nothing) for _ in range(self._workers)]:
                # One that dies at once is met again, and counted, by the first job.
                future.exception()


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


@dataclass(slots=True)
class _Sent:
    """A job, and where its result will be."""

    job: Any
    future: Future[Any]


_received: list[Callable[[Any], Any]] = []
"""In a worker process: the work it was started for."""


def _receive(file: str) -> None:
    # An interrupt from the terminal reaches every process; only the one that leads answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _received[:] = [pickle.loads(Path(file).read_bytes())]


def _leave_with_parent() -> None:
    """End this process when its parent has been killed, which would leave it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(job: object) -> object:
    return _received[0](job)


def _nothing() -> None:
    return None


@contextmanager
def _main_left_alone() -> Generator[None]:
    """Start children that do not import the main module again.

    A spawned child repeats the script that started it, for functions defined there; milpq sends none, and a
    script whose calls stand under no ``if __name__ == "__main__":`` would start itself without end.
    """
    main = sys.modules["__main__"].__dict__
    with _starting:
        hidden = {name: main[name] for name in ("__spec__", "__file__") if name in main}
        main["__spec__"] = None
        main.pop("__file__", None)
        try:
            yield
        finally:
            main.update(hidden)


_starting = threading.Lock()


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
