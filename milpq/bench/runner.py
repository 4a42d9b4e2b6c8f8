"""Running tasks with hard limits: each in a process of its own, several at once, here or on a Dask cluster."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from milpq.bench.case_process import Task
from milpq.bench.methods import Outcome
from milpq.bench.warmup import warm_up
from milpq.errors import WorkersLostError
from milpq.search.processes import own_environment

_TRIES: Final = 3
"""How often a process that somebody else has killed is started again."""

_STOP_S: Final = 5.0
"""What a process that is told to stop may take to say what it knows."""


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A task, and the time its process may take.

    Parameters
    ----------
    number : int
        Which task of many it is.
    content : bytes
        A pickled `Task`.
    hard_time_s : float or None
        Seconds after which the process is stopped; None leaves it alone.
    jobs : int
        Processors the task uses.
    """

    number: int
    content: bytes
    hard_time_s: float | None
    jobs: int = 1

    @classmethod
    def of(cls, number: int, task: Task, hard_time_s: float | None) -> Order:
        """Return the order for a task."""
        content = pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL)
        return cls(number, content, hard_time_s, task.effort.jobs)


def run_order(order: Order) -> Outcome:
    """Run a task in a process of its own; whatever becomes of it is an outcome."""
    return _Processes().run(order)


class _Processes:
    """Runs tasks in processes that can all be stopped from another thread."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, order: Order) -> Outcome:
        """Run a task; start again where its process was killed by somebody else."""
        outcome = self._once(order)
        for _ in range(_TRIES - 1):
            if outcome.status != "crashed" or self._stopped:
                break
            outcome = self._once(order)
        return outcome

    def stop(self) -> None:
        """Kill every process."""
        self._stopped = True
        for process in list(self._running):
            _kill(process)

    def _once(self, order: Order) -> Outcome:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="milpq-") as folder:
            file = Path(folder) / "task.pickle"
            file.write_bytes(order.content)
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "milpq.bench.case_process", str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=own_environment(),
                start_new_session=True,
            )
            self._running.add(process)
            watch = threading.Timer(order.hard_time_s or 0.0, _stop, [process])
            if order.hard_time_s is not None:
                watch.start()
            try:
                words = _listen(process)
                process.wait()
            finally:
                watch.cancel()
                _kill(process)
                self._running.discard(process)
        total_s = time.monotonic() - started
        late = order.hard_time_s is not None and total_s >= order.hard_time_s
        return _outcome(words, process.returncode, total_s, late=late)


def _listen(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Return what a process says until it ends; a line that was cut short is dropped."""
    assert process.stdout is not None
    words: list[dict[str, Any]] = []
    for line in process.stdout:
        with suppress(json.JSONDecodeError):
            words.append(cast("dict[str, Any]", json.loads(line)))
    return words


