"""From a query to a box of inputs that both networks read and a condition on what they give there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from milpq.errors import UnsupportedModelError
from milpq.formats.vnnlib_query import And, Comparison, DeclaredNetwork, Formula, Or, Query, Variable

_FLIPPED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "==": "==", "!=": "!="}


@dataclass(frozen=True, slots=True)
class Question:
    """The question whether the condition holds at some input of the box.

    Parameters
    ----------
    first, second : DeclaredNetwork
        The second reads the same input as the first.
    lower, upper : tuple of Fraction
        The closed box, exactly as asserted.
    condition : Formula
        Everything else that is asserted, strict bounds of inputs among it; inputs are those of the first network.
    """

    first: DeclaredNetwork
    second: DeclaredNetwork
    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    condition: Formula

    @property
    def empty(self) -> bool:
        """Tell whether the box holds nothing."""
        return any(low > high for low, high in zip(self.lower, self.upper, strict=True))


def pose(query: Query, origin: str) -> Question:
    """Return the question of a query about two networks over one input.

    The two inputs must be asserted equal, number by number, at the top level; then they are one.

    Raises
    ------
    UnsupportedModelError
        The query is about another number of networks, their inputs differ, or the input is unbounded.
    """
    if len(query.networks) != 2:
        raise UnsupportedModelError(f"{origin}: declares {len(query.networks)} networks; milpq compares two")
    first, second = query.networks
    for left, right in ((first.input, second.input), (first.output, second.output)):
        if left.size != right.size:
            raise UnsupportedModelError(f"{origin}: {left.name} and {right.name} differ in size")
    size = first.input.size
    atoms: list[Formula] = [atom for formula in query.assertions for atom in _conjuncts(formula)]
    equal = _coupled(atoms, first, second)
    if len(equal) != size:
        missing = next(index for index in range(size) if index not in equal)
        raise UnsupportedModelError(
            f"{origin}: input {missing} of the two networks is not asserted equal; milpq compares networks that "
            "read the same input"
        )
    lower: dict[int, Fraction] = {}
    upper: dict[int, Fraction] = {}
    rest: list[Formula] = []
    for atom in atoms:
        atom = _renamed(atom, second.input.name, first.input.name)
        if second.relation == "equal-to":
            # One network on one input has one output.
            atom = _renamed(atom, second.output.name, first.output.name)
        bound = _input_bound(atom, first.input.name)
        if bound is None:
            if not (isinstance(atom, Comparison) and not atom.terms and _trivial(atom)):
                rest.append(atom)
            continue
        index, relation, value = bound
        if relation not in {">=", ">"}:
            upper[index] = min(upper.get(index, value), value)
        if relation not in {"<=", "<"}:
            lower[index] = max(lower.get(index, value), value)
        if relation in {"<", ">"}:
            rest.append(atom)
    for name, ends in (("lower", lower), ("upper", upper)):
        missing = next((index for index in range(size) if index not in ends), None)
        if missing is not None:
            raise UnsupportedModelError(f"{origin}: input {missing} has no {name} bound")
    return Question(
        first,
        second,
        tuple(lower[index] for index in range(size)),
        tuple(upper[index] for index in range(size)),
        And(tuple(rest)),
    )


def _conjuncts(formula: Formula) -> Iterator[Formula]:
    """Return what a formula asserts one by one; an alternative of one is no alternative."""
    if isinstance(formula, And) or (isinstance(formula, Or) and len(formula.parts) == 1):
        for part in formula.parts:
            yield from _conjuncts(part)
    else:
        yield formula


def _coupled(atoms: list[Formula], first: DeclaredNetwork, second: DeclaredNetwork) -> set[int]:
    """Return the inputs that are asserted equal, by an equation or by two inequalities."""
    seen: set[tuple[int, str]] = set()
    for atom in atoms:
        if not isinstance(atom, Comparison) or atom.constant or len(atom.terms) != 2:
            continue
        (left, factor), (right, other) = atom.terms
        if factor != -other or left[1] != right[1]:
            continue
        if (left[0], right[0]) == (second.input.name, first.input.name):
            factor = -factor
        elif (left[0], right[0]) != (first.input.name, second.input.name):
            continue
        seen.add((left[1], atom.relation if factor > 0 else _FLIPPED[atom.relation]))
    indices = {index for index, _ in seen}
    return {index for index in indices if (index, "==") in seen or {(index, "<="), (index, ">=")} <= seen}


def _renamed(formula: Formula, old: str, new: str) -> Formula:
    """Return a formula in which one tensor is another, so that terms may cancel."""
    if isinstance(formula, And):
        return And(tuple(_renamed(part, old, new) for part in formula.parts))
    if isinstance(formula, Or):
        return Or(tuple(_renamed(part, old, new) for part in formula.parts))
    terms: dict[Variable, Fraction] = {}
    for (name, index), factor in formula.terms:
        variable = (new if name == old else name), index
        terms[variable] = terms.get(variable, Fraction(0)) + factor
    return Comparison(
        formula.relation,
        tuple((variable, factor) for variable, factor in terms.items() if factor),
        formula.constant,
    )


def _input_bound(formula: Formula, name: str) -> tuple[int, str, Fraction] | None:
    """Return index, relation and value of a bound on one input, or None."""
    if not isinstance(formula, Comparison) or len(formula.terms) != 1 or formula.relation == "!=":
        return None
    ((variable, index), factor) = formula.terms[0]
    if variable != name:
        return None
    relation = formula.relation if factor > 0 else _FLIPPED[formula.relation]
    return index, relation, -formula.constant / factor


def _trivial(atom: Comparison) -> bool:
    """Tell whether a comparison of numbers alone holds."""
    return {
        "<=": atom.constant <= 0,
        "<": atom.constant < 0,
        ">=": atom.constant >= 0,
        ">": atom.constant > 0,
        "==": atom.constant == 0,
        "!=": atom.constant != 0,
    }[atom.relation]
