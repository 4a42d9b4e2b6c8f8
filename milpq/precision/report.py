"""The front and the log of a search over widths: as a table, JSON, CSV, or a plot."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milpq.errors import UsageError
from milpq.formats.writing import check_place, replace_file
from milpq.precision.result import PrecisionResult, Record
from milpq.verify.numbers import downward, spelled, upward, upward_within

PLOTS: Final = (".svg", ".png", ".pdf")
ENDINGS: Final = (".json", ".csv", *PLOTS)

_STYLES: Final = {
    "optimal": "bold green",
    "certified": "bold cyan",
    "infeasible": "bold red",
    "undecided": "bold yellow",
    "interrupted": "bold yellow",
}


def check_front_path(path: Path) -> None:
    """Raise before a long run what would fail after it.

    Raises
    ------
    UsageError
        The ending is unknown, the folder missing, or the package for plots.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"--report {path}: unknown ending {path.suffix!r}; use one of {', '.join(ENDINGS)}")
    if path.suffix.lower() in PLOTS and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(f"--report {path}: a plot needs matplotlib: pip install 'milpq[plots]'")
    check_place(path, "--report")


def write_front(result: PrecisionResult, path: Path) -> None:
    """Write the front and the log, by the ending of the file.

    Raises
    ------
    UsageError
        As `check_front_path`.
    OSError
        Writing failed.
    """
    check_front_path(path)
    ending = path.suffix.lower()
    if ending == ".json":
        content = json.dumps(result.report(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        replace_file(path, content.encode())
    elif ending == ".csv":
        replace_file(path, csv_text(result).encode())
    else:
        replace_file(path, _plot(result, ending[1:]))


def csv_text(result: PrecisionResult) -> str:
    """Return one row for each configuration examined, by cost; empty where nothing is known."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["bits", "cost", "lower", "upper", "trust", "verdict", "by", "front", "best"])
    for record in result.records:
        writer.writerow([
            "-".join(map(str, record.widths)),
            record.cost,
            repr(record.lower),
            repr(record.upper) if math.isfinite(record.upper) else "",
            "checked" if record.checked else "solver_trusted",
            record.verdict,
            record.by,
            int(record in result.front),
            int(record == result.best),
        ])  # fmt: skip
    return stream.getvalue()


def headline(result: PrecisionResult) -> Text:
    """Return the answer in one line."""
    return Text(_verdict(result), style=_STYLES[result.status])


def details(result: PrecisionResult) -> RenderableType:
    """Return the front and what the search took."""
    return Group(*_parts(result))


def spell_cost(result: PrecisionResult, cost: int) -> str:
    """Return a cost with its unit."""
    return f"{cost / 8:,.1f} bytes" if result.cost_kind == "memory" else f"{cost:,} MAC·bits"


def _verdict(result: PrecisionResult) -> str:
    best, tolerance = result.best, spelled(result.tolerance)
    if best is not None:
        claim = "" if best.checked else " by a solver's claim"
        error = upward_within(best.upper, result.tolerance)
        found = f"bits {_bits(best)}, {spell_cost(result, best.cost)}, error at most {error}{claim}"
        if result.status == "optimal":
            return f"OPTIMAL: {found}; every cheaper choice exceeds the tolerance {tolerance}"
        word = "INTERRUPTED, CERTIFIED" if result.status == "interrupted" else "CERTIFIED"
        return f"{word}: {found} (tolerance {tolerance}); some cheaper choices are undecided"
    if result.status == "infeasible":
        return f"INFEASIBLE: every choice of bits exceeds the tolerance {tolerance} on an executed input"
    return f"{result.status.upper()}: no choice of bits was certified within the tolerance {tolerance}"


def _parts(result: PrecisionResult) -> Iterator[RenderableType]:
    if result.front:
        table = Table(title="Cost against certified error", title_justify="left", title_style="bold")
        table.add_column("bits", overflow="fold")
        for heading in (result.cost_kind, "certified error", "executed", "tolerance"):
            table.add_column(heading, justify="right", overflow="fold")
        for record in result.front:
            table.add_row(
                _bits(record),
                spell_cost(result, record.cost),
                upward(record.upper) + ("" if record.checked else " (solver)"),
                downward(record.lower),
                record.verdict,
                style="bold" if record == result.best else None,
            )
        yield table
    effort = result.effort
    killed = ", ".join(f"{count} by {by}" for by, count in effort.killed.items()) or "none"
    yield Text(
        f"{effort.configurations:,} configurations, {effort.examined:,} examined: excluded by an executed input "
        f"{sum(effort.killed.values()):,} ({killed}), certified by propagation {effort.propagated}\n"
        f"verifier calls: {effort.decided} to decide where exhaustive search makes {effort.configurations:,}, "
        f"{effort.saved:,} saved; {effort.measured} to measure the front\n"
        f"{result.time_s:.1f} s",
        style="dim",
    )


def _bits(record: Record) -> str:
    return "-".join(map(str, record.widths))


def _plot(result: PrecisionResult, kind: str) -> bytes:
    """Return the front as a plot: certified and executed error over the cost."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (an extra)

    unit = 8 if result.cost_kind == "memory" else 1
    figure: Any = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes: Any = figure.add_subplot()
    costs = [record.cost / unit for record in result.front]
    axes.step(costs, [record.upper for record in result.front], where="post", color="tab:blue", marker="o")
    axes.vlines(
        costs,
        [record.lower for record in result.front],
        [record.upper for record in result.front],
        color="tab:orange",
        label="executed to certified",
    )
    axes.axhline(
        result.tolerance, color="tab:red", linestyle="--", label=f"tolerance {spelled(result.tolerance)}"
    )
    if result.best is not None:
        axes.plot([result.best.cost / unit], [result.best.upper], "*", markersize=14, color="tab:green")
        axes.annotate(
            _bits(result.best),
            (result.best.cost / unit, result.best.upper),
            (6, 6),
            textcoords="offset points",
        )
    if any(record.upper > 0 for record in result.front):
        axes.set_yscale("log")
    axes.set_xlabel("bytes of weights and biases" if unit == 8 else "multiplications × bits")
    axes.set_ylabel("largest |f_q − f|, real units")
    axes.margins(x=0.08)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return stream.getvalue()
