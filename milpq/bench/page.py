"""The rows of a benchmark as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from milpq.bench.plots import SOLVED
from milpq.bench.rows import Row
from milpq.bench.suite import Suite
from milpq.verify.numbers import downward, upward
from milpq.verify.result import Environment as Ran


def page_text(suite: Suite, rows: Sequence[Row], plots: Mapping[str, tuple[str, str]], ran: Ran) -> str:
    """Return the page; every text in it is escaped, and the plots are inline.

    Parameters
    ----------
    plots : mapping
        Name to title and SVG text.
    """
    loader = ChoiceLoader([PackageLoader("milpq.bench"), PackageLoader("milpq.report")])
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    pages.filters["downward"] = downward
    pages.filters["upward"] = upward
    statuses = [row.outcome.status for row in rows]
    grids: dict[str, list[Row]] = {}
    for row in rows:
        grids.setdefault(row.case.grid, []).append(row)
    return pages.get_template("suite.html").render(
        title=suite.title,
        about=suite.about,
        abouts={grid.name: grid.about for grid in suite.grid},
        rows=rows,
        grids=grids,
        solved=sum(status in SOLVED for status in statuses),
        skipped=statuses.count("skipped"),
        alarms=statuses.count("alarm"),
        plots={name: (title, Markup(svg)) for name, (title, svg) in plots.items()},
        ran=ran,
    )
