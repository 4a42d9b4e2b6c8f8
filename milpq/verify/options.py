"""What a user can choose about a run, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from milpq.errors import UsageError
from milpq.formats._files import PathLike
from milpq.merge import DomainKind
from milpq.search.bounding import check_device
from milpq.search.checkpoint import check_journal
from milpq.search.executor import check_executor
from milpq.search.ordered import check_workers
from milpq.verify.bracket import Progress

Method: TypeAlias = Literal["auto", "interval", "symbolic", "differential", "lp", "milp"]
FloatTwin: TypeAlias = Literal["file", "dequantized"]
"""``file``: the float network given, whose weights must round to the integer ones.  ``dequantized``: the
integer model's own weights and biases in real arithmetic, so that only rounding is measured."""

LADDER: Final = ("interval", "symbolic", "differential", "lp", "milp")
"""The stages in the order they run; a method runs those up to itself."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer a question.

    Parameters
    ----------
    tolerance : float or None
        Decide whether the largest difference is at most this, real units, and stop once that is known.
    method : Method
        The last stage to run; ``auto`` chooses.
    solver : str
        ``auto``, or the name of a backend.
    gap : float
        Stop at ``upper − lower <= gap·upper``.
    time_limit : float or None
        Seconds for the whole run.
    jobs : int
        Threads or processes of the search, threads of the solver.
    executor : str
        Where batches of a search run: ``local``, ``dask`` or ``dask://HOST:PORT``.
    device : str
        Where cubes are bounded: ``cpu`` or ``cuda``.
    journal : path or None
        Where searches leave their states, a ``.npz`` file.
    resume : bool
        Go on from that state.
    seed : int
    on_progress : callable or None
        Given the bracket whenever it may have changed.

    Raises
    ------
    UsageError
        A value is out of its range.
    """

    tolerance: float | None = None
    method: Method = "auto"
    solver: str = "auto"
    gap: float = 1e-4
    time_limit: float | None = None
    jobs: int = 1
    seed: int = 0
    on_progress: Callable[[Progress], None] | None = None
    executor: str = "local"
    device: str = "cpu"
    journal: PathLike | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("auto", *LADDER):
            raise UsageError(f"unknown method {self.method!r}; use one of auto, {', '.join(LADDER)}")
        if self.tolerance is not None and not 0.0 <= self.tolerance < math.inf:
            raise UsageError(f"the tolerance must be a finite number of at least 0, not {self.tolerance}")
        if not 0.0 <= self.gap < 1.0:
            raise UsageError(f"the gap must be at least 0 and below 1, not {self.gap}")
        if self.time_limit is not None and not 0.0 < self.time_limit < math.inf:
            raise UsageError(f"the time limit must be a positive number of seconds, not {self.time_limit}")
        check_workers(self.jobs)
        check_executor(self.executor)
        check_device(self.device)
        if self.journal is not None:
            check_journal(self.journal, resume=self.resume)
        elif self.resume:
            raise UsageError("--resume needs the --journal FILE to go on from")
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"the seed must be from 0 to 2147483647, not {self.seed}")

    def includes(self, stage: str) -> bool:
        """Tell whether an explicit method includes a stage of the ladder; ``auto`` includes all."""
        return self.method == "auto" or LADDER.index(stage) <= LADDER.index(self.method)


def all_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_method(name: str) -> Method:
    """Return a method by its name."""
    if name not in ("auto", *LADDER):
        raise UsageError(f"unknown method {name!r}; use one of auto, {', '.join(LADDER)}")
    return name


def checked_domain(name: str | None) -> DomainKind | None:
    """Return an input domain by its name; a user chooses between the two of an integer network."""
    if name is None or name in {"continuous", "codes"}:
        return cast("DomainKind | None", name)
    raise UsageError(f"unknown input domain {name!r}; use continuous or codes")


def checked_twin(name: str | None) -> FloatTwin:
    """Return which float side is meant; None is the file's own."""
    if name in {None, "file", "dequantized"}:
        return cast("FloatTwin", name or "file")
    raise UsageError(f"unknown float twin {name!r}; use file or dequantized")
