"""``milpq bound``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from milpq.cli.console import check_mode, plain_console, progress, show


def bound(
    float_file: FloatFile,
    quantized_file: QuantizedFile,
    region: Region,
    target: Target = None,
    input_domain: InputDomain = None,
    output: Outputs = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="T", help="Decide whether the difference stays within T.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto, or stop after: interval, symbolic, differential, lp, milp."),
    ] = "auto",
    solver: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto: milpq's own search; or a solver of `milpq solvers`, whose claims are trusted.",
        ),
    ] = "auto",
    gap: Gap = 1e-4,
    time_limit: Annotated[float | None, typer.Option(metavar="S", help="Seconds for the whole run.")] = None,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Threads; every core by default.")] = None,
    executor: Annotated[
        str, typer.Option(metavar="local|dask|dask://ADDRESS", help="Where batches of a search run.")
    ] = "local",
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Leave the state of splitting there, to go on from."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the state in --journal, if there is one.")
    ] = False,
    seed: Seed = 0,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Write a report, .json, .csv, .html or .xml (JUnit); may be given again."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write a proof of the upper end that `milpq check` verifies."),
    ] = None,
    progress_mode: ProgressMode = "auto",
    float_twin: FloatTwin = None,
    float_arithmetic: Annotated[
        str | None,
        typer.Option(
            metavar="real|float32", help="FLOAT as an exact function, or as any float32 runtime computes it."
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
            journal=journal,
            resume=resume,
            seed=seed,
            on_progress=listener,
            float_twin=float_twin,
            float_arithmetic=float_arithmetic,
            certificate=certificate,
            explain=any(path.suffix.lower() == ".html" for path in report or ()),
        )
    for path in report or ():
        write_report(result, path)
    show(plain_console(), result)
    return result.exit_code
