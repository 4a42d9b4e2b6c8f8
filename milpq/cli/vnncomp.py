"""``milpq vnncomp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def vnncomp(
    version: Annotated[str, typer.Argument(metavar="v1", help="Version of the interface.")],
    category: Annotated[str, typer.Argument(metavar="CATEGORY", help="Name of the benchmark; not used.")],
    networks: Annotated[
        str,
        typer.Argument(
            metavar="ONNX", help="\"[('f', 'a.onnx'), ('g', 'b.onnx')]\", or one file for equal networks."
        ),
    ],
    query: Annotated[Path, typer.Argument(metavar="VNNLIB", help="VNN-LIB 2.0 query of two networks.")],
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Where the result goes.")],
    timeout: Annotated[float, typer.Argument(metavar="TIMEOUT", help="Seconds.")],
) -> None:
    """Decide an instance of the VNN-COMP competition: sat with a counterexample, unsat, unknown or timeout."""
    from milpq.errors import UsageError
    from milpq.formats.writing import check_place
    from milpq.vnncomp import VERSION, run_instance

    del category
    if version != VERSION:
        raise UsageError(f"unknown version {version!r}; milpq speaks {VERSION}")
    if not 0 < timeout < 1e9:
        raise UsageError(f"the timeout must be a positive number of seconds, not {timeout}")
    check_place(result, "RESULT")
    answer = run_instance(networks, query, result, timeout)
    typer.echo(f"{answer.verdict}: {answer.reason}")
