"""``milpq compare``."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from milpq.cli.arguments import (
    FloatFile,
    FloatTwin,
    Gap,
    InputDomain,
    Outputs,
    ProgressMode,
    QuantizedFile,
    Region,
    Seed,
    Target,
)
from milpq.cli.console import check_mode, plain_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from milpq.bench.comparison import Comparison
    from milpq.bench.methods import Outcome
    from milpq.bench.suite import MethodName

_ENDINGS: Final = (".json", ".csv", ".svg", ".png")


def compare(
    float_file: FloatFile,
    quantized_file: QuantizedFile,
    region: Region,
    target: Target = None,
    input_domain: InputDomain = None,
    output: Outputs = None,
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run this method; may be given again.")
    ] = None,
    solver: Annotated[
        str, typer.Option(metavar="NAME", help="auto or a solver of `milpq solvers`.")
    ] = "auto",
    gap: Gap = 1e-4,
    time_limit: Annotated[float, typer.Option(metavar="S", help="Seconds for each method.")] = 60.0,
    jobs: Annotated[
        int, typer.Option(metavar="N", help="Processes, or threads of the solver, of each method.")
    ] = 1,
    seed: Seed = 0,
    report: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Write .json, .csv, or a plot (.svg, .png); may be given again."),
    ] = None,
    progress_mode: ProgressMode = "auto",
    float_twin: FloatTwin = None,
) -> int:
    """Run every method on one question, one after the other, and show bounds, times and ratios side by side.

    Methods: interval, symbolic, differential, lp, milp, auto; separate and separate-milp, which bound each
    network by itself and subtract; naive-milp, the merged program without rows for differences. What goes wrong in
    one is a row of the table.

    Exit codes: 0 done, 2 bad usage or input, 4 soundness alarm, 130 interrupted.
    """
    from milpq.bench.comparison import METHODS, comparison_table
    from milpq.bench.comparison import compare as run_methods
    from milpq.bench.methods import Effort
    from milpq.bench.plots import check_plots
    from milpq.bench.runner import LocalPool
    from milpq.merge import Problem
    from milpq.report.files import check_report_path
    from milpq.verify.models import load_box, load_pair
    from milpq.verify.options import Options, checked_domain, checked_twin

    check_mode(progress_mode)
    for path in report or ():
        check_report_path(path, dict.fromkeys(_ENDINGS))
        if path.suffix.lower() in {".svg", ".png"}:
            check_plots()
    Options(solver=solver, gap=gap, time_limit=time_limit, jobs=jobs, seed=seed)
    box, _ = load_box(region)
    pair = load_pair(float_file, quantized_file, target, checked_twin(float_twin))
    problem = Problem.create(
        pair.float_network, pair.quantized, box, checked_domain(input_domain), output or None
    )
    chosen = cast("list[MethodName]", method or list(METHODS))
    effort = Effort("auto", None, solver, gap, time_limit, jobs, seed)
    pool = LocalPool(1)
    try:
        with _progress(progress_mode) as told:
            pool.warm_up()
            found = run_methods(problem, effort, chosen, pool, told)
    finally:
        pool.close()
    for path in report or ():
        _write(found, path)
    plain_console().print(comparison_table(found))
    return 0


@contextmanager
def _progress(mode: str) -> Generator[Callable[[str, Outcome], None] | None]:
    """Give a listener for outcomes."""
    import json
    import sys

    def lines(method: str, outcome: Outcome) -> None:
        words = {"method": method, "status": outcome.status, "total_s": round(outcome.total_s, 3)}
        sys.stderr.write(json.dumps(words) + "\n")
        sys.stderr.flush()

    if mode == "json":
        yield lines
    elif mode == "auto" and sys.stderr.isatty():
        with plain_console(stderr=True).status("interval") as status:
            yield lambda method, outcome: status.update(
                f"{method}: {outcome.status} after {outcome.total_s:.1f} s; the next one runs"
            )
    else:
        yield None


def _write(found: Comparison, path: Path) -> None:
    from milpq.bench.comparison import comparison_csv, comparison_json, comparison_plot
    from milpq.bench.plots import save_figure
    from milpq.report.files import replace_file

    ending = path.suffix.lower()
    if ending == ".json":
        content = comparison_json(found)
    elif ending == ".csv":
        content = comparison_csv(found)
    else:
        content = save_figure(comparison_plot(found), ending)
    replace_file(path, content)
