"""``milpq explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milpq.cli.arguments import (
    EFFORT,
    FloatFile,
    FloatTwin,
    InputDomain,
    Outputs,
    QuantizedFile,
    Region,
    Seed,
    Target,
    report_option,
    time_limit_option,
)
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
        typer.Option(
            metavar="N",
            help="Cut the region into about N parts: tighter bounds, more time.",
            rich_help_panel=EFFORT,
        ),
    ] = None,
    time_limit: Annotated[
        float | None, time_limit_option("tight bounds, after which interval bounds must do")
    ] = None,
    seed: Seed = 0,
    report: Annotated[list[Path] | None, report_option("a report, .json, .csv or .html")] = None,
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
