"""Trees of a certificate while they are searched for, and the file they end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from milpq._arrays import Float64Array, Int64Array
from milpq.certificate.check import step_tables
from milpq.certificate.format import BOUND, FORMAT, digest
from milpq.certificate.traces import Trace
from milpq.certificate.tree import Part
from milpq.formats._files import PathLike
from milpq.formats.writing import replace_file
from milpq.merge import Problem

SLACK: Final = 1e-11
"""Relative to a bound: what another machine's order of summation may change in it."""

DUAL_SLACK: Final = 3e-10
"""The same for bounds by multipliers: large ones depend more on the order of summation."""

_SIZE_SLACK: Final = 2e-13
"""Relative to the values that a bound is about: the difference of two of them may be far smaller than they are."""


def sizes(problem: Problem, trace: Trace) -> Float64Array:
    """Return how large the outputs of leaves can be that each bound is about, shape (leaves, 2·chosen)."""
    return np.tile((trace.output.sizes[0] + trace.output.sizes[1])[problem.outputs].T, 2)


def raised(upper: Float64Array, size: Float64Array, slack: float) -> Float64Array:
    """Return bounds with room for what another machine's sums may come to, given the sizes of what they are about.

    The checker chooses nothing by numbers that are nearly equal, so its bounds depend on the order of summation as
    little as the sums do; products that are off by as many roundings as they have terms move them by less than a sixth
    of this (`tests/soundness/test_other_machines.py`).
    """
    return upper + slack * np.abs(np.where(np.isfinite(upper), upper, 0.0)) + _SIZE_SLACK * size


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """What bounds a part: how much, with what quantities and weights (``DUAL``) or planes (``REWRITTEN``)."""

    kind: int
    upper: Float64Array
    duals: tuple[Int64Array, Float64Array] | None = None
    planes: Float64Array | None = None


class Tree:
    """Parts of the domain by number, in the order they were made; leaves until they are split.

    A half knows the bound of the whole, but has evidence of its own only once it is settled; what bounds the whole by
    multipliers need not bound a half as well.  So the evidence of parts that are split is kept, until `prune`.

    Parameters
    ----------
    objective : int
        The bound of the claim that this tree is about; −1 for all of them.
    bounds : int
        How many that is.
    """

    def __init__(self, root: Part, objective: int, bounds: int) -> None:
        self.objective = objective
        self._parts: list[Part | None] = [root]
        self._nothing = _Evidence(BOUND, np.full(bounds, np.inf))
        self._evidence = [self._nothing]
        self._known = [self._nothing.upper]
        self._splits: dict[int, tuple[int, float, int]] = {}
        self._leaves = {0}

    @property
    def leaves(self) -> int:
        """How many leaves there are."""
        return len(self._leaves)

    @property
    def upper(self) -> Float64Array:
        """What the evidence of all leaves proves, shape (bounds,)."""
        return np.max([self._evidence[number].upper for number in self._leaves], axis=0)

    def bound(self, number: int) -> Float64Array:
        """Return what bounds a part, by its own evidence or as a part of another, shape (bounds,)."""
        return self._known[number]

    def proved(self, number: int) -> Float64Array:
        """Return what the evidence of a part itself proves, shape (bounds,)."""
        return self._evidence[number].upper

    def parts(self, numbers: Sequence[int]) -> list[Part]:
        """Return leaves."""
        parts = [self._parts[number] for number in numbers]
        return [part for part in parts if part is not None]

    def split(self, number: int, dimension: int, cut: float, halves: tuple[Part, Part]) -> list[int]:
        """Put two parts in the place of a leaf and return their numbers."""
        first = len(self._parts)
        self._parts += halves
        self._evidence += [self._nothing] * 2
        self._known += [self._known[number]] * 2
        self._splits[number] = dimension, cut, first
        self._leaves.remove(number)
        self._leaves |= {first, first + 1}
        self._parts[number] = None
        return [first, first + 1]

    def settle(
        self,
        number: int,
        kind: int,
        upper: Float64Array,
        duals: tuple[Int64Array, Float64Array] | None = None,
        planes: Float64Array | None = None,
    ) -> None:
        """Note what bounds a leaf."""
        self._evidence[number] = _Evidence(kind, upper, duals, planes)
        self._known[number] = np.minimum(self._known[number], upper)

    def prune(self) -> None:
        """Take back the splits whose halves do not prove more than the whole, as where no time was left for them."""
        proved = [evidence.upper for evidence in self._evidence]
        for number in sorted(self._splits, reverse=True):  # halves come after what they are of
            first = self._splits[number][2]
            halves = np.maximum(proved[first], proved[first + 1])
            if halves.max() < proved[number].max():
                proved[number] = halves
            else:
                del self._splits[number]
        self._leaves.clear()
        stack = [0]
        while stack:
            number = stack.pop()
            if number in self._splits:
                first = self._splits[number][2]
                stack += [first, first + 1]
            else:
                self._leaves.add(number)

    def preorder(
        self,
    ) -> tuple[list[int], list[float], list[tuple[Int64Array, Float64Array]], list[Float64Array]]:
        """Return nodes, cuts, quantities and weights, and planes, as a certificate holds them."""
        nodes: list[int] = []
        cuts: list[float] = []
        duals: list[tuple[Int64Array, Float64Array]] = []
        planes: list[Float64Array] = []
        stack = [0]
        while stack:
            number = stack.pop()
            if number in self._splits:
                dimension, cut, first = self._splits[number]
                nodes.append(dimension)
                cuts.append(cut)
                stack += [first + 1, first]
            else:
                evidence = self._evidence[number]
                nodes.append(evidence.kind)
                if evidence.duals is not None:
                    duals.append(evidence.duals)
                if evidence.planes is not None:
                    planes.append(evidence.planes)
        return nodes, cuts, duals, planes


