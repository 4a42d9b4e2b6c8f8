"""Bounds by propagation: one protocol, ``method(problem, cubes) -> Bounds``, batched over cubes."""

from milpq.bounds.interval import interval
from milpq.bounds.symbolic import differential, symbolic
from milpq.bounds.values import Bounds, Interval, ValueBounds

__all__ = ["Bounds", "Interval", "ValueBounds", "differential", "interval", "symbolic"]
