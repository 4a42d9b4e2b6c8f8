"""Plots of a benchmark, drawn by matplotlib from the extra ``plots``."""

from __future__ import annotations

import importlib.util
import io
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from milpq.bench.rows import Row
from milpq.errors import UsageError

SOLVED: Final = frozenset({"optimal", "certified", "violated"})
_MOST_TRACES: Final = 12
_LEAST_SHOWN: Final = 0.1  # of the witness
_MOST_TICKS: Final = 8
_UNITS: Final[dict[str, str]] = {
    "radius": "radius, real units",
    "radius_codes": "radius, input codes",
    "width": "neurons in a layer",
    "depth": "hidden layers",
    "weights": "weights of one network",
}
"""What the numbers of an axis are; others say it by their name."""


def can_plot() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_plots() -> None:
    """Raise UsageError unless matplotlib is installed."""
    if not can_plot():
        raise UsageError("plots need matplotlib: pip install 'milpq[plots]'")


def draw_all(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Return every plot the rows have data for, by name: its title, and its SVG text."""
    shown = [row for row in rows if math.isfinite(row.outcome.upper)]
    plots: dict[str, tuple[str, str]] = {}
    for name, title, draw in (
        ("cactus", "Cases solved within a time", _cactus),
        ("bound-time", "Both ends of the bracket over time, relative to the witness", _traces),
        ("tightness", "Upper bound relative to the witness, by method", _tightness),
    ):
        figure = draw(shown)
        if figure is not None:
            plots[name] = title, _svg(figure)
    for axis in _axes(shown):
        for what, value in (("bound", _bound), ("time", _time)):
            figure = _over(shown, axis, what, value)
            if figure is not None:
                title = {"bound": "Upper bound", "time": "Time"}[what]
                plots[f"{what}-{axis}"] = f"{title} against {axis.replace('_', ' ')}", _svg(figure)
    return plots


def bar_chart(labels: Sequence[str], values: Sequence[float], lower: float) -> Any:  # noqa: ANN401
    """Return a figure of horizontal bars on a logarithmic axis, and a line at the lower end of the bracket."""
    figure, axes = _figure(height=1.2 + 0.4 * len(labels))
    places = list(range(len(labels)))[::-1]
    axes.barh(places, values, color="#0969da")
    axes.set_yticks(places, labels)
    for place, value in zip(places, values, strict=True):
        axes.annotate(f" {value:.4g}", (value, place), va="center", fontsize=8)
    if lower > 0:
        axes.axvline(lower, color="#bc4c00", linestyle="--", label=f"witness {lower:.4g}")
        axes.legend(loc="lower right", fontsize=8)
    if any(value > 0 for value in values):
        axes.set_xscale("log")
        axes.margins(x=0.2)
    axes.set_xlabel("upper bound on max |f_q − f|, real units")
    return figure


def save_figure(figure: Any, ending: str) -> bytes:  # noqa: ANN401
    """Return a figure as the bytes of an ``.svg`` or ``.png``, the same for the same data."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    module: Any = mpl
    stream = io.BytesIO()
    with module.rc_context({"svg.hashsalt": "milpq", "svg.fonttype": "none"}):
        if ending == ".svg":
            figure.savefig(stream, format="svg", metadata={"Date": None})
        else:
            figure.savefig(stream, format="png", dpi=160)
    return stream.getvalue()


def _svg(figure: Any) -> str:  # noqa: ANN401
    """Return the SVG element alone, without the description of the file."""
    text = save_figure(figure, ".svg").decode()
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _figure(height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure: Any = Figure(figsize=(7.0, height), layout="constrained")
    axes: Any = figure.add_subplot()
    axes.grid(visible=True, alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _methods(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.case.method for row in rows))


def _cactus(rows: Sequence[Row]) -> Any:  # noqa: ANN401
    figure, axes = _figure()
    drawn = False
    for method in _methods(rows):
        times = sorted(
            max(row.outcome.total_s, 1e-3)
            for row in rows
            if row.case.method == method and row.outcome.status in SOLVED
        )
        if times:
            axes.step(times, range(1, len(times) + 1), where="post", label=method, marker=".")
            drawn = True
    if not drawn:
        return None
    axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("cases solved")
    axes.set_ylim(bottom=0)
    axes.yaxis.get_major_locator().set_params(integer=True)
    _legend(figure, axes)
    return figure


def _traces(rows: Sequence[Row]) -> Any:  # noqa: ANN401
    # The liveliest trace of each problem.
    best: dict[str | None, Row] = {}
    for row in rows:
        known = best.get(row.subject.hash)
        if row.witness > 0 and len(row.outcome.trace) > max(
            1, 0 if known is None else len(known.outcome.trace)
        ):
            best[row.subject.hash] = row
    chosen = list(best.values())[:_MOST_TRACES]
    if not chosen:
        return None
    figure, axes = _figure(height=4.2 + 0.14 * len(chosen))
    for number, row in enumerate(chosen):
        times = [max(moment[0], 1e-3) for moment in row.outcome.trace]
        color = f"C{number % 10}"
        upper = [moment[2] / row.witness for moment in row.outcome.trace]
        lower = [max(moment[1] / row.witness, _LEAST_SHOWN) for moment in row.outcome.trace]
        axes.step(times, upper, where="post", color=color, label=f"{row.case.grid}: {row.case.question}"[:90])
        axes.step(times, lower, where="post", color=color, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("relative to the witness")
    _legend(figure, axes)
    return figure


def _tightness(rows: Sequence[Row]) -> Any:  # noqa: ANN401
    methods = _methods(rows)
    ratios = [[row.ratio for row in rows if row.case.method == m and row.ratio is not None] for m in methods]
    kept = [(method, values) for method, values in zip(methods, ratios, strict=True) if values]
    if not kept:
        return None
    figure, axes = _figure(height=1.2 + 0.45 * len(kept))
    for place, (_, values) in enumerate(reversed(kept)):
        axes.plot(values, [place] * len(values), "o", alpha=0.5, color="#0969da", markersize=4)
        axes.plot(statistics.median(values), place, "|", color="#bc4c00", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(kept)), [method for method, _ in reversed(kept)])
    axes.set_xscale("log")
    axes.set_xlabel("upper bound relative to the witness; bars are medians")
    return figure


def _axes(rows: Sequence[Row]) -> list[str]:
    """Return the names of what varies within some grid, network size among it."""
    seen: dict[str, dict[str, set[float]]] = {}
    for row in rows:
        for name, value in _coordinates(row).items():
            seen.setdefault(name, {}).setdefault(row.case.grid, set()).add(value)
    return [name for name, grids in seen.items() if any(len(values) > 1 for values in grids.values())]


def _coordinates(row: Row) -> dict[str, float]:
    axes = {name: value for name, value in row.case.axes.items() if name != "seed"}
    return axes | {"weights": float(row.subject.weights)}


def _bound(row: Row) -> float:
    return row.outcome.upper


def _time(row: Row) -> float:
    return max(row.outcome.total_s, 1e-3)


def _over(rows: Sequence[Row], axis: str, what: str, value: Callable[[Row], float]) -> Any:  # noqa: ANN401
    """Return the median over an axis, one line for each grid in which it varies and each method."""
    grids: dict[str, list[Row]] = {}
    for row in rows:
        if axis in _coordinates(row):
            grids.setdefault(row.case.grid, []).append(row)
    grids = {name: inside for name, inside in grids.items() if len(_places(inside, axis)) > 1}
    if not grids:
        return None
    figure, axes = _figure(height=4.0)
    for grid, inside in grids.items():
        prefix = f"{grid}: " if len(grids) > 1 else ""
        for method in _methods(inside):
            points: dict[float, list[float]] = {}
            for row in inside:
                if row.case.method == method:
                    points.setdefault(_coordinates(row)[axis], []).append(value(row))
            _line(axes, points, marker="o", markersize=4, label=f"{prefix}{method}")
        if what == "bound":
            executed: dict[float, list[float]] = {}
            for row in inside:
                if row.witness > 0:
                    executed.setdefault(_coordinates(row)[axis], []).append(row.witness)
            _line(axes, executed, color="gray", linestyle=":", label=f"{prefix}witness")
    axes.set_yscale("log")
    if axis not in {"bits", "depth"}:
        axes.set_xscale("log")
    places = sorted({place for inside in grids.values() for place in _places(inside, axis)})
    if len(places) <= _MOST_TICKS and axis != "weights":
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(_UNITS.get(axis, axis.replace("_", " ")))
    axes.set_ylabel({"bound": "upper bound, real units", "time": "seconds"}[what])
    _legend(figure, axes)
    return figure


def _places(rows: Sequence[Row], axis: str) -> set[float]:
    return {_coordinates(row)[axis] for row in rows}


def _line(axes: Any, points: dict[float, list[float]], **style: Any) -> None:  # noqa: ANN401
    """Draw a line through the medians."""
    places = sorted(points)
    axes.plot(places, [statistics.median(points[place]) for place in places], **style)


def _legend(figure: Any, axes: Any) -> None:  # noqa: ANN401
    """Name the lines below the plot, where they hide nothing."""
    count = len(axes.get_legend_handles_labels()[0])
    columns = 3 if count <= 12 and max(map(len, axes.get_legend_handles_labels()[1])) < 32 else 1
    figure.legend(loc="outside lower center", fontsize=7, ncols=columns, frameon=False)