def write(
    path: PathLike,
    problem: Problem,
    trees: Sequence[Tree],
    upper: Float64Array,
    target: str | None,
    *,
    dequantized: bool,
) -> None:
    """Write the certificate of what some trees prove together.

    Parameters
    ----------
    upper : float64, shape (objectives,)
        The claim.
    target : str, optional
        As given for the quantized model; None where the model settles its rounding.
    dequantized : bool
        Whether the float side is the integer model's own weights.
    """
    domain = problem.domain
    metadata = {
        "format": FORMAT,
        "problem": problem.hash(),
        "target": target or "",
        "domain": domain.kind,
        "float_side": "dequantized" if dequantized else "file",
    }
    found = [tree.preorder() for tree in trees]
    duals = [dual for _, _, part, _ in found for dual in part]
    planes = [plane.ravel() for *_, part in found for plane in part]
    none, nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
    tensors = {
        "region.lower": domain.box.lower,
        "region.upper": domain.box.upper,
        "outputs": problem.outputs,
        "upper": upper,
        "tree.objective": np.array([tree.objective for tree in trees], dtype=np.int32),
        "tree.node": np.array([node for nodes, *_ in found for node in nodes], dtype=np.int32),
        "tree.cut": np.array([cut for _, cuts, *_ in found for cut in cuts], dtype=np.float64),
        "dual.count": np.array([len(quantities) for quantities, _ in duals], dtype=np.int32),
        "dual.quantity": np.concatenate([none, *(quantities for quantities, _ in duals)]).astype(np.int32),
        "dual.weight": np.concatenate([nothing, *(weights for _, weights in duals)]),
        "plane.weight": np.concatenate([nothing, *planes]).astype(np.float32),
        "steps": step_tables(problem),
    }
    write_certificate(path, metadata, tensors)


def write_certificate(
    path: PathLike, metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Write a certificate with its digest.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    signed = {**metadata, "digest": digest(metadata, {name: iter([array]) for name, array in arrays.items()})}
    replace_file(Path(path), save(arrays, metadata=signed))
