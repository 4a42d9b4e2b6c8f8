"""``milpq compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from milpq.cli.arguments import (
    EFFORT,
    FloatFile,
    FloatTwin,
    Gap,
    InputDomain,
    Jobs,
    Outputs,
    ProgressMode,
    QuantizedFile,
    Region,
    Seed,
    Solver,
    Target,
    report_option,
    time_limit_option,
)
from milpq.cli.console import check_mode, narrated, plain_console

if TYPE_CHECKING:
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
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Run this method only, beside intervals; may be given again.",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    solver: Solver = "auto",
    gap: Gap = 1e-4,
    time_limit: Annotated[float, time_limit_option("each method")] = 60.0,
    jobs: Jobs = 1,
    seed: Seed = 0,
    report: Annotated[list[Path] | None, report_option(".json, .csv, or a plot (.svg, .png)")] = None,
    progress_mode: ProgressMode = "auto",
    float_twin: FloatTwin = None,
) -> int:
    """Run every method on one question, one after the other, and show bounds, times and ratios side by side.

    Methods: interval, symbolic, differential, lp, milp, auto; separate and separate-milp, which bound each network
    by itself and subtract; naive-milp, the merged program without rows for differences. Where one of them fails,
    its row says why.

    Exit codes: 0 done, 2 bad usage or input, 4 soundness alarm, 130 interrupted.
    """
    from milpq.bench.comparison import METHODS, comparison_table
    from milpq.bench.comparison import compare as run_methods
    from milpq.bench.methods import Effort
    from milpq.bench.plots import check_plots
    from milpq.bench.runner import LocalPool
    from milpq.formats.provenance import source_files
    from milpq.report.files import check_report_path
    from milpq.verify.models import load_box, load_pair, pose
    from milpq.verify.options import Options, checked_domain, checked_twin

    check_mode(progress_mode)
    for path in report or ():
        check_report_path(path, dict.fromkeys(_ENDINGS))
        if path.suffix.lower() in {".svg", ".png"}:
            check_plots()
    Options(solver=solver, gap=gap, time_limit=time_limit, jobs=jobs, seed=seed)
    box, region_origin = load_box(region)
    twin = checked_twin(float_twin)
    pair = load_pair(float_file, quantized_file, target, twin)
    files = source_files(float_file, quantized_file, region, twin)
    problem = pose(pair, box, region_origin, checked_domain(input_domain), output or None)
    chosen = cast("list[MethodName]", method or list(METHODS))
    effort = Effort("auto", None, solver, gap, time_limit, jobs, seed)
    pool = LocalPool(1)
    try:
        with narrated(progress_mode, "interval", _words, _line) as told:
            pool.warm_up()
            found = replace(run_methods(problem, effort, chosen, pool, told), files=files)
    finally:
        pool.close()
    for path in report or ():
        _write(found, path)
    plain_console().print(comparison_table(found))
    return 0


def _words(method: str, outcome: Outcome) -> dict[str, object]:
    return {"method": method, "status": outcome.status, "total_s": round(outcome.total_s, 3)}


def _line(method: str, outcome: Outcome) -> str:
    return f"{method}: {outcome.status} after {outcome.total_s:.1f} s; the next one runs"


def _write(found: Comparison, path: Path) -> None:
    from milpq.bench.comparison import comparison_csv, comparison_json, comparison_plot
    from milpq.bench.plots import save_figure
    from milpq.formats.writing import replace_file

    ending = path.suffix.lower()
    if ending == ".json":
        content = comparison_json(found)
    elif ending == ".csv":
        content = comparison_csv(found)
    else:
        content = save_figure(comparison_plot(found), ending)
    replace_file(path, content)
