"""Read VNN-LIB 2.0 queries: what networks are declared, and exactly what is asserted of their values.

Numbers are read as exact decimals.  Nothing is dropped and nothing is guessed: what milpq does not know is refused
by name.

References: the VNN-LIB 2.0 standard (vnnlib.org).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Literal, TypeAlias, cast

import numpy as np

from milpq.errors import RegionError, UnsupportedModelError
from milpq.formats._files import PathLike, read_text
from milpq.formats._s_expressions import Expression, parse_expressions, spell

Relation: TypeAlias = Literal["<=", "<", ">=", ">", "==", "!="]
NetworkRelation: TypeAlias = Literal["equal-to", "isomorphic-to"]
Variable: TypeAlias = tuple[str, int]
"""Name and flat index of one number."""

_RELATIONS: Final = ("<=", "<", ">=", ">", "==", "!=")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_INDEXED: Final = re.compile(r"([A-Za-z_]\w*)(\[[\d,\s]*\])?")
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_LARGEST: Final = 2**22


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared input or output: its name, element type as written, and shape."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class DeclaredNetwork:
    """A declared network with one input and one output.

    Parameters
    ----------
    relation, relative : what it is to an earlier network, and that network's name; None without.
    """

    name: str
    relation: NetworkRelation | None
    relative: str | None
    input: Tensor
    output: Tensor


@dataclass(frozen=True, slots=True)
class Comparison:
    """``Σ coefficient · variable + constant  relation  0``, in exact arithmetic."""

    relation: Relation
    terms: tuple[tuple[Variable, Fraction], ...]
    constant: Fraction


@dataclass(frozen=True, slots=True)
class And:
    """Every part holds."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some part holds."""

    parts: tuple[Formula, ...]


Formula: TypeAlias = Comparison | And | Or


@dataclass(frozen=True, slots=True)
class Query:
    """The question whether some assignment makes every assertion hold."""

    networks: tuple[DeclaredNetwork, ...]
    assertions: tuple[Formula, ...]


def holds(formula: Formula, value: Callable[[Variable], Fraction]) -> bool:
    """Tell whether a formula holds under an assignment of exact values."""
    if isinstance(formula, And):
        return all(holds(part, value) for part in formula.parts)
    if isinstance(formula, Or):
        return any(holds(part, value) for part in formula.parts)
    total = sum((factor * value(variable) for variable, factor in formula.terms), formula.constant)
    match formula.relation:
        case "<=":
            return total <= 0
        case "<":
            return total < 0
        case ">=":
            return total >= 0
        case ">":
            return total > 0
        case "==":
            return total == 0
        case "!=":
            return total != 0


def read_vnnlib_query(path: PathLike) -> Query:
    """Return the query of a VNN-LIB 2.0 file.

    Raises
    ------
    RegionError
        The file is unreadable or malformed.
    UnsupportedModelError
        It is of version 1, or uses hidden values, several inputs or outputs, or products of variables.
    """
    origin = str(path)
    reader = _Reader(origin)
    for expression in parse_expressions(read_text(path, RegionError), origin):
        reader.command(expression)
    if not reader.networks:
        raise UnsupportedModelError(f"{origin}: declares no network; milpq reads queries of VNN-LIB 2.0")
    return Query(tuple(reader.networks), tuple(reader.assertions))


