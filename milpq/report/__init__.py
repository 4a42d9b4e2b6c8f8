"""Reports: JSON and CSV files, and what a terminal shows."""

from milpq.report.files import FORMATS, check_report_path, csv_text, json_text, write_report

__all__ = ["FORMATS", "check_report_path", "csv_text", "json_text", "write_report"]
