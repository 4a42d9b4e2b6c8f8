"""``milpq check``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from milpq.cli.console import plain_console

if TYPE_CHECKING:
    from milpq.certificate import Verified
    from milpq.formats.provenance import SourceFile

_SHOWN: Final = 12
_SCHEMA: Final = "milpq-check/1"


def check(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="As `bound --certificate` wrote it.")
    ],
    float_file: Annotated[Path, typer.Option("--float", metavar="FLOAT", help="Float network.")],
    quantized_file: Annotated[
        Path, typer.Option("--quantized", metavar="QUANTIZED", help="Quantized network.")
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what is proved as JSON: every input, every output, the files."),
    ] = False,
) -> None:
    """Prove the claim of a certificate again, from the two models, with no solver.

    Exit codes: 0 proved, 2 unreadable, damaged or about other models, 3 not proved.
    """
    from milpq.certificate import check as prove
    from milpq.formats.provenance import source_file

    verified = prove(certificate, float_file, quantized_file)
    files = [source_file("certificate", certificate), source_file("quantized", quantized_file)]
    # Where the integer model's own weights stand on the float side, FLOAT was not read.
    if verified.problem.float_network.origin == str(float_file):
        files.insert(1, source_file("float", float_file))
    if as_json:
        text = json.dumps(_report(verified, files), indent=2, allow_nan=False, ensure_ascii=False)
        typer.echo(text)
    else:
        _show(verified)


def _report(verified: Verified, files: list[SourceFile]) -> dict[str, object]:
    """Return all of what is proved as JSON-ready values; None for what is infinite."""
    problem, ends = verified.problem, [_number(end) for end in verified.objectives.tolist()]
    chosen, box = problem.outputs.tolist(), problem.domain.box
    return {
        "schema": _SCHEMA,
        "proved": True,
        "upper": _number(verified.upper),
        "problem": {
            "hash": problem.hash(),
            "float": problem.float_network.origin,
            "quantized": problem.quantized.origin,
            "target": verified.target or None,
            "region": {"lower": box.lower.tolist(), "upper": box.upper.tolist()},
            "input_domain": problem.domain.kind,
            "files": [file.report() for file in files],
        },
        "outputs": [
            {"index": output, "max": {"upper": high}, "min": {"lower": None if low is None else -low}}
            for output, high, low in zip(chosen, ends[: len(chosen)], ends[len(chosen) :], strict=True)
        ],
        "leaves": verified.leaves,
        "time_s": verified.time_s,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(verified: Verified) -> None:
    """Print what is proved, long lists by their beginning."""
    from rich.table import Table

    problem, console = verified.problem, plain_console()
    verdict = f"PROVED: no input of the region differs by more than {verified.upper!r}"
    console.print(verdict, style="bold green", soft_wrap=True)
    box, chosen = problem.domain.box, problem.outputs.tolist()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("float", problem.float_network.origin)
    target = f" on {verified.target}" if verified.target else ""
    facts.add_row("quantized", f"{problem.quantized.origin}{target}")
    facts.add_row("domain", problem.domain.kind)
    for name, end in (("lower", box.lower), ("upper", box.upper)):
        shown = ", ".join(f"{value!r}" for value in end[:_SHOWN].tolist())
        facts.add_row(f"region {name}", shown + _more(len(end), "inputs"))
    for row, output in enumerate(chosen[:_SHOWN]):
        low, high = verified.objectives[len(chosen) + row], verified.objectives[row]
        facts.add_row(f"output {output}", f"f_q − f lies in [{-float(low)!r}, {float(high)!r}]")
    if len(chosen) > _SHOWN:
        facts.add_row("", _more(len(chosen), "outputs").lstrip())
    counts = [f"{count:,} {kind}" for kind, count in verified.leaves.items() if count]
    facts.add_row("leaves", ", ".join(counts))
    console.print(facts)
    console.print(f"{verified.time_s:.2f} s, problem {problem.hash()[:16]}", style="dim")


def _more(count: int, what: str) -> str:
    return f" … the first {_SHOWN} of {count:,} {what}; --json prints all" if count > _SHOWN else ""
