"""The reader of queries against the parser of the standard, and what it refuses."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import vnnlib

from milpq.errors import MilpqError, RegionError, UnsupportedModelError
from milpq.formats.vnnlib_query import And, Comparison, Or, holds, read_vnnlib_query

NETWORKS = """(vnnlib-version <2.0>)
(declare-network f (declare-input X_f real [2]) (declare-output Y_f real [1,2]))
(declare-network g (isomorphic-to f) (declare-input X_g real [2]) (declare-output Y_g real [1,2]))
"""
ASSERTIONS = [
    "(<= X_f[0] 0.5)",
    "(>= (* 2.0 X_f[0]) (- X_f[1] 0.125))",
    "(== X_f[0] X_g[0])",
    "(!= X_f[1] X_g[1])",
    "(and (< Y_f[0,0] Y_g[0,0]) (> Y_f[0,1] (- Y_g[0,1])))",
    "(or (<= (+ Y_f[0,0] Y_f[0,1] -0.25) 0.0) (and (> 1.0 X_f[0]) (<= (- Y_g[0,0] Y_g[0,1] 0.5) (* -3.0 0.5))))",
    "(<= 0.0 (+ Y_f[0,0] (* 0.5 (- Y_f[0,0] 2.0))))",
]


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "query.vnnlib"
    path.write_text(text, encoding="utf-8")
    return path


def _number(node: object, values: dict) -> float:
    """Evaluate an expression of the standard's own parser."""
    name = type(node).__name__
    if name == "Var":
        return values[node.name][tuple(node.indices)]
    if name in {"Float", "Int", "IntExpr"}:
        return node.value
    if name == "Negate":
        return -_number(node.expr, values)
    if name == "Plus":
        return sum(_number(part, values) for part in node.args)
    if name == "Minus":
        return _number(node.head, values) - sum(_number(part, values) for part in node.rest)
    assert name == "Multiply"
    return float(np.prod([_number(part, values) for part in node.args]))


def _truth(node: object, values: dict) -> bool:
    name = type(node).__name__
    if name == "And":
        return all(_truth(part, values) for part in node.args)
    if name == "Or":
        return any(_truth(part, values) for part in node.args)
    left, right = _number(node.lhs, values), _number(node.rhs, values)
    return {
        "LessEqual": left <= right,
        "LessThan": left < right,
        "GreaterEqual": left >= right,
        "GreaterThan": left > right,
        "Equal": left == right,
        "NotEqual": left != right,
    }[name]


@pytest.mark.parametrize("assertion", ASSERTIONS)
def test_it_reads_what_the_standards_parser_reads(assertion: str, tmp_path: Path) -> None:
    text = f"{NETWORKS}(assert {assertion})\n"
    ours = read_vnnlib_query(_write(tmp_path, text)).assertions[0]
    theirs = vnnlib.parse_query_string(text).assertions[0].expr
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        # Eighths: exact in float64, and equalities do occur.
        values = {
            name: rng.integers(-16, 17, size=shape) / 8
            for name, shape in (("X_f", (2,)), ("X_g", (2,)), ("Y_f", (1, 2)), ("Y_g", (1, 2)))
        }
        expected = _truth(theirs, values)
        assert (
            holds(ours, lambda variable, values=values: Fraction(values[variable[0]].ravel()[variable[1]]))
            == expected
        )
        seen.add(expected)
    assert seen == {True, False}


def test_numbers_are_exact_decimals(tmp_path: Path) -> None:
    query = read_vnnlib_query(_write(tmp_path, f"{NETWORKS}(assert (<= X_f[0] -1.1e-1))"))
    (comparison,) = query.assertions
    assert isinstance(comparison, Comparison)
    assert comparison.constant == Fraction(11, 100)
    assert comparison.terms == ((("X_f", 0), Fraction(1)),)


def test_declarations(tmp_path: Path) -> None:
    query = read_vnnlib_query(_write(tmp_path, f"{NETWORKS}(assert (or (<= Y_f[0,1] 0.0)))"))
    first, second = query.networks
    assert (first.name, first.relation, first.output.shape) == ("f", None, (1, 2))
    assert (second.name, second.relation, second.relative) == ("g", "isomorphic-to", "f")
    assert query.assertions == (Or((Comparison("<=", ((("Y_f", 1), Fraction(1)),), Fraction(0)),)),)
    assert And(()) != Or(())


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("(assert (<= X_f[0] 0", RegionError, "never closed"),
        ("(assert (<= X_f[2] 0.0))", RegionError, "does not fit the shape"),
        ("(assert (<= X_f 0.0))", RegionError, "does not fit the shape"),
        ("(assert (<= Z[0] 0.0))", RegionError, "names nothing"),
        ("(assert (<= X_f[0] 1/2))", RegionError, "names nothing"),
        ("(assert (not (<= X_f[0] 0.0)))", RegionError, "not a condition"),
        ("(assert (<= X_f[0] (/ 1 2)))", RegionError, "not an expression"),
        ("(assert (and))", RegionError, "not a condition"),
        ("(assert (<= (* X_f[0] X_f[1]) 0.0))", UnsupportedModelError, "multiplies variables"),
        ("(declare-network f (declare-input A real [1]) (declare-output B real [1]))", RegionError, "twice"),
        (
            "(declare-network h (declare-input X_f real [1]) (declare-output B real [1]))",
            RegionError,
            "taken",
        ),
        (
            "(declare-network h (declare-input A real [n]) (declare-output B real [1]))",
            RegionError,
            "not fixed",
        ),
        ("(declare-network h (declare-input A real [1]))", RegionError, "needs an input and an output"),
        ("(declare-network h (equal-to k) (declare-input A real [1]))", RegionError, "not declared before"),
        (
            '(declare-network h (declare-hidden H real [1] "n"))',
            UnsupportedModelError,
            "hidden",
        ),
        ("(check-sat)", RegionError, "not known"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    text: str, error: type[MilpqError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        read_vnnlib_query(_write(tmp_path, NETWORKS + text))


@pytest.mark.parametrize(
    "text", ["(declare-const X_0 Real)", "(vnnlib-version <1.0>)", "(vnnlib-version <2.0>)"]
)
def test_old_versions_and_empty_queries_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(MilpqError):
        read_vnnlib_query(_write(tmp_path, text))
