"""Reports as one HTML file: verdict first, plots inline, nothing loaded from anywhere."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from milpq.errors import UsageError
from milpq.report.explanation import bars
from milpq.report.svg import bar_plot, bracket_plot
from milpq.verify import Explanation, Result
from milpq.verify.numbers import downward, upward

if TYPE_CHECKING:
    from jinja2 import Template


def check_html() -> None:
    """Raise UsageError unless jinja2, which fills the page, is installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise UsageError("an .html report needs jinja2: pip install jinja2")


def html_text(result: Result) -> str:
    """Return the report of a result as a page that needs no network; every text in it is escaped.

    Raises
    ------
    UsageError
        jinja2 is not installed.
    """
    page = _template("report.html")
    return page.render(
        result=result,
        asked=result.problem,
        ran=result.environment,
        bracket_plot=_markup(bracket_plot(result.history, result.problem.tolerance)),
        share_plot=None if result.explanation is None else _share_plot(result.explanation),
    )


def explanation_html(found: Explanation) -> str:
    """Return an explanation as a page, like `html_text`.

    Raises
    ------
    UsageError
        jinja2 is not installed.
    """
    return _template("explanation.html").render(found=found, share_plot=_share_plot(found))


def _template(name: str) -> Template:
    check_html()
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (only these reports need it)

    pages = Environment(loader=PackageLoader("milpq.report"), autoescape=True, undefined=StrictUndefined)
    pages.filters["downward"] = downward
    pages.filters["upward"] = upward
    return pages.get_template(name)


def _share_plot(found: Explanation) -> str:
    return _markup(bar_plot(bars(found), "Certified and sampled contribution of each source"))


def _markup(plot: str) -> str:
    """Mark a plot as HTML; plots escape the texts in them."""
    from markupsafe import Markup  # noqa: PLC0415

    return Markup(plot)
