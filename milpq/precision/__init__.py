"""Certified mixed precision: the cheapest bits a layer whose certified error stays within a tolerance."""

from milpq.precision.api import search_precision
from milpq.precision.configurations import COSTS, CostKind
from milpq.precision.result import Effort, PrecisionResult, Record, SearchProgress
from milpq.precision.search import SearchOptions

__all__ = [
    "COSTS",
    "CostKind",
    "Effort",
    "PrecisionResult",
    "Record",
    "SearchOptions",
    "SearchProgress",
    "search_precision",
]
