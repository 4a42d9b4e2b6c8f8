"""``milpq bench``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from milpq.cli.arguments import EFFORT, RESULTS, Executor, JobsOrAll, ProgressMode, time_limit_option
from milpq.cli.console import check_mode, json_lines, plain_console

if TYPE_CHECKING:
    from milpq.bench.plan import Case
    from milpq.bench.rows import Row
    from milpq.bench.suite import Suite


_WIDTH: Final = 120


def bench(
    suite_file: Annotated[
        Path | None,
        typer.Argument(metavar="SUITE.toml", help="What to ask, of which models, by which methods."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep what an earlier run has done, and do the rest.", rich_help_panel=EFFORT
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where results go; bench-NAME by default.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Run this grid only, or those called NAME, …; may be given again.",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    time_limit: Annotated[float | None, time_limit_option("each case, where the suite gives it more")] = None,
    jobs: JobsOrAll = None,
    executor: Executor = "local",
    progress_mode: ProgressMode = "auto",
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON Schema of suite files and leave.", rich_help_panel=RESULTS
        ),
    ] = False,
) -> int:
    """Run a benchmark suite, each case in a process with hard limits, and write tables and plots.

    A suite is a TOML file; those in the folder `configs` of milpq's sources are examples. A case uses as many
    processors as its suite says.

    Exit codes: 0 done (also where cases failed; their rows say why), 2 bad usage or input, 4 soundness alarm,
    130 interrupted (run again with --resume).
    """
    from milpq.bench.campaign import Campaign
    from milpq.bench.journal import Journal
    from milpq.bench.plan import expand
    from milpq.bench.runner import open_pool
    from milpq.bench.suite import load_suite, suite_schema
    from milpq.errors import UsageError
    from milpq.verify.options import Options, all_cores

    if schema:
        import json

        typer.echo(json.dumps(suite_schema(), indent=2))
        return 0
    check_mode(progress_mode)
    Options(time_limit=time_limit)
    if suite_file is None:
        raise UsageError("bench needs a SUITE.toml; see milpq bench --help")
    suite = load_suite(suite_file)
    chosen = {name: _grids(suite, name) for name in grid or ()}
    unknown = sorted(name for name, found in chosen.items() if not found)
    if unknown:
        names = ", ".join(known.name for known in suite.grid)
        raise UsageError(f"{suite_file}: has no grid {unknown[0]!r}; it has {names}")
    wanted = {known for found in chosen.values() for known in found}
    cases = [case for case in expand(suite, time_limit) if not grid or case.grid in wanted]
    folder = output or Path(f"bench-{suite_file.stem}")
    folder.mkdir(parents=True, exist_ok=True)
    interrupted = False
    with Journal(folder / "journal.jsonl", resume=resume) as journal, _progress(progress_mode, cases) as told:
        pool = open_pool(executor, all_cores() if jobs is None else jobs)
        campaign = Campaign(cases, suite_file.parent, journal, told)
        try:
            pool.warm_up()
            campaign.run(pool)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            pool.close()
    _write(suite, campaign.rows, folder)
    _show(suite, campaign.rows, folder)
    if any(row.outcome.status == "alarm" for row in campaign.rows):
        return 4
    return 130 if interrupted else 0


@contextmanager
def _progress(mode: str, cases: list[Case]) -> Generator[Callable[[Row], None]]:
    """Give a listener for rows: a bar with the time left on a terminal, JSON lines, or nothing."""

    def words(row: Row) -> dict[str, object]:
        total_s = round(row.outcome.total_s, 3)
        return {"case": row.case.label, "status": row.outcome.status, "total_s": total_s}

    if mode == "json":
        yield json_lines(words)
    elif mode == "auto" and sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            Left(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=plain_console(stderr=True)) as bars:
            bar = bars.add_task("", total=len(cases))
            yield lambda row: bars.update(
                bar, advance=1, description=f"{row.outcome.status}: {row.case.label}"[:100]
            )
    else:
        yield lambda _row: None


def _grids(suite: Suite, name: str) -> list[str]:
    """Return the names of the grids that a name means: itself, and what it shares with others before a comma."""
    return [grid.name for grid in suite.grid if grid.name == name or grid.name.startswith(f"{name}, ")]


def _write(suite: Suite, rows: list[Row], folder: Path) -> None:
    from milpq.bench.page import page_text
    from milpq.bench.plots import can_plot, draw_all
    from milpq.bench.tables import csv_text, json_text
    from milpq.formats.writing import replace_file
    from milpq.verify.describe import environment

    ran = environment(None, 1, suite.seed)
    plots = draw_all(rows) if can_plot() else {}
    replace_file(folder / "results.csv", csv_text(rows).encode())
    replace_file(folder / "results.json", json_text(suite.title, rows, ran).encode())
    replace_file(folder / "report.html", page_text(suite, rows, plots, ran).encode())
    for name, (_, svg) in plots.items():
        replace_file(folder / f"{name}.svg", svg.encode())


def _show(suite: Suite, rows: list[Row], folder: Path) -> None:
    from rich.console import Console

    from milpq.bench.plots import can_plot
    from milpq.bench.tables import grid_tables, notes, summary

    # A file or a pipe has no width of its own; questions need some.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH
    console = Console(emoji=False, highlight=False, width=width)
    console.print(suite.title, style="bold")
    for grid in dict.fromkeys(row.case.grid for row in rows):
        console.print(grid_tables(grid, [row for row in rows if row.case.grid == grid]))
    for note in notes(rows):
        console.print(note, style="red", markup=False)
    console.print(summary(rows))
    files = "results.csv, results.json, report.html" + (" and plots" if can_plot() else "")
    plain_console().print(f"{files} in {folder}", style="dim", soft_wrap=True)
    if not can_plot():
        plain_console().print("for plots: pip install 'milpq[plots]'", style="dim", soft_wrap=True)
