"""``milpq bound``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milpq.cli.arguments import (
    EFFORT,
    QUESTION,
    RESULTS,
    Executor,
    FloatFile,
    FloatTwin,
    Gap,
    InputDomain,
    JobsOrAll,
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
from milpq.cli.console import check_mode, plain_console, progress, show


def bound(
    float_file: FloatFile,
    quantized_file: QuantizedFile,
    region: Region,
    target: Target = None,
    input_domain: InputDomain = None,
    output: Outputs = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Only decide whether the difference stays within T, real units.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto, or stop after: interval, symbolic, differential, lp, milp.",
            rich_help_panel=EFFORT,
        ),
    ] = "auto",
    solver: Solver = "auto",
    gap: Gap = 1e-4,
    time_limit: Annotated[float | None, time_limit_option("the whole run; no limit by default")] = None,
    jobs: JobsOrAll = None,
    executor: Executor = "local",
    device: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda",
            help="Where the cubes of a split region are bounded; cuda needs torch and a GPU.",
            rich_help_panel=EFFORT,
        ),
    ] = "cpu",
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Keep the state of the searches there every few seconds, to go on from.",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the state in --journal, if there is one.", rich_help_panel=EFFORT
        ),
    ] = False,
    seed: Seed = 0,
    report: Annotated[
        list[Path] | None, report_option("a report, .json, .csv, .html or .xml (JUnit)")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write a proof of the upper end that `milpq check` verifies.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    progress_mode: ProgressMode = "auto",
    float_twin: FloatTwin = None,
    float_arithmetic: Annotated[
        str | None,
        typer.Option(
            metavar="real|float32",
            help="FLOAT as an exact function, or as any float32 runtime computes it.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
) -> int:
    """Bound the largest difference between two networks over a region, with a proof and a witness.

    Exit codes: 0 done (with --tolerance: certified), 1 tolerance violated, 2 bad usage or input, 3 undecided,
    4 soundness alarm, 130 interrupted.
    """
    from milpq.report import check_report_path, write_report
    from milpq.verify import bound as answer

    check_mode(progress_mode)
    for path in report or ():
        check_report_path(path)
    with progress(progress_mode) as listener:
        result = answer(
            float_file,
            quantized_file,
            region,
            target=target,
            input_domain=input_domain,
            outputs=output or None,
            tolerance=tolerance,
            method=method,
            solver=solver,
            gap=gap,
            time_limit=time_limit,
            jobs=jobs,
            executor=executor,
            device=device,
            journal=journal,
            resume=resume,
            seed=seed,
            on_progress=listener,
            float_twin=float_twin,
            float_arithmetic=float_arithmetic,
            certificate=certificate,
            explain=any(path.suffix.lower() == ".html" for path in report or ()),
        )
    try:
        for path in report or ():
            write_report(result, path)
    finally:
        # A disk that is full must not hide the answer of a long run.
        show(plain_console(), result)
    return result.exit_code
