"""The card that stands for a result in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Final

from milpq.verify.numbers import downward, upward

if TYPE_CHECKING:
    from milpq.verify.result import Result

_COLOURS: Final = {
    "optimal": "#1a7f37",
    "certified": "#1a7f37",
    "bounded": "#0969da",
    "violated": "#cf222e",
    "undecided": "#9a6700",
    "interrupted": "#9a6700",
}
_SHOWN: Final = 12


def html_card(result: Result) -> str:
    """Return an HTML fragment: verdict, bracket, what it rests on, and the brackets of the outputs.

    Every text is escaped, and numbers are rounded outwards.
    """
    lsb, asked = result.lsb, result.problem
    facts = [("max |f<sub>q</sub> − f|", f"[{downward(result.lower)}, {upward(result.upper)}]")]
    if lsb is not None:
        ends = f"[{downward(result.lower, 4, lsb)}, {upward(result.upper, 4, lsb)}]"
        facts.append(("in LSB", f"{ends} of {lsb:.4g}"))
    facts += [
        ("trust", escape(result.certificate.trust.replace("_", " "))),
        ("networks", f"{escape(asked.float_origin)}, {escape(asked.quantized_origin)}"),
        ("target", escape(asked.target or "none, real arithmetic")),
        ("found by", escape(", ".join(record.name for record in result.methods) or "nothing yet")),
    ]
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>" for name, value in facts
    )
    return (
        f"<div><p style='border-left:4px solid {_COLOURS[result.status]};padding-left:.6em'>"
        f"<b>{escape(result.verdict)}</b></p><table>{rows}</table>{_outputs(result)}</div>"
    )


def _outputs(result: Result) -> str:
    if len(result.outputs) < 2:
        return ""
    head = _row("th", ("output", "smallest f<sub>q</sub> − f", "largest"))
    rows = "".join(
        _row(
            "td",
            (
                str(bracket.index),
                f"[{downward(bracket.min_lower, 4)}, {upward(bracket.min_upper, 4)}]",
                f"[{downward(bracket.max_lower, 4)}, {upward(bracket.max_upper, 4)}]",
            ),
        )
        for bracket in result.outputs[:_SHOWN]
    )
    more = len(result.outputs) - _SHOWN
    rest = f"<p>{more} more in <code>report()</code></p>" if more > 0 else ""
    return f"<table>{head}{rows}</table>{rest}"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"
