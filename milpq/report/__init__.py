"""Reports: JSON, CSV, JUnit and HTML files, and what a terminal shows."""

from milpq.report.files import FORMATS, check_report_path, csv_text, json_text, write_report
from milpq.report.html import html_text
from milpq.report.junit import junit_text

__all__ = ["FORMATS", "check_report_path", "csv_text", "html_text", "json_text", "junit_text", "write_report"]
