"""A small reader of S-expressions, the syntax of VNN-LIB."""

from __future__ import annotations

from typing import TypeAlias

from milpq.errors import RegionError

Expression: TypeAlias = "str | list[Expression]"

MAX_DEPTH = 50
"""Deepest nesting read."""


def parse_expressions(text: str, origin: str) -> list[Expression]:
    """Return the top-level expressions of a text; atoms are strings, ``;`` starts a comment.

    Raises
    ------
    RegionError
        Unbalanced parentheses, or nesting deeper than `MAX_DEPTH`; the line is named.
    """
    stack: list[list[Expression]] = [[]]
    for number, line in enumerate(text.splitlines(), start=1):
        spaced = line.partition(";")[0].replace("(", " ( ").replace(")", " ) ")
        for token in spaced.split():
            if token == "(":
                stack.append([])
                if len(stack) > MAX_DEPTH:
                    raise RegionError(f"{origin}: line {number}: more than {MAX_DEPTH} nested parentheses")
            elif token == ")":
                if len(stack) == 1:
                    raise RegionError(f"{origin}: line {number}: a parenthesis closes that was never opened")
                done = stack.pop()
                stack[-1].append(done)
            else:
                stack[-1].append(token)
    if len(stack) > 1:
        raise RegionError(f"{origin}: {len(stack) - 1} parentheses are never closed; is the file truncated?")
    return stack[0]


def spell(expression: Expression, limit: int = 80) -> str:
    """Return an expression as text for a message, shortened to `limit` characters."""
    text = _spell(expression)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _spell(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    return f"({' '.join(_spell(part) for part in expression)})"
