"""The `.nnet` reader."""

from pathlib import Path

import numpy as np
import pytest

from milpq.errors import MilpqError, ModelFileError
from milpq.formats import load_float

SMALL = """// a comment
2,2,1,3,
2,3,1,
0,
-1,-1,
1,1,
0,0,0,
1,1,1,
1,2,
3,4,
-5,6,
0.5,
0.25,
-1e-2,
1,-1,2,
7,
"""


def write(folder: Path, text: str) -> Path:
    (folder / "small.nnet").write_text(text)
    return folder / "small.nnet"


def test_network(tmp_path: Path) -> None:
    network = load_float(write(tmp_path, SMALL))
    points = np.array([[0.5, -1.0], [-2.0, 0.3]])
    hidden = np.maximum(points @ np.array([[1, 2], [3, 4], [-5, 6]]).T + [0.5, 0.25, -0.01], 0)
    assert network.evaluate(points) == pytest.approx(hidden @ np.array([[1, -1, 2]]).T + 7)
    assert "normalized" in network.note


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("2,2,1,3,", "2,2,1,", "line 2"),
        ("2,2,1,3,", "2,3,1,3,", "do not match"),
        ("2,2,1,3,", "99999999,2,1,3,", "99999999 layers"),
        ("3,4,", "3,", "line 10: 1 numbers where 2"),
        ("3,4,", "3,x,", "line 10"),
        ("3,4,", "3,nan,", "'layer0'"),
        ("7,\n", "", "truncated"),
        ("7,\n", "7,\n8,\n", "more numbers"),
        ("2,3,1,", "2,999999999,1,", "999999999"),
    ],
)
def test_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(MilpqError) as caught:
        load_float(write(tmp_path, SMALL.replace(before, after)))
    assert message in str(caught.value)
    assert "small.nnet" in str(caught.value)


def test_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.nnet").write_bytes(bytes(range(256)))
    with pytest.raises(ModelFileError, match="not text"):
        load_float(tmp_path / "small.nnet")


@pytest.mark.parametrize("which", ["1_1", "3_3", "4_5"])
def test_acas_xu_is_its_onnx_file(data: Path, which: str) -> None:
    text, graph = (
        load_float(data / "acasxu" / f"ACASXU_run2a_{which}_batch_2000.{ending}")
        for ending in ("nnet", "onnx")
    )
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 5))
    assert np.abs(text.evaluate(points) - graph.evaluate(points)).max() < 1e-6
