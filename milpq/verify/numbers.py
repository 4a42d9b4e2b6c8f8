"""Writing the ends of a bracket in few digits without making it a lie."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def upward(value: float, digits: int = 5) -> str:
    """Return a decimal of so many significant digits that is not below `value`."""
    return _round(value, Context(prec=digits, rounding=ROUND_CEILING))


def downward(value: float, digits: int = 5) -> str:
    """Return a decimal of so many significant digits that is not above `value`."""
    return _round(value, Context(prec=digits, rounding=ROUND_FLOOR))


def _round(value: float, context: Context) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    rounded = context.plus(Decimal(value))
    if rounded == 0:
        return "0"
    text = f"{rounded.normalize(context):f}" if -5 <= rounded.adjusted() <= 6 else f"{rounded:e}"
    return text.replace("E", "e")
