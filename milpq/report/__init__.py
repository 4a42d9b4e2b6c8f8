"""Reports: JSON, CSV, JUnit and HTML files, and what a terminal shows."""

from milpq.report.explanation import explanation_csv, explanation_json
from milpq.report.files import (
    EXPLANATION_FORMATS,
    FORMATS,
    check_report_path,
    csv_text,
    json_text,
    write_explanation,
    write_report,
)
from milpq.report.html import explanation_html, html_text
from milpq.report.junit import junit_text

__all__ = [
    "EXPLANATION_FORMATS",
    "FORMATS",
    "check_report_path",
    "csv_text",
    "explanation_csv",
    "explanation_html",
    "explanation_json",
    "html_text",
    "json_text",
    "junit_text",
    "write_explanation",
    "write_report",
]
