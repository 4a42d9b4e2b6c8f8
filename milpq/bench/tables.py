"""The rows of a benchmark as CSV, JSON, and a table in a terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from milpq.bench.rows import Row
from milpq.verify.numbers import downward, upward
from milpq.verify.result import Environment

SCHEMA: Final = "milpq-bench/1"

STYLES: Final = {
    "optimal": "green",
    "certified": "green",
    "violated": "red",
    "bounded": "cyan",
    "undecided": "yellow",
    "alarm": "bold red",
}

_WRONG: Final = frozenset({"failed", "memory", "crashed", "alarm", "contradicted"})


def row_values(row: Row) -> dict[str, object]:
    """Return a row as JSON-ready values; None for what is infinite or not known."""
    case, outcome, subject = row.case, row.outcome, row.subject
    return {
        "number": row.number,
        "grid": case.grid,
        "pair": case.pair.name,
        "question": case.question,
        "method": case.method,
        "status": outcome.status,
        "lower": outcome.lower,
        "upper": _finite(outcome.upper),
        "trust": outcome.trust,
        "witness": row.witness,
        "ratio": row.ratio,
        "span": subject.span,
        "relative": row.relative,
        "lsb": outcome.lsb,
        "nodes": outcome.nodes,
        "method_s": round(outcome.method_s, 6),
        "total_s": round(outcome.total_s, 6),
        "cpu_s": None if outcome.cpu_s is None else round(outcome.cpu_s, 6),
        "time_limit_s": case.time_s,
        "jobs": case.jobs,
        "sampled_points": outcome.sampled_points,
        "sampled_max": outcome.sampled_max,
        "rmse": outcome.rmse,
        "sqnr_db": outcome.sqnr_db,
        "target": case.target,
        "domain": case.domain,
        "outputs": None if case.outputs is None else list(case.outputs),
        "tolerance": case.tolerance,
        "seed": case.seed,
        "inputs": subject.inputs,
        "neurons": subject.neurons,
        "weights": subject.weights,
        "axes": case.axes,
        "problem": subject.hash,
        "note": outcome.note,
    }


def csv_text(rows: Sequence[Row]) -> str:
    """Return one line a row; empty cells for what is infinite or not known."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for position, row in enumerate(rows):
        values = row_values(row)
        if position == 0:
            writer.writerow(values)
        writer.writerow([_cell(value) for value in values.values()])
    return stream.getvalue()


def json_text(title: str, rows: Sequence[Row], ran: Environment) -> str:
    """Return the rows, with how each bracket moved, and where they were made."""
    content = {
        "schema": SCHEMA,
        "title": title,
        "rows": [row_values(row) | {"trace": [list(moment) for moment in row.outcome.trace]} for row in rows],
        "environment": {
            "milpq": ran.milpq,
            "python": ran.python,
            "versions": dict(ran.versions),
            "cpu": ran.cpu,
        },
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def grid_tables(grid: str, rows: Sequence[Row]) -> RenderableType:
    """Return the table of the rows of one grid, and below it how many were skipped for want of what.

    What all rows share stands in the title.
    """
    common = [word for word in rows[0].case.words if all(word in row.case.words for row in rows)]
    title = f"{grid}: {' '.join(common)}" if common else grid
    asked = [row for row in rows if row.outcome.status != "skipped"]
    missing = Counter(row.outcome.note for row in rows if row.outcome.status == "skipped")
    parts: list[RenderableType] = [_table(title, asked, common) if asked else Text(title, style="bold")]
    for note, count in missing.items():
        parts.append(Text(f"{count} {'case' if count == 1 else 'cases'} skipped: {note}", style="dim"))
    return Group(*parts)


def summary(rows: Sequence[Row]) -> str:
    """Return how many cases there were, and how they ended."""
    ends = Counter(row.outcome.status for row in rows)
    cases = "1 case" if len(rows) == 1 else f"{len(rows)} cases"
    return f"{cases}: {', '.join(f'{count} {status}' for status, count in ends.most_common())}"


def _table(title: str, rows: Sequence[Row], common: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    questions = [escape(" ".join(word for word in row.case.words if word not in common)) for row in rows]
    named = any(questions)
    if named:
        table.add_column("question", overflow="fold")
    table.add_column("method", overflow="fold")
    table.add_column("status", overflow="fold")
    for heading in ("witness", "upper bound", "ratio", "time"):
        table.add_column(heading, justify="right", overflow="fold")
    for question, row in zip(questions, rows, strict=True):
        outcome = row.outcome
        cells = [
            row.case.method,
            f"[{STYLES.get(outcome.status, 'magenta')}]{outcome.status}[/]",
            downward(row.witness) if row.witness > 0 else "–",
            upward(outcome.upper) if math.isfinite(outcome.upper) else "–",
            "–" if row.ratio is None else f"{row.ratio:.4g}×",
            f"{outcome.total_s:.2f} s" if outcome.total_s else "–",
        ]
        table.add_row(*([question] if named else []), *cells)
    return table


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what went wrong, a line for each case that says so."""
    wrong = [row for row in rows if row.outcome.status in _WRONG]
    return [f"{row.outcome.status}: {row.case.label}: {row.outcome.note}" for row in wrong]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