@dataclass
class _Reader:
    """What has been declared and asserted so far."""

    origin: str
    networks: list[DeclaredNetwork] = field(default_factory=list[DeclaredNetwork])
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    assertions: list[Formula] = field(default_factory=list["Formula"])

    def command(self, expression: Expression) -> None:
        """Take one top-level expression."""
        match expression:
            case ["vnnlib-version", str(version)]:
                if not version.strip("<>").startswith("2"):
                    raise UnsupportedModelError(f"{self.origin}: is of version {version}, not 2.0")
            case ["declare-network", str(name), *parts]:
                self.networks.append(self.network(name, parts))
            case ["assert", condition]:
                self.assertions.append(self.formula(condition))
            case _:
                raise self.error(expression, "is not known to milpq")

    def network(self, name: str, parts: list[Expression]) -> DeclaredNetwork:
        """Return a declared network."""
        relation: NetworkRelation | None = None
        relative: str | None = None
        found: dict[str, Tensor] = {}
        if any(network.name == name for network in self.networks):
            raise RegionError(f"{self.origin}: network {name} is declared twice")
        for part in parts:
            match part:
                case [("equal-to" | "isomorphic-to") as kind, str(other)] if relation is None:
                    if all(network.name != other for network in self.networks):
                        raise self.error(part, "names a network that is not declared before")
                    relation, relative = kind, other
                case [("declare-input" | "declare-output") as role, str(variable), str(kind), *shape]:
                    if role in found:
                        raise UnsupportedModelError(
                            f"{self.origin}: network {name} has a second {role[8:]}; milpq reads one"
                        )
                    found[role] = self.tensor(part, variable, kind, shape)
                case ["declare-hidden", *_]:
                    raise UnsupportedModelError(
                        f"{self.origin}: network {name} declares hidden values; milpq reads inputs and outputs"
                    )
                case _:
                    raise self.error(part, "is not known to milpq")
        if set(found) != {"declare-input", "declare-output"}:
            raise RegionError(f"{self.origin}: network {name} needs an input and an output")
        return DeclaredNetwork(name, relation, relative, found["declare-input"], found["declare-output"])

    def tensor(self, part: Expression, name: str, kind: str, shape: list[Expression]) -> Tensor:
        """Return a declared input or output."""
        words = re.findall(r"[^\s\[\],]+", " ".join(spell(word, _LARGEST) for word in shape))
        if not _NAME.fullmatch(name) or name in self.tensors:
            raise self.error(part, "has a name that is taken or no name")
        if any(not word.isdecimal() or len(word) > 9 or int(word) < 1 for word in words):
            raise self.error(part, "has a shape that is not fixed")
        tensor = Tensor(name, kind, tuple(int(word) for word in words))
        if tensor.size > _LARGEST:
            raise self.error(part, f"holds more than {_LARGEST} numbers")
        self.tensors[name] = tensor
        return tensor

    def formula(self, expression: Expression) -> Formula:
        """Return an asserted condition."""
        match expression:
            case ["and", *parts] if parts:
                return And(tuple(self.formula(part) for part in parts))
            case ["or", *parts] if parts:
                return Or(tuple(self.formula(part) for part in parts))
            case [str(relation), left, right] if relation in _RELATIONS:
                first, second = self.linear(left), self.linear(right)
                difference = _sum((first, _scaled(second, Fraction(-1))))
                constant = difference.pop(None, Fraction(0))
                terms = tuple(
                    (cast("Variable", variable), factor) for variable, factor in difference.items() if factor
                )
                return Comparison(relation, terms, constant)
            case _:
                raise self.error(expression, "is not a condition known to milpq")

    def linear(self, expression: Expression) -> dict[Variable | None, Fraction]:
        """Return a linear expression: factors of variables, and the constant under None."""
        match expression:
            case str():
                if _NUMBER.fullmatch(expression):
                    return {None: Fraction(expression)}
                return {self.variable(expression): Fraction(1)}
            case ["+", *parts] if parts:
                return _sum(self.linear(part) for part in parts)
            case ["-", only]:
                return _scaled(self.linear(only), Fraction(-1))
            case ["-", first, *parts] if parts:
                return _sum(
                    (self.linear(first), *(_scaled(self.linear(part), Fraction(-1)) for part in parts))
                )
            case ["*", *parts] if parts:
                return self.product(expression, [self.linear(part) for part in parts])
            case _:
                raise self.error(expression, "is not an expression known to milpq")

    def product(
        self, expression: Expression, factors: list[dict[Variable | None, Fraction]]
    ) -> dict[Variable | None, Fraction]:
        """Return a product of which at most one factor is no constant."""
        result: dict[Variable | None, Fraction] = {None: Fraction(1)}
        for factor in factors:
            if set(factor) <= {None}:
                result = _scaled(result, factor.get(None, Fraction(0)))
            elif set(result) <= {None}:
                result = _scaled(factor, result.get(None, Fraction(0)))
            else:
                raise UnsupportedModelError(f"{self.origin}: {spell(expression)} multiplies variables")
        return result

    def variable(self, word: str) -> Variable:
        """Return the variable that a word like ``X_f[0,3]`` names."""
        match = _INDEXED.fullmatch(word)
        tensor = None if match is None else self.tensors.get(match[1])
        if match is None or tensor is None:
            raise self.error(word, "names nothing that is declared")
        position = [int(digits) for digits in re.findall(r"\d+", match[2] or "")]
        if len(position) != len(tensor.shape) or any(
            at >= extent for at, extent in zip(position, tensor.shape, strict=True)
        ):
            raise self.error(word, f"does not fit the shape {list(tensor.shape)}")
        return tensor.name, int(np.ravel_multi_index(position, tensor.shape)) if position else 0

    def error(self, expression: Expression, what: str) -> RegionError:
        """Return the error that an expression `what`."""
        return RegionError(f"{self.origin}: {spell(expression)} {what}")


def _sum(parts: Iterable[dict[Variable | None, Fraction]]) -> dict[Variable | None, Fraction]:
    total: dict[Variable | None, Fraction] = {}
    for part in parts:
        for variable, factor in part.items():
            total[variable] = total.get(variable, Fraction(0)) + factor
    return total


def _scaled(part: dict[Variable | None, Fraction], by: Fraction) -> dict[Variable | None, Fraction]:
    return {variable: by * factor for variable, factor in part.items()}
