"""The same batches on a Dask cluster, whose workers may come and go.

The work is the result of a task of its own, which every batch depends on: a worker that joins late fetches it, and
where those that held it have died, Dask makes it again from its bytes.  The batches of a lost worker run again too.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Final, cast

import distributed

from milpq.errors import UsageError, WorkersLostError
from milpq.search.budget import Budget
from milpq.search.ordered import OrderedExecutor

_PATIENCE_S: Final = 30.0  # for the scheduler to answer at first
_POLL_S: Final = 0.25  # for a result at first; one that is there but not fetched in time gets twice as long
_LOSSES: Final = 3


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


@dataclass(slots=True)
class _Sent:
    """A work on the cluster and a job for it, where the result will be, and the result once it is fetched."""

    work: Any
    job: Any
    future: Any
    result: Any = None


class DaskExecutor(OrderedExecutor[_Sent]):
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

    Notes
    -----
    `map` raises WorkersLostError where the same job has lost its worker again and again, or the scheduler is
    gone.
    """

    def __init__(self, address: str | None, workers: int = 1) -> None:
        self._client, self._cluster = connect(address, workers)
        self._sent: dict[int, tuple[Callable[[Any], Any], Any]] = {}

    @property
    def workers(self) -> int:
        """Threads of the cluster at this time."""
        threads = cast("dict[str, int]", self._client.nthreads())
        return max(1, sum(threads.values()))

    def close(self) -> None:
        """Leave the cluster, and stop it where it was started here."""
        self._sent.clear()
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _prepare(self, work: Callable[[Any], Any]) -> None:
        if id(work) not in self._sent:
            content = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
            # The work is kept as well, so that no other one can have its id.
            self._sent[id(work)] = work, self._client.submit(_unpack, content, pure=False)

    def _submit(self, work: Callable[[Any], Any], job: object) -> _Sent:
        sent = self._sent[id(work)][1]
        return _Sent(sent, job, self._future(sent, job))

    def _future(self, work: Any, job: object) -> Any:  # noqa: ANN401
        return self._client.submit(_run, work, job, pure=False)

    def _wait(self, ticket: _Sent, budget: Budget | None) -> bool:
        """Wait for one result and fetch it."""
        module: Any = distributed
        patience = _POLL_S
        for _ in range(_LOSSES + 1):
            while ticket.future.status not in {"lost", "cancelled"}:
                if budget is not None and budget.ended:
                    return False
                self._check_alive()
                try:
                    # Never for ever: a worker may die between the end of its job and the fetching of the result.
                    ticket.result = ticket.future.result(timeout=patience)
                except TimeoutError:
                    if ticket.future.status == "error":
                        raise  # by the job itself
                    if ticket.future.status == "finished":
                        patience *= 2.0
                    continue
                except CancelledError:
                    break
                except module.KilledWorker as error:
                    raise WorkersLostError(
                        "every Dask worker that was given a certain batch died, perhaps for want of memory; "
                        "give them more, or use a smaller region"
                    ) from error
                return True
            ticket.future = self._future(ticket.work, ticket.job)
        raise WorkersLostError(f"the Dask scheduler has dropped a batch {_LOSSES + 1} times")

    def _result(self, ticket: _Sent) -> Any:  # noqa: ANN401
        return ticket.result

    def _cancel(self, ticket: _Sent) -> bool:
        ticket.future.cancel()
        return True

    def _check_alive(self) -> None:
        if self._client.status != "running":
            raise WorkersLostError("the Dask scheduler is gone")
        if not self._client.loop.asyncio_loop.is_running():
            raise WorkersLostError("the connection to the Dask scheduler has ended")


def _unpack(content: bytes) -> Callable[[Any], Any]:
    return pickle.loads(content)


def _run(work: Callable[[Any], Any], job: object) -> object:
    return work(job)
