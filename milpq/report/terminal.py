"""The result as people read it in a terminal: the verdict first, then what stands behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milpq.verify import ExecutedWitness, Result
from milpq.verify.numbers import downward, upward

_SHOWN_INPUTS: Final = 12
_SHOWN_OUTPUTS: Final = 12
_STYLES: Final = {
    "optimal": "bold green",
    "certified": "bold green",
    "bounded": "bold cyan",
    "violated": "bold red",
    "undecided": "bold yellow",
    "interrupted": "bold yellow",
}


def headline(result: Result) -> Text:
    """Return the answer in one line."""
    return Text(result.verdict, style=_STYLES[result.status])


def details(result: Result) -> RenderableType:
    """Return what stands behind the answer."""
    return Group(*_parts(result))


def _parts(result: Result) -> Iterator[RenderableType]:
    asked = result.problem
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("max |f_q − f|", f"[{downward(result.lower)}, {upward(result.upper)}] real units")
    lsb = result.lsb
    if lsb is not None:
        low, high = downward(result.lower, 4, lsb), upward(result.upper, 4, lsb)
        facts.add_row("", f"[{low}, {high}] LSB of {lsb:.4g}")
    trust = {
        "checked": "bound evaluated by milpq itself, rounded outwards",
        "solver_trusted": "rests on the solver's own claim; without it "
        f"the upper end is {upward(result.certificate.checked_upper)}",
    }
    facts.add_row("trust", trust[result.certificate.trust])
    if result.certificate.path is not None and result.certificate.proved_upper is not None:
        proved = result.certificate.proved_upper
        short = "" if proved <= result.upper * (1 + 1e-8) else " only: time was short"
        facts.add_row("certificate", f"{result.certificate.path}, proves {upward(proved)}{short}")
    facts.add_row("float", asked.float_origin)
    runtime = {None: "", "as stated": ", rounding as stated"}.get(asked.target, f" on {asked.target}")
    facts.add_row("quantized", f"{asked.quantized_origin}{runtime}")
    facts.add_row("region", f"{asked.region_origin}, {len(asked.lower)} inputs, domain {asked.input_domain}")
    memory = result.memory
    facts.add_row(
        "parameters", f"{memory.float_bytes:,} bytes float, {memory.quantized_bytes:,} bytes quantized"
    )
    for note in asked.notes:
        facts.add_row("note", note)
    yield facts
    if result.methods:
        yield _methods(result)
    if result.sampled is not None:
        sampled = result.sampled
        quality = "" if sampled.sqnr_db is None else f", SQNR {sampled.sqnr_db:.1f} dB"
        yield Text(
            f"{sampled.points:,} random inputs: largest {sampled.max:.5g}, RMSE {sampled.rmse:.4g}{quality}",
            style="dim",
        )
    if len(result.outputs) > 1:
        yield _outputs(result)
    if result.witness is not None:
        yield _witness(result.witness)
    yield Text(f"{result.time_s.total:.2f} s in total, problem {asked.hash[:16]}", style="dim")


def _methods(result: Result) -> Table:
    table = Table(title="Methods", title_justify="left", title_style="bold")
    table.add_column("method", overflow="fold")
    for heading in ("upper bound", "LSB", "to the witness", "time", "nodes"):
        table.add_column(heading, justify="right", overflow="fold")
    lsb = result.lsb
    for record in result.methods:
        table.add_row(
            record.name,
            upward(record.upper),
            "–" if lsb is None else upward(record.upper, 4, lsb),
            f"{record.upper / result.lower:.3g}×" if result.lower > 0 else "–",
            f"{record.time_s:.3f} s",
            "" if record.nodes is None else f"{record.nodes:,}",
        )
    return table


def _outputs(result: Result) -> Table:
    table = Table(title="Signed difference f_q − f", title_justify="left", title_style="bold")
    for heading in ("output", "smallest", "largest", "LSB"):
        table.add_column(heading, justify="right", overflow="fold")
    for bracket in result.outputs[:_SHOWN_OUTPUTS]:
        table.add_row(
            str(bracket.index),
            f"[{downward(bracket.min_lower, 4)}, {upward(bracket.min_upper, 4)}]",
            f"[{downward(bracket.max_lower, 4)}, {upward(bracket.max_upper, 4)}]",
            "–" if bracket.lsb is None else f"{bracket.lsb:.4g}",
        )
    if len(result.outputs) > _SHOWN_OUTPUTS:
        table.caption = f"{len(result.outputs) - _SHOWN_OUTPUTS} more in the report"
    return table


def _witness(witness: ExecutedWitness) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title = "Witness, executed bit-exactly"
    table.title_justify, table.title_style = "left", "bold"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    j = witness.output
    table.add_row("input", _list(witness.input.tolist()))
    if witness.codes is not None:
        table.add_row("codes", _list(witness.codes.tolist()))
    code = "" if witness.quantized_codes is None else f" (code {witness.quantized_codes[j]})"
    table.add_row(
        f"output {j}",
        f"float {witness.float_output[j]:.6g}, quantized {witness.quantized_output[j]:.6g}{code}",
    )
    table.add_row("difference", f"{witness.difference[j]:.6g}")
    return table


def _list(values: list[float] | list[int]) -> str:
    shown = ", ".join(f"{value:.6g}" for value in values[:_SHOWN_INPUTS])
    more = f", … {len(values) - _SHOWN_INPUTS} more" if len(values) > _SHOWN_INPUTS else ""
    return f"[{shown}{more}]"
