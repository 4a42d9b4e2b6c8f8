"""``milpq explain`` as a user runs it, and explanations inside reports."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Milpq

import milpq as package
from milpq.errors import SoundnessError, UnsupportedModelError
from milpq.verify import layers
from milpq.verify.spread import execute_sources

ModelPath = Callable[[str], Path]


@pytest.fixture
def controller(model_path: ModelPath) -> list[str]:
    return [
        str(model_path("controller.onnx")), str(model_path("controller_int8.tflite")),
        "--region", str(model_path("controller_small.toml")), "--target", "tflm",
    ]  # fmt: skip


def test_every_layer_is_listed_with_advice(milpq: Milpq, controller: list[str]) -> None:
    outcome = milpq("explain", *controller)
    assert outcome.code == 0, outcome.err
    for word in (
        "layer0.Gemm",
        "layer1.Gemm",
        "layer2.Gemm",
        "weights",
        "rounding",
        "input",
        "Advice",
        "LSB",
    ):
        assert word in outcome.out
    assert "saturation" not in outcome.out, "nothing saturates in this region"


def test_the_reports_agree(milpq: Milpq, controller: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / f"x.{ending}" for ending in ("json", "csv", "html")]
    outcome = milpq("explain", *controller, *(word for path in paths for word in ("--report", str(path))))
    assert outcome.code == 0, outcome.err
    report = json.loads(paths[0].read_text())
    assert report["schema"] == "milpq-explanation/1"
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert [float(row["certified"]) for row in rows] == [share["certified"][0] for share in report["shares"]]
    total = sum(share["certified"][0] for share in report["shares"])
    assert total >= report["upper"][0] >= report["sampled"][0] > 0
    page = paths[2].read_text()
    assert report["advice"] in page
    assert "<svg" in page


def test_it_agrees_with_bound(model_path: ModelPath) -> None:
    files = [
        model_path(name) for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml")
    ]
    found = package.explain(*files, target="tflm")
    answer = package.bound(*files, target="tflm", explain=True)
    assert answer.explanation is not None
    assert answer.explanation.upper.tolist() == found.upper.tolist()
    assert answer.lower <= found.upper.max()
    assert found.hash == answer.problem.hash
    assert "layer" in repr(found)


def test_the_page_of_bound_holds_the_layers(milpq: Milpq, controller: list[str], tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    assert milpq("bound", *controller, "--method", "interval", "--report", path).code == 0
    assert "Where the error comes from" in path.read_text()


def test_few_codes(milpq: Milpq, controller: list[str]) -> None:
    outcome = milpq("explain", *controller, "--input-domain", "codes", "--parts", "10000", "--output", "0")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parts", "0"], "parts"),
        (["--seed", "-1"], "seed"),
        (["--report", "x.xml"], "unknown ending"),
        (["--input-domain", "some"], "input domain"),
        (["--output", "7"], "output 7"),
    ],
)
def test_bad_usage(milpq: Milpq, controller: list[str], words: list[str], said: str) -> None:
    outcome = milpq("explain", *controller, *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_contribution_above_its_bound_is_an_alarm(
    model_path: ModelPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "execute_sources", lambda *arguments: 3.0 * execute_sources(*arguments))
    files = [
        model_path(name) for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml")
    ]
    with pytest.raises(SoundnessError, match="certified share"):
        package.explain(*files, target="tflm")


def test_networks_without_such_parts_are_refused_and_noted_in_pages(
    model_path: ModelPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dynamic quantization: `explain` says why not, and a run of `bound` keeps its answer."""
    from milpq.merge import Merged

    files = [
        model_path(name) for name in ("controller.onnx", "controller_int8.tflite", "controller_small.toml")
    ]
    monkeypatch.setattr(Merged, "is_exact", property(lambda _self: False))
    with pytest.raises(UnsupportedModelError, match="dynamically"):
        package.explain(*files, target="tflm")
    answer = package.bound(*files, target="tflm", method="interval", explain=True)
    assert answer.explanation is None
    assert any("dynamically" in note for note in answer.problem.notes)
