"""The arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer

QUESTION: Final = "The question"
EFFORT: Final = "What it may take"
RESULTS: Final = "Results"

FloatFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FLOAT", help="Float network: .onnx, .tflite, .keras, .h5 or .nnet.")
]
QuantizedFile: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="QUANTIZED", help="Its quantized version: .tflite, .onnx or .json; or a second float network."
    ),
]
Region: TypeAlias = Annotated[
    Path,
    typer.Option(metavar="REGION", help="Input box: .toml, .npz or .vnnlib.", rich_help_panel=QUESTION),
]
Target: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="Runtime whose rounding is meant; see `milpq targets`.", rich_help_panel=QUESTION
    ),
]
InputDomain: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="continuous|codes",
        help="Every real input of the region, or only inputs that are codes, such as pixels.",
        rich_help_panel=QUESTION,
    ),
]
Outputs: TypeAlias = Annotated[
    list[int] | None,
    typer.Option(
        metavar="J",
        help="Ask about output J only, counted from 0; may be given again.",
        rich_help_panel=QUESTION,
    ),
]
FloatTwin: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="file|dequantized",
        help="Compare with FLOAT, or (not reading FLOAT) with the integer weights in real arithmetic.",
        rich_help_panel=QUESTION,
    ),
]
Gap: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="REL",
        help="Stop when the bracket is this narrow, relative to its upper end.",
        rich_help_panel=EFFORT,
    ),
]
Solver: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto: milpq's own search; or a solver of `milpq solvers`, whose claims are then trusted.",
        rich_help_panel=EFFORT,
    ),
]
Jobs: TypeAlias = Annotated[
    int,
    typer.Option(
        metavar="N", help="Threads or processes of the search, threads of the solver.", rich_help_panel=EFFORT
    ),
]
JobsOrAll: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processors to use; all of them by default.", rich_help_panel=EFFORT),
]
Executor: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="local|dask|dask://ADDRESS",
        help="Where the work is done: here, or by the workers of a Dask cluster.",
        rich_help_panel=EFFORT,
    ),
]
Seed: TypeAlias = Annotated[
    int, typer.Option(metavar="N", help="Seed of everything random.", rich_help_panel=EFFORT)
]
ProgressMode: TypeAlias = Annotated[
    str,
    typer.Option(
        "--progress",
        metavar="auto|json|none",
        help="Progress on stderr: a line on a terminal, JSON lines, or nothing.",
        rich_help_panel=RESULTS,
    ),
]


def time_limit_option(of_what: str) -> Any:  # noqa: ANN401 - as typer types its options
    """Return the option ``--time-limit`` of a command."""
    return typer.Option(metavar="S", help=f"Seconds for {of_what}.", rich_help_panel=EFFORT)


def report_option(formats: str) -> Any:  # noqa: ANN401
    """Return the option ``--report`` of a command."""
    return typer.Option(metavar="PATH", help=f"Write {formats}; may be given again.", rich_help_panel=RESULTS)
