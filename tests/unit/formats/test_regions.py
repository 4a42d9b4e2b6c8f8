"""Region files: the boxes they describe, outward rounding, and what is refused by name."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpq.errors import RegionError
from milpq.formats import load_region
from milpq.formats.region_files import _sum_rounded_up


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_ends(tmp_path: Path) -> None:
    box = load_region(write(tmp_path, "a.toml", "lower = [0.1, -2]\nupper = [0.2, 3]"))
    assert box.lower.tolist() == [0.1, -2.0]
    assert box.upper.tolist() == [0.2, 3.0]


def test_ball(tmp_path: Path) -> None:
    box = load_region(write(tmp_path, "a.toml", "center = [0.5, 0.25]\nradius = [0.25, 1]\nclip = [0, 0.5]"))
    assert box.lower.tolist() == [0.25, 0.0]
    assert box.upper.tolist() == [0.5, 0.5]


def test_center_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([[0.5, 0.25]], np.float32))
    box = load_region(write(tmp_path, "a.toml", 'center = "c.npy"\nradius = 0.25'))
    assert box.upper.tolist() == [0.75, 0.5]


NUMBERS = st.floats(-1e6, 1e6)


@given(NUMBERS, st.floats(0, 1e6))
def test_sums_are_rounded_outward(center: float, radius: float) -> None:
    upper = float(_sum_rounded_up(np.array([center]), np.array([radius]))[0])
    exact = Fraction(center) + Fraction(radius)
    assert Fraction(upper) >= exact
    assert upper == center + radius or Fraction(float(np.nextafter(upper, -np.inf))) < exact


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", lower=np.zeros((1, 2), np.float32), upper=np.array([[1, 2]]))
    assert load_region(tmp_path / "a.npz").upper.tolist() == [1.0, 2.0]


OLD = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)"
NEW = "(vnnlib-version <2.0>)(declare-network f (declare-input X real [1,2])(declare-output Y real [1]))"


@pytest.mark.parametrize(
    "text",
    [
        OLD + "(assert (<= X_0 0.5))(assert (>= X_0 -0.5))(assert (and (>= X_1 1e-1) (<= X_1 2)))",
        OLD + "(assert (or (and (<= X_0 0.5) (<= -0.5 X_0) (>= X_1 0.1) (>= 2.0 X_1)))) ; (a comment",
        OLD + "(assert (<= X_0 0.5))(assert (<= X_0 9))(assert (>= X_0 (- 0.5)))" + """
        (assert (>= X_1 .1))(assert (<= X_1 2.))""",
        NEW + "(assert (and (<= X[0,0] 0.5) (>= X[0,0] -0.5) (>= X[0,1] 0.1) (<= X[0,1] 2)))",
    ],
)  # fmt: skip
def test_vnnlib(tmp_path: Path, text: str) -> None:
    box = load_region(write(tmp_path, "a.vnnlib", text))
    assert box.lower.tolist() == [-0.5, 0.1]
    assert box.upper.tolist() == [0.5, 2.0]


def test_vnnlib_point(tmp_path: Path) -> None:
    text = "(declare-network f (declare-input X real []))(assert (== X 0.25))"
    box = load_region(write(tmp_path, "a.vnnlib", text))
    assert box.lower.tolist() == box.upper.tolist() == [0.25]


BOX = "(assert (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OLD + BOX + "(assert (<= Y_0 3.0))", "(<= Y_0 3.0) constrains an output"),
        (OLD + BOX + "(assert (<= Y_0 X_0))", "(<= Y_0 X_0) constrains an output"),
        (OLD + BOX + "(assert (<= X_0 X_1))", "(<= X_0 X_1) is not a bound"),
        (OLD + BOX + "(assert (<= (+ X_0 X_1) 1))", "is not a bound of one input"),
        (OLD + BOX + "(assert (or (<= X_0 0.1) (>= X_0 0.9)))", "union of boxes"),
        (OLD + BOX + "(assert (< X_0 0.5))", "strict"),
        (OLD + BOX + "(assert (not (<= X_0 0.5)))", "(not (<= X_0 0.5))"),
        (OLD + BOX + "(assert (<= X_7 0.5))", "not declared"),
        (OLD + BOX + "(minimize X_0)", "(minimize X_0) is not known"),
        (OLD + BOX + "(declare-const Z_0 Real)", "Z_0"),
        (OLD + "(assert (and (<= X_0 1) (>= X_0 0) (<= X_1 1)))", "input 1 has no lower bound"),
        (OLD + "(assert (and (<= X_0 1) (>= X_0 2) (<= X_1 1) (>= X_1 0)))", "inverted at input 0"),
        (OLD + BOX + ")", "never opened"),
        (OLD + BOX + "(assert", "never closed"),
        ("(" * 10_000, "nested"),
        ("(declare-const X_999999999 Real)", "inputs"),
        ("(declare-network f (declare-input X real [99999,99999]))", "inputs"),
        ("(declare-network f (declare-input X real [0]))", "inputs"),
        (NEW + "(declare-network g (isomorphic-to f))", "second network"),
        (NEW + "(assert (<= Y[0] 1))", "constrains an output"),
        (NEW + "(assert (<= X[0] 1))", "shape [1, 2]"),
        (NEW + "(assert (<= X[0,2] 1))", "shape [1, 2]"),
        (NEW + "(assert (<= Z[0,1] 1))", "not a bound of one input"),
        ("", "empty"),
        ("hello", "hello is not known"),
    ],
)
def test_vnnlib_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegionError) as caught:
        load_region(write(tmp_path, "a.vnnlib", text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_vnncomp_two_network_property_is_refused(data: Path) -> None:
    with pytest.raises(RegionError, match="second network"):
        load_region(data / "acasxu" / "two_network_equivalence.vnnlib")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("low = [0.0]\nupper = [1.0]", "unknown key 'low'"),
        ("lower = [0.0]", "give either"),
        ("lower = [0.0]\nupper = [1.0]\nradius = 1", "give either"),
        ("center = [0.0]", "give either"),
        ("lower = [0.0, 1.0]\nupper = [1.0]", "lower has 2 entries"),
        ("lower = [1.0]\nupper = [0.0]", "inverted"),
        ("lower = [nan]\nupper = [0.0]", "nan"),
        ("lower = [-inf]\nupper = [0.0]", "-inf"),
        ("lower = []\nupper = []", "empty"),
        ('lower = ["a"]\nupper = [0.0]', "lower[0] is not a number"),
        ("lower = [true]\nupper = [1.0]", "lower[0] is not a number"),
        ("lower = [[0.0]]\nupper = [1.0]", "lower[0] is not a number"),
        ("lower = 0.0\nupper = [1.0]", "list"),
        ("center = [0.0]\nradius = -1", "negative"),
        ("center = [0.0]\nradius = [1, 2]", "radius has 2"),
        ("center = [0.0]\nradius = 1\nclip = [1, 0]", "clip"),
        ("center = [5.0]\nradius = 1\nclip = [0, 1]", "inverted"),
        ('center = "../c.npy"\nradius = 1', "beside it"),
        ('center = "c.npy"\nradius = 1', "no such file"),
        (f"lower = [1{'0' * 400}]\nupper = [0]", "too large"),
        ("lower = [0.0,", "is not TOML"),
        ("a = " + "[" * 50_000, "is not TOML"),
    ],
)
def test_toml_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegionError) as caught:
        load_region(write(tmp_path, "a.toml", text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", lower=np.array([{}], dtype=object), upper=np.ones(1))
    with pytest.raises(RegionError, match="holds object"):
        load_region(tmp_path / "a.npz")
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RegionError, match="holds object"):
        load_region(write(tmp_path, "a.toml", 'center = "c.npy"\nradius = 1'))


def test_other_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", lower=np.zeros(1), upper=np.ones(1), more=np.ones(1))
    with pytest.raises(RegionError, match="more"):
        load_region(tmp_path / "a.npz")


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=r"\.csv"):
        load_region(write(tmp_path, "a.csv", "0,1"))
