"""The quick suite that ships: its small grids run to their ends."""

import csv
from pathlib import Path

import pytest
from running import Milpq

SUITE = Path(__file__).parents[2] / "configs" / "quick.toml"


@pytest.mark.parametrize(("grid", "cases"), [("targets", 4), ("random", 2)])
def test_a_grid_is_solved(grid: str, cases: int, milpq: Milpq, tmp_path: Path) -> None:
    outcome = milpq("bench", SUITE, "--grid", grid, "-o", tmp_path, "--jobs", "2", "--progress", "none")
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["optimal"] * cases
    for row in rows:
        assert 0 < float(row["lower"]) <= float(row["upper"]) <= float(row["lower"]) * (1 + 1e-4)
        assert row["trust"] == "checked"
    assert (tmp_path / "report.html").exists()
    assert "optimal" in outcome.out