def _stop(process: subprocess.Popen[str]) -> None:
    """Tell a process to stop and say what it knows; kill it where it does not."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its workers, which are in its session."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream is not None and process.poll() is not None:
            with suppress(OSError):
                stream.close()


def _outcome(words: list[dict[str, Any]], code: int, total_s: float, *, late: bool) -> Outcome:
    """Return what the words of a process mean, and how it ended."""
    last = words[-1] if words else {}
    if last.get("kind") == "done":
        stated = dict(last["outcome"])
        stated["trace"] = tuple(tuple(moment) for moment in stated["trace"])
        if stated["status"] == "interrupted":
            stated |= {"status": "timeout", "note": "stopped at the time limit"}
        return Outcome(**stated)
    trace = tuple((w["time_s"], w["lower"], w["upper"]) for w in words if w.get("kind") == "progress")
    lower, upper = (trace[-1][1], trace[-1][2]) if trace else (0.0, float("inf"))
    if last.get("kind") == "failed":
        status, note = str(last["status"]), str(last["note"])
    elif late:
        status, note = "timeout", "killed at the time limit"
    elif code < 0 and -code in {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS}:
        status, note = "memory", f"died of {signal.Signals(-code).name}, most often for want of memory"
    else:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
        status, note = "crashed", f"the process was {how}"
    return Outcome(status, lower, upper, "checked", total_s, total_s, trace=trace, note=note)


class Pool(Protocol):
    """Runs orders, several at once."""

    def warm_up(self) -> None:
        """Compile, where the cases will run, what would be compiled on its first use."""
        ...

    def run(self, orders: Iterable[Order]) -> Iterator[tuple[int, Outcome]]:
        """Yield the number and the outcome of every order, as they come."""
        ...

    def close(self) -> None:
        """Stop what still runs."""
        ...


class LocalPool:
    """Runs orders on this machine.

    Parameters
    ----------
    workers : int
        Processors to use: so many tasks at once, or fewer where they use several each.
    """

    def __init__(self, workers: int) -> None:
        self._processes = _Processes()
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="milpq-case")

    def warm_up(self) -> None:
        """Compile what would be compiled on its first use."""
        warm_up()

    def run(self, orders: Iterable[Order]) -> Iterator[tuple[int, Outcome]]:
        """Yield the number and the outcome of every order, as they come."""
        waiting: dict[Future[Outcome], Order] = {}
        source = iter(orders)
        order = next(source, None)
        while True:
            used = sum(running.jobs for running in waiting.values())
            while order is not None and (not waiting or used + order.jobs <= self._workers):
                waiting[self._threads.submit(self._processes.run, order)] = order
                used += order.jobs
                order = next(source, None)
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future).number, future.result()

    def close(self) -> None:
        """Kill what still runs."""
        self._processes.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)


class DaskPool:
    """Runs orders on a Dask cluster, each in a process of its own beside the worker.

    Parameters
    ----------
    address : str or None
        ``HOST:PORT`` of a scheduler; None starts a cluster of processes on this machine.
    workers : int
        Of that cluster; a running one has its own.
    """

    def __init__(self, address: str | None, workers: int) -> None:
        from milpq.search.dask_executor import connect  # noqa: PLC0415 - an extra, and slow to import

        self._client, self._cluster = connect(address, workers)

    def warm_up(self) -> None:
        """Compile, on every worker there is, what would be compiled on its first use."""
        workers = list(cast("dict[str, int]", self._client.nthreads()))
        sent = [self._client.submit(warm_up, workers=[worker], pure=False) for worker in workers]
        for future in sent:
            future.exception()  # A worker that dies here is met again by the cases.

    def run(self, orders: Iterable[Order]) -> Iterator[tuple[int, Outcome]]:
        """Yield the number and the outcome of every order, as they come; lost ones are run again."""
        source = iter(orders)
        waiting: dict[Any, Order] = {}
        tries: dict[int, int] = {}
        while True:
            room = 2 * max(1, self._threads())
            while len(waiting) < room and (order := next(source, None)) is not None:
                waiting[self._submit(order)] = order
            if not waiting:
                return
            done = [future for future in waiting if future.done()]
            if not done:
                time.sleep(0.05)
            for future in done:
                order = waiting.pop(future)
                if future.status == "finished":
                    yield order.number, cast("Outcome", future.result())
                    continue
                tries[order.number] = tries.get(order.number, 0) + 1
                if tries[order.number] < _TRIES:
                    waiting[self._submit(order)] = order
                else:
                    note = f"the Dask workers that were given this case died ({future.exception()!r})"
                    yield order.number, Outcome("crashed", 0.0, float("inf"), "checked", 0.0, 0.0, note=note)

    def close(self) -> None:
        """Leave the cluster, and stop it where it was started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _threads(self) -> int:
        """Return how many cases the workers run at once."""
        try:
            if self._client.status == "running":
                return sum(cast("dict[str, int]", self._client.nthreads()).values())
        except OSError:
            pass  # Said below: the connection has gone.
        raise WorkersLostError("the Dask scheduler is gone; run again with --resume")

    def _submit(self, order: Order) -> Any:  # noqa: ANN401
        return self._client.submit(run_order, order, pure=False)


def open_pool(name: str, workers: int) -> Pool:
    """Return the pool of a name: ``local``, ``dask`` or ``dask://HOST:PORT``.

    Raises
    ------
    UsageError
        There is no such pool, Dask is not installed, or no scheduler answers.
    """
    from milpq.search.executor import check_executor  # noqa: PLC0415
    from milpq.search.ordered import check_workers  # noqa: PLC0415

    check_workers(workers)
    check_executor(name)
    if name == "local":
        return LocalPool(workers)
    return DaskPool(None if name == "dask" else name.removeprefix("dask://"), workers)
