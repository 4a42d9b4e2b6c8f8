"""The report as one HTML file: verdict first, plots inline, nothing loaded from anywhere."""

from __future__ import annotations

import importlib.util
from importlib.resources import files

from milpq.errors import UsageError
from milpq.report.svg import bracket_plot
from milpq.verify import Result
from milpq.verify.numbers import downward, upward


def check_html() -> None:
    """Raise UsageError unless jinja2, which fills the page, is installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise UsageError("an .html report needs jinja2: pip install jinja2")


def html_text(result: Result) -> str:
    """Return the report as a page that needs no network; every text in it is escaped.

    Raises
    ------
    UsageError
        jinja2 is not installed.
    """
    check_html()
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 (only this report needs it)
    from markupsafe import Markup  # noqa: PLC0415

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    page.filters["downward"] = downward
    page.filters["upward"] = upward
    source = files("milpq.report").joinpath("templates/report.html").read_text(encoding="utf-8")
    return page.from_string(source).render(
        result=result,
        asked=result.problem,
        ran=result.environment,
        # The plots escape the texts in them.
        bracket_plot=Markup(bracket_plot(result.history, result.problem.tolerance)),
    )
