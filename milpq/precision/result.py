"""What a search over widths has found, and how it came to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from milpq.network.quantized_model import QuantizedModel
from milpq.precision.configurations import CostKind, Widths
from milpq.verify.numbers import spelled, upward

SCHEMA: Final = "milpq-precision/1"

Status: TypeAlias = Literal["optimal", "certified", "infeasible", "undecided", "interrupted"]
"""``optimal``: the cheapest configuration within the tolerance.  ``certified``: one within it, of which some
cheaper ones are undecided.  ``infeasible``: every configuration is violated by an executed input."""

Verdict: TypeAlias = Literal["certified", "violated", "undecided", "refused"]

EXIT_CODES: Final[dict[Status, int]] = {
    "optimal": 0,
    "certified": 0,
    "infeasible": 1,
    "undecided": 3,
    "interrupted": 130,
}


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one configuration.

    Parameters
    ----------
    widths : tuple of int
        Bits of the weights of each layer.
    cost : int
        In bits, or in multiplications times bits.
    lower : float
        A difference that an executed input shows, real units, rounded down.
    upper : float
        The certified error: no input of the region differs by more; infinite where nothing was proved.
    checked : bool
        Whether `upper` is milpq's own, rounded outwards, not a solver's claim.
    verdict : Verdict
        On the tolerance.
    by : str
        What decided it.
    """

    widths: Widths
    cost: int
    lower: float
    upper: float
    checked: bool
    verdict: Verdict
    by: str


@dataclass(frozen=True, slots=True)
class Effort:
    """What the search took, and what it saved.

    Parameters
    ----------
    configurations : int
        All that there are.
    examined : int
        Those that were quantized and executed; the others cost as much as a certified one or more, or were
        out of time.
    killed : dict of str to int
        Configurations that an executed input excluded, by what found the input.
    propagated : int
        Configurations certified by propagated bounds alone.
    decided : int
        Calls of the exact verifier that decided the tolerance.
    measured : int
        Calls of it for the front.
    """

    configurations: int
    examined: int
    killed: dict[str, int]
    propagated: int
    decided: int
    measured: int

    @property
    def saved(self) -> int:
        """Calls of the exact verifier that an exhaustive search makes and this one did not, to decide."""
        return self.configurations - self.decided


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """Where a search stands: what it costs now, what is certified, how often it called the verifier."""

    examined: int
    cost: int
    certified_cost: int | None
    verifier_calls: int
    time_s: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PrecisionResult:
    """The cheapest widths within a tolerance, and the front of cost against certified error.

    Parameters
    ----------
    best : Record or None
        The cheapest configuration certified.
    model : QuantizedModel or None
        Its model.
    records : tuple of Record
        Every configuration examined, by cost.
    front : tuple of Record
        Those that no other record beats in cost and certified error, by cost.
    """

    status: Status
    tolerance: float
    cost_kind: CostKind
    layers: tuple[str, ...]
    best: Record | None
    model: QuantizedModel | None
    records: tuple[Record, ...]
    front: tuple[Record, ...]
    effort: Effort
    problem: dict[str, Any]
    time_s: float

    @property
    def exit_code(self) -> int:
        """What the command line returns."""
        return EXIT_CODES[self.status]

    def __repr__(self) -> str:
        """Say the verdict, the widths with what they cost, and what was saved."""
        best = self.best
        found = "nothing certified" if best is None else f"bits {best.widths}, error <= {upward(best.upper)}"
        return (
            f"<milpq.PrecisionResult {self.status}: {found} (tolerance {spelled(self.tolerance)}); "
            f"{self.effort.decided} verifier calls of {self.effort.configurations}>"
        )

    def report(self) -> dict[str, Any]:
        """Return the report, ready for JSON: what is not finite is None, ``upper`` is rounded upwards."""
        effort = self.effort
        return {
            "schema": SCHEMA,
            "status": self.status,
            "tolerance": self.tolerance,
            "cost": self.cost_kind,
            "layers": list(self.layers),
            "best": None if self.best is None else _entry(self.best),
            "front": [_entry(record) for record in self.front],
            "records": [_entry(record) for record in self.records],
            "verifier_calls": {
                "decided": effort.decided,
                "measured": effort.measured,
                "exhaustive": effort.configurations,
                "saved": effort.saved,
            },
            "configurations": {
                "all": effort.configurations,
                "examined": effort.examined,
                "killed": dict(effort.killed),
                "certified_by_propagation": effort.propagated,
            },
            "problem": dict(self.problem),
            "time_s": self.time_s,
        }


def pareto_front(records: Sequence[Record]) -> tuple[Record, ...]:
    """Return the records that no other one beats in cost and certified error, by cost.

    Errors that differ by a millionth are the same: networks that agree on a region differ in roundings.
    """
    front: list[Record] = []
    for record in sorted(records, key=lambda record: (record.cost, record.upper, record.widths)):
        if math.isfinite(record.upper) and (not front or record.upper < (1.0 - 1e-6) * front[-1].upper):
            front.append(record)
    return tuple(front)


def _entry(record: Record) -> dict[str, Any]:
    return {
        "bits": list(record.widths),
        "cost": record.cost,
        "lower": record.lower,
        "upper": record.upper if math.isfinite(record.upper) else None,
        "trust": "checked" if record.checked else "solver_trusted",
        "verdict": record.verdict,
        "by": record.by,
    }
