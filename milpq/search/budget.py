"""When a search stops: time, evaluations, a cancel flag."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


def _never() -> bool:
    return False


@dataclass(slots=True)
class Budget:
    """What a search may still spend.

    Parameters
    ----------
    time_limit_s : float or None
        Seconds from the making of this object.
    evaluations : int or None
        Executions of both networks; nodes or linear programs where a search counts these.
    cancelled : callable
        Asked often; the search stops once it says True.
    """

    time_limit_s: float | None = None
    evaluations: int | None = None
    cancelled: Callable[[], bool] = _never
    used: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this budget was made."""
        return time.monotonic() - self.started

    @property
    def deadline(self) -> float | None:
        """When the time limit passes, in seconds of `time.monotonic`, which all processes share; or None."""
        return None if self.time_limit_s is None else self.started + self.time_limit_s

    @property
    def out_of_time(self) -> bool:
        """Tell whether the time limit has passed."""
        return self.time_limit_s is not None and self.elapsed_s >= self.time_limit_s

    @property
    def ended(self) -> bool:
        """Tell whether the search must stop at once, whatever it was about to find."""
        return self.out_of_time or self.cancelled()

    @property
    def spent(self) -> bool:
        """Tell whether the search must stop."""
        if self.evaluations is not None and self.used >= self.evaluations:
            return True
        return self.ended

    def part(self, evaluations: int) -> Budget:
        """Return a budget for one phase, with the time that is left here."""
        left = None if self.time_limit_s is None else max(0.0, self.time_limit_s - self.elapsed_s)
        return Budget(left, evaluations, self.cancelled)
