"""Every method side by side on one question."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milpq.bench.case_process import Task
from milpq.bench.methods import Effort, Outcome
from milpq.bench.plots import bar_chart
from milpq.bench.runner import Order, Pool
from milpq.bench.suite import MethodName
from milpq.errors import SoundnessError, UsageError
from milpq.merge import Problem
from milpq.verify import SourceFile
from milpq.verify.numbers import downward, upward

SCHEMA: Final = "milpq-compare/1"
METHODS: Final[tuple[MethodName, ...]] = (
    "interval", "symbolic", "differential", "lp", "milp", "auto", "separate", "separate-milp", "naive-milp",
)  # fmt: skip

WHAT: Final[dict[str, str]] = {
    "interval": "interval bounds that carry the difference",
    "symbolic": "backward linear bounds of both networks",
    "differential": "the same, and of their difference in every layer",
    "lp": "linear programs with tightening",
    "milp": "mixed-integer program with difference rows",
    "auto": "what milpq does by default",
    "separate": "each network apart by backward linear bounds, then subtracted",
    "separate-milp": "each network apart by mixed-integer programs, then subtracted",
    "naive-milp": "merged mixed-integer program without difference rows, big-M from intervals",
}
_GRACE_S: Final = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What each method gives on one problem.

    Parameters
    ----------
    outcomes : tuple of (method, Outcome)
    witness : float
        The largest difference that any of them has executed, real units.
    files : tuple of SourceFile
        The files the problem was read from.
    """

    problem: Problem
    outcomes: tuple[tuple[str, Outcome], ...]
    witness: float
    files: tuple[SourceFile, ...] = ()

    @property
    def sampled(self) -> Outcome | None:
        """An outcome with statistics of random inputs."""
        return next((outcome for _, outcome in self.outcomes if outcome.sampled_points), None)

    def ratio(self, outcome: Outcome) -> float | None:
        """Return an upper bound relative to the witness; None where one of them is not known."""
        known = self.witness > 0.0 and math.isfinite(outcome.upper)
        return outcome.upper / self.witness if known else None


def compare(
    problem: Problem,
    effort: Effort,
    methods: Sequence[MethodName],
    pool: Pool,
    on_outcome: Callable[[str, Outcome], None] | None = None,
) -> Comparison:
    """Run methods on a problem, each in a process of its own, under the time limit of `effort` each.

    Parameters
    ----------
    methods : sequence of str
        Interval bounds run in any case: with them come the random inputs and the search for a witness.

    Raises
    ------
    UsageError
        A method is unknown.
    SoundnessError
        A checked bound lies below a difference that another method has executed, or a run has found so itself.
    """
    unknown = [method for method in methods if method not in get_args(MethodName)]
    if unknown:
        raise UsageError(f"unknown method {unknown[0]!r}; use one of {', '.join(METHODS)}")
    chosen = [method for method in METHODS if method in methods or method == "interval"]

    def orders() -> Iterator[Order]:
        hard_s = None if effort.time_s is None else effort.time_s + _GRACE_S
        for number, method in enumerate(chosen):
            yield Order.of(number, Task(problem, replace(effort, method=method), None), hard_s)

    found: dict[int, Outcome] = {}
    for number, outcome in pool.run(orders()):
        found[number] = outcome
        if on_outcome is not None:
            on_outcome(chosen[number], outcome)
    witness = max(outcome.lower for outcome in found.values())
    outcomes = tuple(
        (method, _judged(method, found[number], witness)) for number, method in enumerate(chosen)
    )
    return Comparison(problem, outcomes, witness)


def _judged(method: str, outcome: Outcome, witness: float) -> Outcome:
    if outcome.status == "alarm":
        raise SoundnessError(outcome.note)
    if outcome.upper >= witness:
        return outcome
    if outcome.trust == "checked":
        raise SoundnessError(
            f"soundness alarm: an executed input differs by {witness!r}, above the bound {outcome.upper!r} of "
            f"{method}; please report this with both models"
        )
    note = f"the solver's claim lies below {witness!r}, which was executed"
    return replace(outcome, status="contradicted", note=note)


