"""The same batches on a Dask cluster, whose workers may come and go.

The work is the result of a task of its own, which every batch depends on: a worker that joins late fetches it, and
where those that held it have died, Dask makes it again from its bytes.  The batches of a lost worker run again too.
"""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import distributed

from milpq.errors import UsageError, WorkersLostError
from milpq.search.budget import Budget

Job = TypeVar("Job")
Result = TypeVar("Result")

_PATIENCE_S: Final = 10.0  # for the scheduler to answer at first
_POLL_S: Final = 0.25
_LOSSES: Final = 3
_LOOKAHEAD: Final = 3  # jobs under way for each worker


def connect(address: str | None, workers: int) -> tuple[Any, Any]:
    """Return a client, and the cluster if it was started here.

    Parameters
    ----------
    address : str or None
        ``HOST:PORT`` of a scheduler; None starts a cluster of processes on this machine.
    workers : int
        Of that cluster.

    Raises
    ------
    UsageError
        No scheduler answers there.
    """
    module: Any = distributed
    cluster: Any = None
    if address is None:
        cluster = module.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        )
    try:
        client = module.Client(
            cluster if address is None else f"tcp://{address}", timeout=_PATIENCE_S, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error})") from error
    return client, cluster


class DaskExecutor:
    """Runs jobs on a Dask cluster.

    Parameters
    ----------
    address : str or None
        ``HOST:PORT`` of a scheduler; None starts a cluster of processes on this machine.
    workers : int
        Of that cluster; a running one has its own.

    Raises
    ------
    UsageError
        No scheduler answers there.
    """

    def __init__(self, address: str | None, workers: int = 1) -> None:
        self._client, self._cluster = connect(address, workers)
        self._work: Callable[[Any], Any] | None = None
        self._sent: Any = None

    def map(
        self, work: Callable[[Job], Result], jobs: Iterable[Job], budget: Budget | None = None
    ) -> Iterator[Result]:
        """Yield ``work(job)`` for every job, in their order, until the budget is spent.

        Raises
        ------
        WorkersLostError
            The same job has lost its worker again and again, or the scheduler is gone.
        """
        self._send(work)
        waiting: deque[_Sent] = deque()
        try:
            for job in jobs:
                if budget is not None and budget.spent:
                    return
                waiting.append(_Sent(job, self._submit(job)))
                while len(waiting) > self._room():
                    if not self._wait(waiting[0], budget):
                        return
                    yield waiting.popleft().result
            while waiting:
                if not self._wait(waiting[0], budget):
                    return
                yield waiting.popleft().result
        finally:
            for sent in waiting:
                sent.future.cancel()

    def close(self) -> None:
        """Leave the cluster, and stop it where it was started here."""
        self._sent = self._work = None
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _send(self, work: Callable[[Any], Any]) -> None:
        if self._work is not work:
            content = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
            self._sent, self._work = self._client.submit(_unpack, content, pure=False), work

    def _room(self) -> int:
        threads = cast("dict[str, int]", self._client.nthreads())
        return _LOOKAHEAD * max(1, sum(threads.values()))

    def _submit(self, job: object) -> Any:  # noqa: ANN401
        return self._client.submit(_run, self._sent, job, pure=False)

    def _wait(self, sent: _Sent, budget: Budget | None) -> bool:
        """Wait for one result and fetch it; return False where the budget ends first."""
        module: Any = distributed
        for _ in range(_LOSSES + 1):
            while sent.future.status not in {"lost", "cancelled"}:
                if budget is not None and budget.spent:
                    return False
                self._check_alive()
                try:
                    # Never longer: a worker may die between the end of its job and the fetching of the result.
                    sent.result = sent.future.result(timeout=_POLL_S)
                except TimeoutError:
                    if sent.future.status == "error":
                        raise  # by the job itself
                    continue
                except CancelledError:
                    break
                except module.KilledWorker as error:
                    raise WorkersLostError(
                        "every Dask worker that was given a certain batch died, perhaps for want of memory; "
                        "give them more, or use a smaller region"
                    ) from error
                return True
            sent.future = self._submit(sent.job)
        raise WorkersLostError(f"the Dask scheduler has dropped a batch {_LOSSES + 1} times")

    def _check_alive(self) -> None:
        if self._client.status != "running":
            raise WorkersLostError("the Dask scheduler is gone")
        if not self._client.loop.asyncio_loop.is_running():
            raise WorkersLostError("the connection to the Dask scheduler has ended")


@dataclass(slots=True)
class _Sent:
    """A job, where its result will be, and the result once it is fetched."""

    job: Any
    future: Any
    result: Any = None


def _unpack(content: bytes) -> Callable[[Any], Any]:
    return pickle.loads(content)


def _run(work: Callable[[Any], Any], job: object) -> object:
    return work(job)
