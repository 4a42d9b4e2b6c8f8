import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import pytest

from milpq.report import junit_text
from milpq.verify import Result
from milpq.verify.numbers import downward, upward

Answer = Callable[..., Result]


def _suite(result: Result) -> ET.Element:
    suite = ET.fromstring(junit_text(result).encode()).find("testsuite")
    assert suite is not None
    return suite


@pytest.mark.parametrize(
    ("tolerance", "kind"), [(None, None), (0.05, None), (0.0001, "violated"), (0.03, "undecided")]
)
def test_a_case_passes_or_says_why_not(answer: Answer, tolerance: float | None, kind: str | None) -> None:
    result = answer(tolerance=tolerance)
    suite = _suite(result)
    (case,) = suite.findall("testcase")
    failure = case.find("failure")
    assert (failure is not None) == (kind is not None)
    assert suite.get("tests") == "1"
    assert suite.get("failures") == ("0" if kind is None else "1")
    if failure is not None:
        assert failure.get("type") == kind
        ends = (
            downward(result.lower)
            if kind == "violated"
            else f"[{downward(result.lower)}, {upward(result.upper)}]"
        )
        assert ends in failure.get("message", "")
    properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert float(properties["upper"] or "") == result.upper
    assert properties["status"] == result.status
    assert [properties[f"{file.role}_sha256"] for file in result.problem.files] == [
        file.sha256 for file in result.problem.files
    ]


def test_each_output_is_judged_by_its_own_bracket(answer: Answer) -> None:
    result = answer(tolerance=0.03)
    (one,) = result.outputs
    fine = replace(one, index=1, max_upper=0.02, min_lower=-0.02, max_lower=0.0, min_upper=0.0)
    bad = replace(one, index=2, max_upper=0.5, max_lower=0.4)
    suite = _suite(replace(result, outputs=(one, fine, bad)))
    kinds = [
        None if (f := case.find("failure")) is None else f.get("type") for case in suite.iter("testcase")
    ]
    assert kinds == ["undecided", None, "violated"]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")


def test_an_interrupted_run_is_an_error(answer: Answer) -> None:
    suite = _suite(replace(answer(tolerance=0.03), status="interrupted"))
    assert suite.get("errors") == "1"
    assert suite.find("testcase/error") is not None


def test_texts_that_xml_cannot_hold_are_replaced(answer: Answer) -> None:
    result = answer()
    asked = replace(result.problem, float_origin="a\x00<&>\"'\ud800.onnx")
    suite = _suite(replace(result, problem=asked))
    values = [item.get("value") for item in suite.iter("property") if item.get("name") == "float"]
    assert values == ["a�<&>\"'�.onnx"]
