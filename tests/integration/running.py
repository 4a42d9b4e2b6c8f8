"""What a run of the program leaves."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a run of the program left."""

    code: int
    out: str
    err: str


Milpq = Callable[..., Outcome]
