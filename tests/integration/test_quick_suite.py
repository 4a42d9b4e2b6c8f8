"""The quick suite that ships: all of it runs to its end."""

import csv
from pathlib import Path

from running import Milpq

SUITE = Path(__file__).parents[2] / "configs" / "quick.toml"
SMALL = {"targets", "random"}
"""Grids whose cases close long before their limits."""


def test_the_suite_runs_to_its_end(milpq: Milpq, tmp_path: Path) -> None:
    outcome = milpq("bench", SUITE, "-o", tmp_path, "--jobs", "2", "--progress", "none")
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == 22
    for row in rows:
        assert row["status"] in ({"optimal"} if row["grid"] in SMALL else {"optimal", "bounded"}), row
        assert 0 < float(row["witness"]) <= float(row["upper"])
        if row["method"] == "auto":
            assert row["trust"] == "checked"
            assert 0 < float(row["lower"]) <= float(row["upper"])
    grids = {row["grid"] for row in rows}
    assert all(f"{grid}: " in outcome.out for grid in grids)
    assert {path.name for path in tmp_path.glob("*.svg")} >= {
        "cactus.svg",
        "tightness.svg",
        "bound-radius.svg",
    }
    assert (tmp_path / "report.html").exists()
