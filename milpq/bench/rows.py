"""The rows of a benchmark: what was asked, and what came of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

import milpq
from milpq.bench.methods import Outcome
from milpq.bench.plan import Case
from milpq.merge import Problem
from milpq.network.nodes import Affine, entries
from milpq.search.inputs import FeedableInputs

_POINTS: Final = 512


@dataclass(frozen=True, slots=True)
class Subject:
    """What a case asks about, once its problem has been posed.

    Parameters
    ----------
    hash : str or None
        Of the problem; None where it could not be posed.
    inputs, neurons, weights : int
        Sizes of one network.
    span : float
        The largest spread of a chosen output of the float network over random inputs, real units.
    """

    hash: str | None = None
    inputs: int = 0
    neurons: int = 0
    weights: int = 0
    span: float = 0.0

    @classmethod
    def of(cls, problem: Problem) -> Subject:
        """Return the subject of a problem."""
        nodes = [node for node in problem.float_network.nodes if isinstance(node, Affine)]
        weights = sum(int((entries(term.matrix) != 0).sum()) for node in nodes for term in node.terms)
        neurons = sum(len(node.bias) for node in nodes)
        points = FeedableInputs(problem).random(np.random.default_rng(0), _POINTS)
        outputs = problem.float_network.evaluate(points)[:, problem.outputs]
        span = float(np.ptp(outputs, axis=0).max())
        return cls(problem.hash(), problem.merged.input_size, neurons, weights, span)


@dataclass(frozen=True, slots=True)
class Row:
    """One case and its outcome.

    Parameters
    ----------
    number : int
        Its place in the suite.
    witness : float
        The largest difference any case of the same problem has executed, real units; 0 if none has.
    """

    number: int
    case: Case
    subject: Subject
    outcome: Outcome
    witness: float = 0.0

    @property
    def ratio(self) -> float | None:
        """The upper bound relative to the witness; None where one of them is not known."""
        if self.witness <= 0.0 or not math.isfinite(self.outcome.upper):
            return None
        return self.outcome.upper / self.witness

    @property
    def relative(self) -> float | None:
        """The upper bound relative to the span of the output; None where one of them is not known."""
        if self.subject.span <= 0.0 or not math.isfinite(self.outcome.upper):
            return None
        return self.outcome.upper / self.subject.span


def case_key(case: Case, subject: Subject) -> str:
    """Return what identifies the outcome of a case: the problem, the effort, and the version of milpq."""
    asked = [
        subject.hash or case.label,
        case.method,
        case.tolerance,
        case.solver,
        case.gap,
        case.seed,
        case.time_s,
        case.grace_s,
        case.memory_mib,
        case.jobs,
        milpq.__version__,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return the rows in their order, each with the best witness of its problem.

    *Soundness:* a checked upper bound below a difference that some case has executed makes the row an alarm; a
    solver's claim below it is marked as contradicted.
    """
    best: dict[str, float] = {}
    for row in rows:
        if row.subject.hash is not None:
            best[row.subject.hash] = max(best.get(row.subject.hash, 0.0), row.outcome.lower)
    result: list[Row] = []
    for row in sorted(rows, key=lambda row: row.number):
        witness = 0.0 if row.subject.hash is None else best[row.subject.hash]
        outcome = row.outcome
        if outcome.upper < witness:
            checked = outcome.trust == "checked"
            what = "a checked bound" if checked else "the solver's claim"
            note = f"{what} lies below {witness!r}, which was executed"
            outcome = replace(outcome, status="alarm" if checked else "contradicted", note=note)
        result.append(replace(row, outcome=outcome, witness=witness))
    return result
