"""The pytest plugin: a fixture that asserts a quantization error, and a line about each in the summary.

Registered under the entry point group ``pytest11``, so it is there wherever milpq is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import pytest

if TYPE_CHECKING:
    from milpq.verify import Result

_Parameters = ParamSpec("_Parameters")

_BRACKETS = pytest.StashKey[list[str]]()


@pytest.fixture
def assert_quantization_error(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., Result]:
    """Assert that a float network and its quantized version differ by at most a tolerance on a region.

    The same as ``milpq.assert_quantization_error``; the bracket also goes into the properties of a JUnit report and
    into the summary (``-rA`` or ``-v``).
    """
    from milpq.verify import assert_quantization_error as check  # noqa: PLC0415 (only tests that ask pay for it)

    return _recording(check, request, record_property)


def _recording(
    check: Callable[_Parameters, Result],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> Callable[_Parameters, Result]:
    lines = request.config.stash.setdefault(_BRACKETS, [])

    @wraps(check)
    def checked(*arguments: _Parameters.args, **options: _Parameters.kwargs) -> Result:
        __tracebackhide__ = True
        result = check(*arguments, **options)
        record_property("milpq.lower", repr(result.lower))
        record_property("milpq.upper", repr(result.upper))
        record_property("milpq.trust", result.certificate.trust)
        lines.append(f"{request.node.nodeid}: {result.verdict}")
        return result

    return checked


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List the certified brackets of verbose runs."""
    lines = config.stash.get(_BRACKETS, None)
    if lines and config.get_verbosity() > 0:
        terminalreporter.section("certified quantization errors")
        for line in lines:
            terminalreporter.write_line(line)
