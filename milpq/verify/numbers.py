"""Writing the ends of a bracket in few digits without making it a lie."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Final

MOST_DIGITS: Final = 17
"""Digits that tell all float64 numbers apart."""


def upward(value: float, digits: int = 5, unit: float = 1.0) -> str:
    """Return a decimal of so many significant digits that is not below ``value / unit``."""
    return _round(value, unit, Context(prec=digits, rounding=ROUND_CEILING))


def downward(value: float, digits: int = 5, unit: float = 1.0) -> str:
    """Return a decimal of so many significant digits that is not above ``value / unit``."""
    return _round(value, unit, Context(prec=digits, rounding=ROUND_FLOOR))


def upward_within(value: float, most: float) -> str:
    """Return a decimal not below `value`, of as many digits as show that this is at most `most`."""
    texts = (upward(value, digits) for digits in range(5, MOST_DIGITS + 1))
    return next((text for text in texts if Decimal(text) <= Decimal(most)), upward(value, MOST_DIGITS))


def downward_above(value: float, least: float) -> str:
    """Return a decimal not above `value`, of as many digits as show that this is more than `least`."""
    texts = (downward(value, digits) for digits in range(5, MOST_DIGITS + 1))
    return next((text for text in texts if Decimal(text) > Decimal(least)), downward(value, MOST_DIGITS))


def spelled(value: float) -> str:
    """Return a number as its user wrote it: the fewest digits that tell it from all other float64 numbers."""
    return repr(float(value)).removesuffix(".0")


def _round(value: float, unit: float, context: Context) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞"
    # One rounding, of the exact quotient.
    rounded = context.divide(Decimal(value), Decimal(unit))
    if rounded == 0:
        return "0"
    text = f"{rounded.normalize(context):f}" if -5 <= rounded.adjusted() <= 6 else f"{rounded:e}"
    return text.replace("E", "e")
