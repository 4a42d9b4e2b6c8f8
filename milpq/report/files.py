"""Report files, by the ending of their name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from milpq.errors import UsageError
from milpq.formats.writing import check_place, replace_file
from milpq.report.explanation import explanation_csv, explanation_json
from milpq.report.html import check_html, explanation_html, html_text
from milpq.report.junit import junit_text
from milpq.verify import Explanation, Result

_CSV_COLUMNS: Final = (
    "output", "max_lower", "max_upper", "min_lower", "min_upper", "lsb",
    "status", "lower", "upper", "trust", "target", "input_domain", "float", "quantized", "hash",
)  # fmt: skip


def json_text(result: Result) -> str:
    """Return the report of schema ``milpq-report/1``; numbers round-trip, what is not finite is null."""
    return json.dumps(result.report(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def csv_text(result: Result) -> str:
    """Return one row an output: brackets of its signed extremes, and the overall one; empty if unknown."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    asked = result.problem
    for bracket in result.outputs:
        ends = (bracket.max_lower, bracket.max_upper, bracket.min_lower, bracket.min_upper)
        writer.writerow([
            bracket.index,
            *(_cell(end) for end in ends),
            "" if bracket.lsb is None else repr(bracket.lsb),
            result.status,
            _cell(result.lower),
            _cell(result.upper),
            result.certificate.trust,
            asked.target or "",
            asked.input_domain,
            asked.float_origin,
            asked.quantized_origin,
            asked.hash,
        ])  # fmt: skip
    return stream.getvalue()


FORMATS: Final[Mapping[str, Callable[[Result], str]]] = {
    ".json": json_text,
    ".csv": csv_text,
    ".xml": junit_text,
    ".html": html_text,
}
"""What writes the text of each file ending."""

EXPLANATION_FORMATS: Final[Mapping[str, Callable[[Explanation], str]]] = {
    ".json": explanation_json,
    ".csv": explanation_csv,
    ".html": explanation_html,
}
"""The same for what each layer contributes."""


def check_report_path(path: Path, formats: Mapping[str, object] = FORMATS) -> None:
    """Raise before a long run what would fail after it: an unknown ending, a missing folder or package."""
    if path.suffix.lower() not in formats:
        raise UsageError(f"--report {path}: unknown ending {path.suffix!r}; use one of {', '.join(formats)}")
    if path.suffix.lower() == ".html":
        check_html()
    check_place(path, "--report")


def write_report(result: Result, path: Path) -> None:
    """Write a report so that a reader never sees half of it.

    Raises
    ------
    UsageError
        The ending is unknown or the place is not writable.
    OSError
        Writing failed.
    """
    check_report_path(path)
    replace_file(path, FORMATS[path.suffix.lower()](result).encode())


def write_explanation(found: Explanation, path: Path) -> None:
    """Write what each layer contributes, like `write_report`."""
    check_report_path(path, EXPLANATION_FORMATS)
    replace_file(path, EXPLANATION_FORMATS[path.suffix.lower()](found).encode())


def _cell(value: float) -> str:
    return repr(value) if abs(value) != float("inf") else ""
