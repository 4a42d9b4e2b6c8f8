"""JUnit XML, which build servers show: one test case for each output over the region."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Final

from milpq.verify import OutputBracket, Result
from milpq.verify.numbers import downward, downward_above, spelled, upward

_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_text(result: Result) -> str:
    """Return a JUnit report.

    A test case passes if no tolerance was asked or the output is certified to keep it.  It fails with the type
    ``violated`` if an execution exceeds the tolerance, and with the type ``undecided`` if the tolerance lies in
    its bracket, which the message names.  A run that was interrupted is an error of every output that is not
    settled.
    """
    asked = result.problem
    suite = ET.Element("testsuite", name=f"milpq {_text(asked.region_origin)}")
    counts = {"failure": 0, "error": 0}
    properties = ET.SubElement(suite, "properties")
    facts = {
        "status": result.status,
        "lower": repr(result.lower),
        "upper": repr(result.upper),
        "trust": result.certificate.trust,
        "float": asked.float_origin,
        "quantized": asked.quantized_origin,
        "target": asked.target or "",
        "region": asked.region_origin,
        "input_domain": asked.input_domain,
        "tolerance": "" if asked.tolerance is None else repr(asked.tolerance),
        "hash": asked.hash,
        "milpq": result.environment.milpq,
        **{f"{file.role}_sha256": file.sha256 for file in asked.files},
    }
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=_text(value))
    for bracket in result.outputs:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_text(f"milpq.{asked.quantized_origin}"),
            name=_text(f"output {bracket.index} over {asked.region_origin}"),
            time=f"{result.time_s.total / len(result.outputs):.3f}",
        )
        verdict = _verdict(result, bracket)
        if verdict is not None:
            tag, kind, message = verdict
            ET.SubElement(case, tag, type=kind, message=_text(message)).text = _text(result.verdict)
            counts[tag] += 1
        ET.SubElement(case, "system-out").text = _text(_brackets(bracket))
    suite.set("tests", str(len(result.outputs)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    suite.set("time", f"{result.time_s.total:.3f}")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _verdict(result: Result, bracket: OutputBracket) -> tuple[str, str, str] | None:
    """Return tag, type and message of what is wrong with an output, or None."""
    lower, upper = bracket.lower, bracket.upper
    ends = f"[{downward(lower)}, {upward(upper)}]"
    tolerance = result.problem.tolerance
    if tolerance is not None and upper <= tolerance:
        return None
    if tolerance is not None and lower > tolerance:
        least = downward_above(lower, tolerance)
        return (
            "failure",
            "violated",
            f"output {bracket.index}: an input differs by at least {least}, over {spelled(tolerance)}",
        )
    if result.status == "interrupted":
        return "error", "interrupted", f"output {bracket.index}: interrupted at the bracket {ends}"
    if tolerance is not None:
        return (
            "failure",
            "undecided",
            f"output {bracket.index}: undecided, the tolerance {spelled(tolerance)} lies in the bracket {ends}",
        )
    return None


def _brackets(bracket: OutputBracket) -> str:
    lines = [
        f"max |f_q - f| in [{downward(bracket.lower)}, {upward(bracket.upper)}]",
        f"max (f_q - f) in [{downward(bracket.max_lower)}, {upward(bracket.max_upper)}]",
        f"min (f_q - f) in [{downward(bracket.min_lower)}, {upward(bracket.min_upper)}]",
    ]
    if bracket.lsb is not None:
        lines.append(f"one LSB is {bracket.lsb!r}")
    return "\n".join(lines)


def _text(value: str) -> str:
    """Return a text without the characters that XML cannot hold; ElementTree escapes the rest."""
    return _FORBIDDEN.sub("�", value)
