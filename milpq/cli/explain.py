"""``milpq explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milpq.cli.arguments import FloatFile, FloatTwin, InputDomain, Outputs, QuantizedFile, Region, Target
from milpq.cli.console import plain_console


def explain(
    float_file: FloatFile,
    quantized_file: QuantizedFile,
    region: Region,
    target: Target = None,
    input_domain: InputDomain = None,
    output: Outputs = None,
    parts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cut the region into about N parts: tighter bounds, more time."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds after which intervals must do.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random inputs.")] = 0,
    report: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Write a report, .json, .csv or .html; may be given again."),
    ] = None,
    float_twin: FloatTwin = None,
) -> None:
    """Say how much each layer contributes to the error, certified beside sampled, and what to give more bits.

    The contributions of weights, input rounding, activation rounding and saturation add up to the difference at
    every input; each certified share bounds one of them over the whole region.
    """
    from milpq.report import EXPLANATION_FORMATS, check_report_path, write_explanation
    from milpq.report.explanation import explanation_table
    from milpq.verify import explain as answer

    for path in report or ():
        check_report_path(path, EXPLANATION_FORMATS)
    found = answer(
        float_file,
        quantized_file,
        region,
        target=target,
        input_domain=input_domain,
        outputs=output or None,
        parts=parts,
        seed=seed,
        float_twin=float_twin,
        time_limit=time_limit,
    )
    for path in report or ():
        write_explanation(found, path)
    plain_console().print(explanation_table(found))
