"""An executor of processes on this machine, for jobs that hold the interpreter.

The workers are started only when jobs have taken as long as a start costs; until they are up jobs run here.  They
run a module of milpq and nothing of the script that is being run, so no script needs a guard.  A worker that is
killed is replaced, and its job runs again.

Of the pools that others keep, that of the standard library runs the script anew in each worker, and neither it nor
loky's can end a job and keep its worker, keep the other jobs when one worker is killed, or start workers that never see
a Ctrl-C.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, Final, cast

from milpq.errors import WorkersLostError
from milpq.search.ordered import OrderedExecutor, check_workers
from milpq.search.worker_process import Answer, Ready, Stop, Task, Work

_PROGRAM: Final = "from milpq.search.worker_process import main; main()"

_WORTH_S: Final = 0.7
"""Processor seconds of jobs after which workers are started: what importing milpq costs in each."""

_LOSSES: Final = 3
"""A job that has killed so many workers is not tried again."""

_POLL_S: Final = 0.2  # between two looks for Ctrl-C
_PATIENCE_S: Final = 2.0  # for workers to leave


@dataclass(slots=True, eq=False)
class _Sent:
    """A job and, once there is one, its answer."""

    number: int
    work: Callable[[Any], Any]
    job: Any
    worker: _Worker | None = None
    answer: Answer | None = None
    losses: int = 0


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, the work it knows, and the job it is at."""

    process: subprocess.Popen[bytes]
    ready: bool = False
    known: Callable[[Any], Any] | None = None
    sent: _Sent | None = None

    def tell(self, message: Work | Task | Stop) -> None:
        """Send a message; a worker that is dead is noticed by who reads from it."""
        stream = self.process.stdin
        assert stream is not None
        with suppress(OSError):
            pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
            stream.flush()

    def end(self) -> None:
        """Have the process end, whatever it is at."""
        stream = self.process.stdin
        assert stream is not None
        with suppress(OSError):
            stream.close()


