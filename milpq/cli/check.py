"""``milpq check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from milpq.cli.console import plain_console

_SHOWN: Final = 12


def check(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="As `bound --certificate` wrote it.")
    ],
    float_file: Annotated[Path, typer.Option("--float", metavar="FLOAT", help="Float network.")],
    quantized_file: Annotated[
        Path, typer.Option("--quantized", metavar="QUANTIZED", help="Quantized network.")
    ],
) -> None:
    """Prove the claim of a certificate again, from the two models, with no solver.

    Exit codes: 0 proved, 2 unreadable, damaged or about other models, 3 not proved.
    """
    from rich.table import Table

    from milpq.certificate import check as prove

    verified = prove(certificate, float_file, quantized_file)
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
        facts.add_row(
            f"region {name}", shown + (f" and {len(end) - _SHOWN} more" if len(end) > _SHOWN else "")
        )
    for row, output in enumerate(chosen[:_SHOWN]):
        low, high = verified.objectives[len(chosen) + row], verified.objectives[row]
        facts.add_row(f"output {output}", f"f_q − f lies in [{-float(low)!r}, {float(high)!r}]")
    if len(chosen) > _SHOWN:
        facts.add_row("", f"and {len(chosen) - _SHOWN} more outputs")
    counts = [f"{count:,} {kind}" for kind, count in verified.leaves.items() if count]
    facts.add_row("leaves", ", ".join(counts))
    console.print(facts)
    console.print(f"{verified.time_s:.2f} s, problem {problem.hash()[:16]}", style="dim")
