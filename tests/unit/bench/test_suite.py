import json
from pathlib import Path

import pytest

from milpq.bench.plan import Poser, expand
from milpq.bench.suite import Suite, load_suite, suite_schema
from milpq.errors import MissingDataError, UsageError

CONFIGS = Path(__file__).parents[3] / "configs"

HEAD = 'schema = "milpq-suite/1"\ntitle = "t"\n'
GRID = """
[[grid]]
name = "g"
pairs = [{ build = "random", name = "r", inputs = 2, width = [3, 4], bits = [4, 8] }]
regions = [{ radius_codes = [1, 2] }, { center = 0.0, radius = 0.5 }]
targets = ["tflm"]
methods = ["interval", "differential"]
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_combination_is_one_case(tmp_path: Path) -> None:
    cases = expand(load_suite(_write(tmp_path, HEAD + GRID)))
    assert len(cases) == 4 * 3 * 2
    assert len({case.label for case in cases}) == len(cases)
    assert cases[0].axes == {"inputs": 2, "width": 3, "depth": 2, "bits": 4, "seed": 0, "radius_codes": 1}
    assert [case.method for case in cases[:2]] == ["interval", "differential"]


def test_cases_differ_in_what_they_ask(tmp_path: Path) -> None:
    cases = expand(load_suite(_write(tmp_path, HEAD + GRID)))
    poser = Poser(tmp_path)
    problems = [poser.pose(case) for case in cases]
    hashes = {problem.hash() for problem in problems}
    assert len(hashes) == 4 * 3, "one problem for the two methods"
    assert problems[0].domain.root.level_lower.tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing = 1\n" + HEAD + GRID, "nothing"),
        (HEAD + GRID + 'colour = "red"\n', "colour"),
        (HEAD + GRID.replace("radius = 0.5", "radius = -0.5"), "radius"),
        (HEAD + GRID.replace("inputs = 2", "inputs = 0"), "inputs"),
        (HEAD + GRID.replace('"interval"', '"magic"'), "methods"),
        (HEAD + GRID.replace('"random"', '"guess"'), "guess"),
        (HEAD + GRID + GRID, "one name"),
        (HEAD, "grid"),
        ("title = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_data_file_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPQ_DATA", str(tmp_path))
    text = HEAD + GRID.replace(
        'build = "random", name = "r", inputs = 2, width = [3, 4], bits = [4, 8]',
        'build = "weights", name = "r", float = "data:a/b.onnx"',
    )
    case = expand(load_suite(_write(tmp_path, text)))[0]
    with pytest.raises(MissingDataError, match=r"b\.onnx; set MILPQ_DATA"):
        Poser(tmp_path).pose(case)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_suites_that_ship_are_read_and_posed(path: Path) -> None:
    cases = expand(load_suite(path))
    assert len({case.label for case in cases}) == len(cases)
    poser = Poser(path.parent)
    asked = 0
    for case in {(repr(case.pair), case.target): case for case in cases}.values():
        if case.grid == "resnet8":
            continue  # Reading its convolutions takes seconds; tests of the reader do.
        try:
            poser.pose(case)
        except MissingDataError:
            continue
        asked += 1
    if not asked:
        pytest.skip("MILPQ_DATA is not there")


def test_the_schema_is_that_of_the_models() -> None:
    schema = suite_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {
        "schema" if name == "schema_version" else name for name in Suite.model_fields
    }


def test_the_published_schema_is_current_and_every_suite_names_it() -> None:
    published = json.loads((CONFIGS / "suite.schema.json").read_text(encoding="utf-8"))
    assert published == suite_schema(), "run: milpq bench --schema > configs/suite.schema.json"
    for path in CONFIGS.glob("*.toml"):
        assert path.read_text(encoding="utf-8").startswith("#:schema suite.schema.json\n"), path.name
