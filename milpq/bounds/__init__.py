"""Bounds on every value of a merged network, batched over cubes and rounded outwards."""

from milpq.bounds.interval import interval
from milpq.bounds.optimized import optimized
from milpq.bounds.symbolic import differential, symbolic
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.bounds.zonotope import zonotope

__all__ = [
    "Bounds",
    "Interval",
    "ValueBounds",
    "differential",
    "interval",
    "optimized",
    "symbolic",
    "zonotope",
]
