"""``milpq compare``: every method a row, whatever becomes of it."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from running import Milpq

from milpq.bench.comparison import METHODS, compare
from milpq.bench.methods import Effort, Outcome
from milpq.bench.tasks import random_pair
from milpq.errors import SoundnessError
from milpq.merge import Problem
from milpq.region.box import Box
from milpq.rounding.targets import get_target

ModelPath = Callable[[str], Path]


@pytest.fixture
def problem() -> Problem:
    network, model = random_pair([2, 4, 1], 8, 0)
    return Problem.create(network, model.on_target(get_target("tflm")), Box([-0.2] * 2, [0.2] * 2), "codes")


class Scripted:
    """A pool that answers from a list instead of running anything."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = outcomes

    def run(self, orders):
        return ((order.number, self.outcomes[order.number]) for order in orders)

    def close(self) -> None:
        pass


def test_methods_side_by_side(milpq: Milpq, model_path: ModelPath, tmp_path: Path) -> None:
    region = tmp_path / "tiny.toml"
    region.write_text("lower = [-0.02, -0.02, -0.02]\nupper = [0.02, 0.02, 0.02]\n", encoding="utf-8")
    reports = [tmp_path / name for name in ("c.json", "c.csv", "c.svg", "c.png")]
    chosen = ["differential", "separate", "separate-milp", "naive-milp", "auto"]
    outcome = milpq(
        "compare", model_path("controller.onnx"), model_path("controller_int8.tflite"), "--region", region,
        "--target", "tflm", "--input-domain", "codes", "--time-limit", "20",
        *[word for name in chosen for word in ("--method", name)],
        *[word for path in reports for word in ("--report", str(path))],
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    content = json.loads(reports[0].read_text())
    assert list(content["methods"]) == [name for name in METHODS if name in {"interval", *chosen}]
    bounds = {name: entry["upper"] for name, entry in content["methods"].items()}
    assert content["methods"]["auto"]["status"] == "optimal"
    assert bounds["separate"] >= bounds["separate-milp"] * (1 - 1e-9)
    assert bounds["separate-milp"] > 2 * bounds["auto"], "subtracting loses what both networks share"
    assert min(bounds.values()) >= content["witness"] > 0
    assert content["sampled"]["max"] <= content["witness"]
    assert [file["role"] for file in content["files"]] == ["float", "quantized", "region"]
    rows = list(csv.DictReader(reports[1].read_text().splitlines()))
    assert [row["method"] for row in rows] == list(bounds)
    assert [float(row["upper"]) for row in rows] == list(bounds.values())
    assert reports[2].read_text().count("</svg>") == 1
    assert reports[3].read_bytes().startswith(b"\x89PNG")
    for name in bounds:
        assert name in outcome.out
    assert "SQNR" in outcome.out


def test_failures_are_rows(problem: Problem) -> None:
    good = Outcome("bounded", 0.5, 2.0, "checked", 0.1, 0.1, sampled_points=10, sampled_max=0.4)
    lost = Outcome("memory", 0.0, float("inf"), "checked", 1.0, 1.0, note="out of memory")
    low = Outcome("bounded", 0.0, 0.3, "solver_trusted", 1.0, 1.0)
    found = compare(problem, Effort("auto"), ["lp", "naive-milp"], Scripted(good, lost, low))
    assert [outcome.status for _, outcome in found.outcomes] == ["bounded", "memory", "contradicted"]
    assert found.witness == 0.5
    assert found.ratio(lost) is None


@pytest.mark.parametrize("status", ["bounded", "alarm"])
def test_a_checked_bound_below_a_witness_is_an_alarm(problem: Problem, status: str) -> None:
    good = Outcome("bounded", 0.5, 2.0, "checked", 0.1, 0.1)
    wrong = replace(good, lower=0.0, upper=0.3, status=status)
    with pytest.raises(SoundnessError):
        compare(problem, Effort("auto"), ["lp"], Scripted(good, wrong))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "magic"], "unknown method 'magic'"),
        (["--report", "x.html"], "unknown ending"),
        (["--time-limit", "0"], "time limit"),
        (["--output", "7"], "output 7"),
    ],
)
def test_bad_usage_is_one_line(options: list[str], said: str, milpq: Milpq, model_path: ModelPath) -> None:
    outcome = milpq(
        "compare", model_path("controller.onnx"), model_path("controller_int8.tflite"),
        "--region", model_path("controller_small.toml"), "--target", "tflm", *options,
    )  # fmt: skip
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