def comparison_table(found: Comparison) -> RenderableType:
    """Return what a terminal shows."""
    table = Table(title="max |f_q − f|, real units", title_justify="left", title_style="bold")
    table.add_column("method", overflow="fold")
    for heading in ("upper bound", "LSB", "to the\nwitness", "own time", "with all\nbefore"):
        table.add_column(heading, justify="right", overflow="fold")
    meanings = Table.grid(padding=(0, 2))
    meanings.add_column(style="dim", no_wrap=True)
    meanings.add_column(style="dim", overflow="fold")
    for method, outcome in found.outcomes:
        known = math.isfinite(outcome.upper)
        ratio = found.ratio(outcome)
        trust = "" if outcome.trust == "checked" else "; the solver's claim"
        note = f" ({outcome.status}: {outcome.note})" if outcome.note and _went_wrong(outcome) else ""
        table.add_row(
            method,
            upward(outcome.upper) if known else "–",
            upward(outcome.upper, 4, outcome.lsb) if known and outcome.lsb else "–",
            "–" if ratio is None else f"{ratio:.4g}×",
            f"{outcome.method_s:.3f} s",
            f"{outcome.total_s:.3f} s",
        )
        meanings.add_row(method, Text(WHAT[method] + trust + note))
    lines: list[RenderableType] = [
        table,
        meanings,
        Text(f"witness, executed bit-exactly: {downward(found.witness)}"),
    ]
    sampled = found.sampled
    if sampled is not None and sampled.sampled_max is not None:
        quality = "" if sampled.sqnr_db is None else f", SQNR {sampled.sqnr_db:.1f} dB"
        lines.append(
            Text(
                f"{sampled.sampled_points:,} random inputs: largest {sampled.sampled_max:.5g}, "
                f"RMSE {sampled.rmse:.4g}{quality}",
                style="dim",
            )
        )
    lines.append(Text(f"problem {found.problem.hash()[:16]}", style="dim"))
    return Group(*lines)


def _went_wrong(outcome: Outcome) -> bool:
    return outcome.status not in {"optimal", "bounded", "certified", "violated", "undecided"}


def comparison_json(found: Comparison) -> bytes:
    """Return the comparison as JSON; None for what is infinite or not known."""
    sampled = found.sampled
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "problem": found.problem.hash(),
        "files": [file.report() for file in found.files],
        "witness": found.witness,
        "sampled": None
        if sampled is None
        else {
            "points": sampled.sampled_points,
            "max": sampled.sampled_max,
            "rmse": sampled.rmse,
            "sqnr_db": sampled.sqnr_db,
        },
        "methods": {method: _values(found, outcome) for method, outcome in found.outcomes},
    }
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def comparison_csv(found: Comparison) -> bytes:
    """Return one line a method; empty cells for what is infinite or not known."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for position, (method, outcome) in enumerate(found.outcomes):
        values = _values(found, outcome)
        if position == 0:
            writer.writerow(["method", *values])
        cells = (
            "" if value is None else repr(value) if isinstance(value, float) else value
            for value in values.values()
        )
        writer.writerow([method, *cells])
    return stream.getvalue().encode()


def comparison_plot(found: Comparison) -> Any:  # noqa: ANN401
    """Return the bounds as bars of a matplotlib figure."""
    known = [(method, outcome.upper) for method, outcome in found.outcomes if math.isfinite(outcome.upper)]
    return bar_chart([method for method, _ in known], [upper for _, upper in known], found.witness)


def _values(found: Comparison, outcome: Outcome) -> dict[str, object]:
    return {
        "upper": outcome.upper if math.isfinite(outcome.upper) else None,
        "ratio": found.ratio(outcome),
        "method_s": outcome.method_s,
        "total_s": outcome.total_s,
        "trust": outcome.trust,
        "status": outcome.status,
        "lower": outcome.lower,
        "nodes": outcome.nodes,
        "note": outcome.note,
    }
