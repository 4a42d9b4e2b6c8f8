"""The float side as a float32 runtime computes it: a bracket in real arithmetic, widened by what that can change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, TypeAlias, cast

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds import differential, interval
from milpq.bounds.float32 import float32_error
from milpq.errors import UnsupportedModelError, UsageError, about
from milpq.formats._float_builder import FOLDING_NOTE
from milpq.merge import Problem
from milpq.verify.numbers import upward
from milpq.verify.result import OutputBracket, Result, Status

FloatArithmetic: TypeAlias = Literal["real", "float32"]
"""``real``: `f` is the exact function of its stored weights.  ``float32``: `f` as any float32 evaluation computes
it, whatever the order of its sums."""

_LARGE = 5000
"""Neurons above which backward substitution costs more than its tighter magnitudes are worth."""


def checked_arithmetic(name: str | None) -> FloatArithmetic:
    """Return which arithmetic of the float side is meant; None is real."""
    if name in {None, "real", "float32"}:
        return cast("FloatArithmetic", name or "real")
    raise UsageError(f"unknown float arithmetic {name!r}; use real or float32")


def region_error(problem: Problem) -> Float64Array:
    """Return what float32 can change of each chosen output of `f` over the region, float64, shape (chosen,).

    Raises
    ------
    UnsupportedModelError
        A float32 sum may overflow, so nothing can be promised.
    """
    root = problem.domain.root
    bounds = interval(problem, root)
    if sum(node.size for node in problem.merged.nodes) <= _LARGE:
        bounds = bounds.intersect(differential(problem, root))
    origin = problem.float_network.origin
    with about(origin):
        error = float32_error(problem.merged, bounds)[problem.outputs]
    if not np.isfinite(error).all():
        raise UnsupportedModelError(
            f"{origin}: sums may overflow float32 in this region; narrow the region or use "
            "--float-arithmetic real"
        )
    return error


def in_float32(result: Result, error: Float64Array, tolerance: float | None) -> Result:
    """Widen a result in real arithmetic to one that holds for the float model as run.

    Parameters
    ----------
    error : float64, shape (chosen,)
        See `region_error`.
    tolerance : float or None
        What is to be decided, now with the widened bracket.

    *Soundness:* ``|f_q − f32|`` differs from ``|f_q − f|`` by at most the error at every input; the sums are
    rounded outwards once more.
    """
    outputs = tuple(_widened(bracket, e) for bracket, e in zip(result.outputs, error.tolist(), strict=True))
    most = float(error.max())
    lower, upper = max(bracket.lower for bracket in outputs), max(bracket.upper for bracket in outputs)
    certificate = result.certificate
    note = (
        f"the float side in float32, in any order of sums: real arithmetic widened by at most {upward(most, 3)}, "
        "witness and certificate in real arithmetic"
    )
    if any(FOLDING_NOTE in told for told in result.problem.notes):
        note += (
            "; a runtime that computes batch normalizations apart from the layers before them is not covered"
        )
    return replace(
        result,
        status=_status(result, lower, upper, tolerance),
        lower=lower,
        upper=upper,
        outputs=outputs,
        methods=tuple(replace(method, upper=_above(method.upper, most)) for method in result.methods),
        certificate=replace(certificate, checked_upper=_above(certificate.checked_upper, most)),
        problem=replace(result.problem, tolerance=tolerance, notes=(*result.problem.notes, note)),
    )


def _status(result: Result, lower: float, upper: float, tolerance: float | None) -> Status:
    if tolerance is None:
        # What was closed in real arithmetic may be wider than the gap once widened.
        open_again = result.status == "optimal" and upper - lower > result.problem.gap * upper
        return "bounded" if open_again else result.status
    if lower > tolerance:
        return "violated"
    if upper <= tolerance:
        return "certified"
    return "interrupted" if result.status == "interrupted" else "undecided"


def _widened(bracket: OutputBracket, error: float) -> OutputBracket:
    return replace(
        bracket,
        max_lower=-_above(-bracket.max_lower, error),
        max_upper=_above(bracket.max_upper, error),
        min_lower=-_above(-bracket.min_lower, error),
        min_upper=_above(bracket.min_upper, error),
    )


def _above(value: float, error: float) -> float:
    """Return a number at least the sum."""
    return math.nextafter(float(np.add(value, error)), math.inf)
