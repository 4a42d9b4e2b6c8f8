"""The quick suite that ships: all of it runs to its end."""

import csv
from pathlib import Path

import pytest
from running import Milpq

import milpq
from milpq.bench.plan import Case, Poser, expand
from milpq.bench.suite import load_suite

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


def questions() -> list[Case]:
    """Return the questions of the suite, each once."""
    cases = {case.question: case for case in expand(load_suite(SUITE))}
    return list(cases.values())


@pytest.mark.parametrize("case", questions(), ids=lambda case: case.question)
def test_every_question_is_certified_and_checked(case: Case, tmp_path: Path) -> None:
    problem, path = Poser(SUITE.parent).pose(case), tmp_path / "proof.milpq"
    options = {"outputs": problem.outputs.tolist(), "jobs": 1, "time_limit": 4.0, "gap": 0.05}
    domain = problem.domain.kind if problem.domain.integer is not None else None
    sides = problem.float_network, problem.quantized
    result = milpq.bound(*sides, problem.domain.box, input_domain=domain, certificate=path, **options)
    verified = milpq.check(path, *sides)
    assert verified.problem.hash() == problem.hash()
    assert result.lower <= verified.upper == result.certificate.proved_upper
    # Where time is short less is proved than was found.
    assert verified.upper <= 3 * result.upper
