"""What each layer contributes, as people read it, and as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milpq.report.svg import Bar
from milpq.verify import Explanation
from milpq.verify.numbers import downward, upward


def explanation_table(found: Explanation) -> RenderableType:
    """Return the shares of the worst output, layer by layer, and what to give more bits."""
    return Group(*_parts(found))


def explanation_json(found: Explanation) -> str:
    """Return the report of schema ``milpq-explanation/1``; numbers round-trip."""
    return json.dumps(found.report(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def explanation_csv(found: Explanation) -> str:
    """Return one row for each source and output."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("output", "layer", "source", "certified", "sampled", "rms", "lsb", "upper", "hash"))
    for position, output in enumerate(found.outputs):
        for one in found.shares:
            writer.writerow([
                output,
                one.layer,
                one.kind,
                repr(float(one.certified[position])),
                repr(float(one.sampled[position])),
                repr(float(one.rms[position])),
                "" if found.lsb is None else repr(float(found.lsb[position])),
                repr(float(found.upper[position])),
                found.hash,
            ])  # fmt: skip
    return stream.getvalue()


def bars(found: Explanation) -> list[Bar]:
    """Return the shares of the worst output as bars, the largest first."""
    j = found.worst
    return [
        Bar(_name(one.layer, one.kind), float(one.certified[j]), float(one.sampled[j]))
        for one in found.ranked()
    ]


def _parts(found: Explanation) -> Iterator[RenderableType]:
    j = found.worst
    lsb = None if found.lsb is None else float(found.lsb[j])
    codes = "" if lsb is None else f" = {upward(found.upper[j], 4, lsb)} LSB of {lsb:.4g}"
    yield Text(
        f"Output {found.outputs[j]}: |f_q − f| is at most {upward(found.upper[j])}{codes}; "
        f"seen {downward(found.sampled[j])}",
        style="bold",
    )
    total = sum(float(one.certified[j]) for one in found.shares)
    table = Table(box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("source", overflow="fold")
    for heading in ("certified", "LSB", "share", "sampled", "RMS"):
        table.add_column(heading, justify="right", overflow="fold")
    last = ""
    for one in found.shares:
        certified = float(one.certified[j])
        if certified == 0.0:
            continue
        table.add_row(
            one.layer if one.layer != last else "",
            one.kind,
            upward(certified),
            "–" if lsb is None else upward(certified, 3, lsb),
            f"{certified / total:.1%}",
            f"{one.sampled[j]:.4g}",
            f"{one.rms[j]:.3g}",
        )
        last = one.layer
    table.add_row(
        "together",
        "",
        upward(total),
        "–" if lsb is None else upward(total, 3, lsb),
        "",
        "",
        "",
        end_section=True,
    )
    yield table
    layers = sorted(found.layer_shares().items(), key=lambda pair: -pair[1])
    if total > 0:
        ranking = ", ".join(f"{layer} {share / total:.0%}" for layer, share in layers[:5] if share > 0)
        yield Text(f"By layer: {ranking}")
    yield Text(f"Advice: {found.advice}")
    for note in found.notes:
        yield Text(f"note  {note}", style="dim")
    yield Text(
        f"{found.parts:,} parts of the region, {found.points:,} random inputs, {found.time_s:.2f} s, problem "
        f"{found.hash[:16]}",
        style="dim",
    )


def _name(layer: str, kind: str) -> str:
    return layer if layer == kind else f"{layer} {kind}"
