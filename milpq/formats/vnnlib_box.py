"""Read the input box of a VNN-LIB 1.0 or 2.0 property.

Whatever is not a bound on one input is refused by name: dropping a constraint would answer another question.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from milpq.errors import RegionError
from milpq.formats._files import PathLike, read_text
from milpq.formats._s_expressions import Expression, parse_expressions, spell
from milpq.region.box import Box

MAX_INPUTS = 2**22
"""Largest number of inputs read."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_OLD_NAME = re.compile(r"([A-Za-z]\w*?)_(\d{1,9})")
_INDEXED_NAME = re.compile(r"([A-Za-z]\w*)((?:\[[\d,\s]*\])?)")
_OUTPUT_REMEDY: Final = "milpq bounds the difference itself; keep only the box on the inputs"


def read_vnnlib_box(path: PathLike) -> Box:
    """Return the box of a VNN-LIB file; numbers are read as the nearest float64.

    Raises
    ------
    RegionError
        The file is unreadable, holds anything that is not a bound on one input, or leaves an input unbounded.
    """
    origin = str(path)
    reader = _Reader(origin)
    for expression in parse_expressions(read_text(path, RegionError), origin):
        reader.command(expression)
    return reader.box()


@dataclass
class _Reader:
    """The bounds gathered so far; `shape` is that of the one input variable of VNN-LIB 2.0."""

    origin: str
    name: str | None = None
    shape: tuple[int, ...] | None = None
    outputs: set[str] = field(default_factory=set[str])
    declared: set[int] = field(default_factory=set[int])
    lower: dict[int, float] = field(default_factory=dict[int, float])
    upper: dict[int, float] = field(default_factory=dict[int, float])

    def command(self, expression: Expression) -> None:
        """Take one top-level expression."""
        match expression:
            case ["vnnlib-version", str()] | ["set-logic", str()]:
                return
            case ["declare-const", str(variable), str(kind)]:
                self.declare_const(variable, kind)
            case ["declare-network", str(), *parts]:
                if self.name is not None:
                    raise self.error(expression, "is a second network; milpq reads a box on one input")
                for part in parts:
                    self.declare_part(part)
            case ["assert", condition]:
                self.require(condition)
            case _:
                raise self.error(expression, "is not known to milpq")

    def declare_const(self, variable: str, kind: str) -> None:
        """Take a declaration of VNN-LIB 1.0: ``X_i`` is an input, ``Y_i`` an output."""
        match = _OLD_NAME.fullmatch(variable)
        if match is None or match[1] not in {"X", "Y"} or kind.lower() != "real":
            raise self.error(
                ["declare-const", variable, kind], "is neither a real input X_i nor an output Y_i"
            )
        if self.shape is not None:
            raise self.error(["declare-const", variable, kind], "follows a declare-network")
        if match[1] == "X":
            self.declared.add(self.within(int(match[2])))

    def declare_part(self, part: Expression) -> None:
        """Take a part of a ``declare-network`` of VNN-LIB 2.0."""
        match part:
            case ["declare-input", str(name), str(), *shape] if self.name is None:
                words = re.findall(r"[^\s\[\],]+", " ".join(spell(word) for word in shape))
                if any(not word.isdecimal() or len(word) > 9 for word in words):
                    raise self.error(part, "has a shape that is not fixed")
                self.name = name
                self.shape = tuple(int(word) for word in words)
                self.within(math.prod(self.shape) - 1)
            case ["declare-input", *_]:
                raise self.error(part, "is a second input; milpq reads a box on one")
            case ["declare-output", str(name), *_]:
                self.outputs.add(name)
            case _:
                raise self.error(part, "is not known to milpq")

    def require(self, condition: Expression) -> None:
        """Take an asserted condition."""
        match condition:
            case ["and", *parts] if parts:
                for part in parts:
                    self.require(part)
            case ["or", only]:
                self.require(only)
            case ["or", *_]:
                raise self.error(condition, "is a union of boxes; milpq reads one box, split the file")
            case [("<=" | ">=" | "==" | "=") as relation, left, right]:
                self.bound(condition, relation, left, right)
            case ["<" | ">", *_]:
                raise self.error(condition, "is a strict bound; write it with <= or >=")
            case _:
                raise self.error(condition, "is not a bound on one input")

    def bound(self, condition: Expression, relation: str, left: Expression, right: Expression) -> None:
        """Take ``variable relation number``, in either order."""
        number = self.number(right)
        index = None if number is None else self.input_index(condition, left)
        if index is None:
            number = self.number(left)
            index = None if number is None else self.input_index(condition, right)
            relation = {"<=": ">=", ">=": "<="}.get(relation, relation)
        if index is None or number is None:
            for side in (left, right):
                self.input_index(condition, side)
            raise self.error(condition, "is not a bound of one input by a number")
        if relation != ">=":
            self.upper[index] = min(self.upper.get(index, math.inf), number)
        if relation != "<=":
            self.lower[index] = max(self.lower.get(index, -math.inf), number)

    def number(self, expression: Expression) -> float | None:
        """Return the number an expression spells, or None if it spells none."""
        match expression:
            case str() if _NUMBER.fullmatch(expression):
                return float(expression)
            case ["-", str(digits)] if _NUMBER.fullmatch(digits):
                return -float(digits)
            case _:
                return None

    def input_index(self, condition: Expression, expression: Expression) -> int | None:
        """Return the flat index of the input an expression names, None if it names none; refuse outputs."""
        if not isinstance(expression, str):
            return None
        if self.shape is None:
            match = _OLD_NAME.fullmatch(expression)
            if match is not None and match[1] == "Y":
                raise self.error(condition, f"constrains an output; {_OUTPUT_REMEDY}")
            if match is None or match[1] != "X":
                return None
            if int(match[2]) not in self.declared:
                raise self.error(condition, f"names {expression}, which is not declared")
            return int(match[2])
        match = _INDEXED_NAME.fullmatch(expression)
        if match is None:
            return None
        if match[1] in self.outputs:
            raise self.error(condition, f"constrains an output; {_OUTPUT_REMEDY}")
        if match[1] != self.name:
            return None
        position = [int(word) for word in re.findall(r"\d+", match[2])]
        if len(position) != len(self.shape) or any(
            at >= extent for at, extent in zip(position, self.shape, strict=True)
        ):
            raise self.error(condition, f"names {expression}, but the input has shape {list(self.shape)}")
        return int(np.ravel_multi_index(position, self.shape)) if self.shape else 0

    def within(self, index: int) -> int:
        """Return an input index, refused if there are too many inputs."""
        if not 0 <= index < MAX_INPUTS:
            raise RegionError(f"{self.origin}: declares {index + 1} inputs; milpq reads 1 to {MAX_INPUTS}")
        return index

    def error(self, expression: Expression, what: str) -> RegionError:
        """Return the error that an expression `what`."""
        return RegionError(f"{self.origin}: {spell(expression)} {what}")

    def box(self) -> Box:
        """Return the box that all bounds make."""
        size = max(self.declared, default=-1) + 1 if self.shape is None else math.prod(self.shape)
        if size == 0:
            raise RegionError(f"{self.origin}: declares no input")
        for name, ends in (("lower", self.lower), ("upper", self.upper)):
            missing = next((index for index in range(size) if index not in ends), None)
            if missing is not None:
                raise RegionError(f"{self.origin}: input {missing} has no {name} bound")
        try:
            return Box([self.lower[i] for i in range(size)], [self.upper[i] for i in range(size)])
        except RegionError as error:
            raise RegionError(f"{self.origin}: {error}") from error