class ProcessExecutor(OrderedExecutor[_Sent]):
    """Runs jobs in a few processes.

    Parameters
    ----------
    workers : int

    Raises
    ------
    UsageError
        Fewer than one worker.

    Notes
    -----
    `map` raises WorkersLostError for a job that has killed its worker again and again.
    """

    def __init__(self, workers: int) -> None:
        check_workers(workers)
        self._size = workers
        self._processes: list[_Worker] = []
        self._news: SimpleQueue[tuple[_Worker, Ready | Answer | None]] = SimpleQueue()
        self._queue: deque[_Sent] = deque()
        self._contents: dict[int, tuple[Callable[[Any], Any], bytes]] = {}
        self._spent_s = 0.0
        self._count = self._lost = 0
        self._here_only = workers == 1 or not sys.executable

    @property
    def workers(self) -> int:
        """Number of processes."""
        return self._size

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the answer may want to know of the workers."""
        if not self._lost:
            return ()
        return (f"worker processes that died and were replaced: {self._lost}; their jobs ran again",)

    def close(self) -> None:
        """End the workers, and what they are at."""
        for worker in self._processes:
            worker.end()
        for worker in self._processes:
            try:
                worker.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._processes.clear()
        self._queue.clear()

    def _prepare(self, work: Callable[[Any], Any]) -> None:
        if not self._here_only and id(work) not in self._contents:
            try:
                # The work is kept as well, so that no other one can have its id.
                self._contents[id(work)] = work, pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
            except (pickle.PicklingError, AttributeError, TypeError):
                self._here_only = True  # a solver of somebody else's, perhaps

    def _submit(self, work: Callable[[Any], Any], job: object) -> _Sent:
        self._count += 1
        sent = _Sent(self._count, work, job)
        self._queue.append(sent)
        self._feed()
        return sent

    def _result(self, ticket: _Sent) -> Any:  # noqa: ANN401
        while ticket.answer is None:
            # A job that has killed a worker is not for this process.
            elsewhere = not self._here_only and ticket.losses > 0
            self._listen(wait=elsewhere or ticket.worker is not None)
            if ticket.answer is None and ticket.worker is None and not elsewhere:
                self._run_here(ticket)
        if ticket.answer.error is not None:
            raise ticket.answer.error
        return ticket.answer.result

    def _cancel(self, ticket: _Sent) -> bool:
        if ticket.worker is not None:
            if ticket.answer is None:
                ticket.worker.tell(Stop(ticket.number))
            return False
        with suppress(ValueError):
            self._queue.remove(ticket)
        return ticket.answer is None

    def _run_here(self, sent: _Sent) -> None:
        """Run a job in this process, where no worker is up."""
        self._queue.remove(sent)
        started = time.thread_time()
        try:
            sent.answer = Answer(sent.number, sent.work(sent.job), None)
        finally:
            self._spent_s += time.thread_time() - started
        if not (self._here_only or self._processes) and self._spent_s > _WORTH_S:
            for _ in range(self._size):
                self._start()

    def _start(self) -> None:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=own_environment(),
                start_new_session=True,  # so that Ctrl-C in a terminal is for this process alone
            )
        except (OSError, MemoryError):
            self._here_only = True  # no memory or no room for another process
            return
        worker = _Worker(process)
        self._processes.append(worker)
        try:
            threading.Thread(target=_read, args=(worker, self._news), daemon=True).start()
        except (RuntimeError, MemoryError):  # nor for another thread
            self._bury(worker)
            cast("BinaryIO", process.stdout).close()

    def _feed(self) -> None:
        """Give the jobs that wait to the workers that do."""
        for worker in self._processes:
            if not self._queue:
                return
            if not worker.ready or worker.sent is not None:
                continue
            worker.sent = self._queue.popleft()
            worker.sent.worker = worker
            if worker.known is not worker.sent.work:
                worker.known, content = self._contents[id(worker.sent.work)]
                worker.tell(Work(content))
            worker.tell(Task(worker.sent.number, worker.sent.job))

    def _listen(self, *, wait: bool) -> None:
        """Take in what the workers have said; where there is nothing, wait for a moment."""
        while True:
            try:
                worker, message = self._news.get(timeout=_POLL_S) if wait else self._news.get_nowait()
            except Empty:
                break
            wait = False
            if worker not in self._processes:
                continue
            if message is None:
                self._bury(worker)
            elif isinstance(message, Ready):
                worker.ready = True
            else:
                sent, worker.sent = worker.sent, None
                assert sent is not None
                sent.answer = message
        self._feed()

    def _bury(self, worker: _Worker) -> None:
        """Replace a worker that has died; what it was at comes first."""
        self._processes.remove(worker)
        worker.end()
        worker.process.kill()
        worker.process.wait()
        if not worker.ready:
            self._here_only = True  # where milpq cannot be started like this it never can
            return
        self._lost += 1
        sent = worker.sent
        if sent is not None:
            sent.worker, sent.losses = None, sent.losses + 1
            if sent.losses >= _LOSSES:
                raise WorkersLostError(
                    f"{_LOSSES} worker processes died at the same job, perhaps for want of memory; "
                    "give them more, or use --jobs 1"
                )
            self._queue.appendleft(sent)
        self._start()


def own_environment() -> dict[str, str]:
    """Return an environment in which Python, started with -P, finds the modules of this very process.

    Without -P the current folder would come first: in a clone of milpq its sources, in place of what is installed.
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(place).absolute()) for place in sys.path)}


def _read(worker: _Worker, news: SimpleQueue[tuple[_Worker, Ready | Answer | None]]) -> None:
    """Pass on what a worker says; None where it has ended."""
    stream = cast("BinaryIO", worker.process.stdout)
    with stream, suppress(Exception):  # EOFError as a rule; whatever it is, no answer will come
        while True:
            news.put((worker, pickle.load(stream)))
    news.put((worker, None))
