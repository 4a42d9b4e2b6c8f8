"""A worker of `milpq.search.processes`; `main` is all that its process runs.

It reads pickled messages from stdin, runs jobs one after the other, and writes pickled answers to stdout.  It ends
with the process that started it, whose end closes its stdin.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, BinaryIO


@dataclass(frozen=True, slots=True)
class Work:
    """What jobs are to be given to, as bytes of `pickle`; to a worker, before the first of them."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Task:
    """A job, with a number; to a worker."""

    number: int
    job: Any


@dataclass(frozen=True, slots=True)
class Stop:
    """Asks for the end of a job that is under way; to a worker."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker that has started."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job has returned or raised; from a worker."""

    number: int
    result: Any
    error: BaseException | None


def main() -> None:
    """Run jobs until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for the results
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a solver prints must not mix with the answers.
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - after the signal is settled

    importlib.import_module("milpq.search.tree.work")  # slow, so before the first job

    with threadpool_limits(1):
        _send(answers, Ready())
        _Worker(answers).run()


class _Worker:
    """Runs jobs in the main thread, and reads messages beside it."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._tasks: SimpleQueue[Work | Task] = SimpleQueue()
        self._work: Callable[[Any], object] | None = None
        self._current = -1
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def run(self) -> None:
        while True:
            message = self._tasks.get()
            if isinstance(message, Work):
                self._work = pickle.loads(message.content)
            else:
                _send(self._answers, self._answer(message))

    def _answer(self, task: Task) -> Answer:
        work = self._work
        assert work is not None
        with self._lock:
            self._current = task.number
            getattr(work, "start", _nothing)()
        try:
            return Answer(task.number, work(task.job), None)
        except BaseException as error:  # noqa: BLE001 - raised again in the process that waits for the result
            return Answer(task.number, None, error)

    def _read(self) -> None:
        while True:
            try:
                message: Work | Task | Stop = pickle.load(sys.stdin.buffer)
            except BaseException:  # noqa: BLE001 - whatever it is, no job will come; EOFError where all is done
                os._exit(1)
            if not isinstance(message, Stop):
                self._tasks.put(message)
                continue
            with self._lock:
                if message.number == self._current:
                    getattr(self._work, "stop", _nothing)()


def _nothing() -> None:
    """Do nothing: most works cannot be stopped."""


def _send(answers: BinaryIO, message: Ready | Answer) -> None:
    try:
        content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 - whatever an object of somebody else's raises
        assert isinstance(message, Answer)
        reason = RuntimeError(f"what a job gave cannot be sent: {message.error or error!r}")
        content = pickle.dumps(Answer(message.number, None, reason), protocol=pickle.HIGHEST_PROTOCOL)
    answers.write(content)
    answers.flush()
