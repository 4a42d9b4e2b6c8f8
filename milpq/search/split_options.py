"""What a search that splits the input is to do, and when a cube needs no more work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import UsageError
from milpq.search.pool import WitnessPool


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How to search.

    Parameters
    ----------
    gap : float
        Stop at ``upper <= lower·(1 + gap)``.
    absolute_gap : float
        Or at ``upper <= lower + absolute_gap``, in real units of the output.
    tolerance : float or None
        Stop once the largest ``|f_q − f|`` is known to be at most, or above, this.
    each : bool
        Close the gap of the extreme of every output by itself instead of that of the largest difference of
        all.
    max_cubes : int or None
        Stop after bounding so many cubes.
    memory_bytes : int
        Room for open cubes; once it is taken the search goes depth first.
    batch : int or None
        Cubes split in one job at most; None chooses by the size of the networks.
    enumerate_codes : int or None
        See ``milpq.search.branch.Branching``; None takes what costs as much as bounding a cube and its halves,
        and large cubes once splitting closes fewer codes than executing them would (`milpq.search.pace`).
    enumerate_cells : int
        See ``milpq.search.branch.Branching``.
    witness_evaluations : int
        Executions of each witness search that runs beside the jobs, begun after every `witness_rounds` of them; 0
        for none.
    witness_rounds : int
    first_evaluations : int
        Executions of the first such searches together, as long as they gain something.
    seed : int
    """

    gap: float = 1e-3
    absolute_gap: float = 0.0
    tolerance: float | None = None
    each: bool = False
    max_cubes: int | None = None
    memory_bytes: int = 1 << 29
    batch: int | None = None
    enumerate_codes: int | None = None
    enumerate_cells: int = 512
    witness_evaluations: int = 20_000
    witness_rounds: int = 16
    first_evaluations: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.gap >= 0.0 and self.absolute_gap >= 0.0):
            raise UsageError("the gap must not be negative")
        if min(self.witness_rounds, 1 if self.batch is None else self.batch) < 1 or self.memory_bytes < 0:
            raise UsageError("branch and bound: counts must be positive")

    def threshold(self, pool: WitnessPool) -> Float64Array:
        """Return the bounds at which a cube needs no more work, shape (objectives,)."""
        lower = pool.lower
        base = lower if self.each else np.full(len(lower), pool.largest)
        with np.errstate(invalid="ignore"):
            threshold = base + np.maximum(self.gap * np.abs(base), self.absolute_gap)
        threshold = np.where(np.isfinite(base), threshold, -np.inf)
        return threshold if self.tolerance is None else np.maximum(threshold, self.tolerance)
