"""The trees of a certificate: splits of the region whose leaves cover it, because each split covers what it splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np

from milpq._arrays import BoolArray, Float64Array
from milpq.certificate.format import BOUND, DUAL, EXECUTED, REWRITTEN, CertificateFile
from milpq.certificate.forms import Ends
from milpq.certificate.rewriting import PLANES
from milpq.errors import CertificateError
from milpq.merge import Cubes, Domain

_STACK_BYTES: Final = 1 << 27
_OVERHEAD: Final = 512  # of the objects of a part


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a domain: all its inputs in a box that are read as certain levels and satisfy some decisions.

    Parameters
    ----------
    box : float64, shape (4·inputs,)
        Lower and upper ends, first and last levels.
    decisions : tuple of (quantity, lower, upper)
        See `milpq.certificate.zonotope`.
    """

    box: Float64Array
    decisions: tuple[tuple[int, float, float], ...] = ()

    @property
    def nbytes(self) -> int:
        """What it holds, roughly; decisions that parts share are counted once."""
        return _OVERHEAD + self.box.nbytes + 8 * len(self.decisions)


@dataclass(frozen=True, slots=True, eq=False)
class Splitter:
    """Splits parts of a domain, along an input or, numbered after the inputs, along a quantity of the networks.

    *Soundness:* both halves of a split together hold all inputs of the part: levels up to the cut and above it; or
    real numbers on either side of the cut, both sides closed; integer quantities up to the cut and from the next
    integer on.  Inputs of a level lie inside the closed cells of the quantizer, so the halves of a continuous domain
    end at the threshold between them.

    Parameters
    ----------
    whole : bool, shape (quantities,)
        Which quantities are integers.
    """

    domain: Domain
    whole: BoolArray

    def root(self) -> Part:
        """Return the whole domain."""
        root = self.domain.root
        ends = (root.lower[0], root.upper[0], root.level_lower[0], root.level_upper[0])
        return Part(np.concatenate([end.astype(np.float64) for end in ends]))

    def split(self, part: Part, dimension: int, cut: float) -> tuple[Part, Part]:
        """Return the lower and the upper half of a part.

        Raises
        ------
        CertificateError
            There is nothing of that number, or the cut lies outside of the part.
        """
        inputs = len(part.box) // 4
        if not 0 <= dimension < inputs + len(self.whole):
            raise CertificateError(
                f"a node splits along {dimension}, but there are {inputs + len(self.whole)} ways"
            )
        if dimension >= inputs:
            return self._decide(part, dimension - inputs, cut)
        low, high = dimension, inputs + dimension
        below, above = part.box.copy(), part.box.copy()
        first, last = part.box[2 * inputs + dimension], part.box[3 * inputs + dimension]
        if last > first:
            if not (first <= cut < last and cut == int(cut)):
                raise CertificateError(f"a node cuts levels {first:.0f} to {last:.0f} at {cut}")
            below[3 * inputs + dimension], above[2 * inputs + dimension] = cut, cut + 1
            if self.domain.kind == "continuous":
                assert self.domain.integer is not None and self.domain.integer.quantizer is not None
                quantizer = self.domain.integer.quantizer
                threshold = quantizer.thresholds[dimension, int(cut) - quantizer.level_lower]
                below[high], above[low] = min(below[high], threshold), max(above[low], threshold)
        elif self.domain.kind != "codes" and part.box[low] <= cut <= part.box[high]:
            below[high] = above[low] = cut
        else:
            raise CertificateError(f"a node cuts [{part.box[low]}, {part.box[high]}] at {cut}")
        return Part(below, part.decisions), Part(above, part.decisions)

    def _decide(self, part: Part, quantity: int, cut: float) -> tuple[Part, Part]:
        whole = bool(self.whole[quantity])
        if not abs(cut) < 2.0**53 or (whole and cut != int(cut)):
            raise CertificateError(f"a node decides quantity {quantity} at {cut}")
        below = (quantity, -np.inf, cut)
        above = (quantity, cut + 1 if whole else cut, np.inf)
        return Part(part.box, (*part.decisions, below)), Part(part.box, (*part.decisions, above))

    def cubes(self, parts: Sequence[Part]) -> Cubes:
        """Return the boxes of parts; on codes what `f` reads at their levels."""
        lower, upper, first, last = (
            np.stack([part.box for part in parts]).reshape(len(parts), 4, -1).swapaxes(0, 1)
        )
        first, last = first.astype(np.int64), last.astype(np.int64)
        if self.domain.kind == "codes":
            return self.domain.cubes_of_levels(first, last)
        return Cubes(lower, upper, first, last)

    def limits(self, parts: Sequence[Part]) -> Ends | None:
        """Return the decisions of parts, shape (quantities, parts); None where there are none."""
        if not any(part.decisions for part in parts):
            return None
        lower = np.full((len(self.whole), len(parts)), -np.inf)
        upper = -lower
        for leaf, part in enumerate(parts):
            for quantity, low, high in part.decisions:
                lower[quantity, leaf] = max(lower[quantity, leaf], low)
                upper[quantity, leaf] = min(upper[quantity, leaf], high)
        return lower, upper


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A leaf as it was read.

    Parameters
    ----------
    multipliers : float64
        Of all quantities where it is of kind ``DUAL``, shape (quantities, 1); their planes, shape (quantities, 4),
        where it is of kind ``REWRITTEN``; nothing otherwise.
    """

    kind: int
    part: Part
    multipliers: Float64Array


class Reader:
    """Reads trees in preorder, one after the other, from the streams of a certificate."""

    def __init__(self, file: CertificateFile, splitter: Splitter) -> None:
        self._splitter = splitter
        names = ("tree.node", "tree.cut", "dual.count", "dual.quantity", "dual.weight", "plane.weight")
        self._numbers = {name: file.numbers(name) for name in names}

    def leaves(self) -> Iterator[Leaf]:
        """Read one tree and return its leaves.

        Raises
        ------
        CertificateError
            The tree stops before it covers the region, or is malformed.
        """
        splitter, stack, nothing = self._splitter, [self._splitter.root()], np.zeros(0)
        while stack:
            node = next(self._numbers["tree.node"], None)
            if node is None:
                raise CertificateError(
                    f"a tree does not cover the region: {len(stack)} parts of it have no leaf"
                )
            part = stack.pop()
            if node in (BOUND, EXECUTED):
                yield Leaf(node, part, nothing)
            elif node in (DUAL, REWRITTEN):
                yield Leaf(node, part, self._duals() if node == DUAL else self._planes())
            else:
                below, above = splitter.split(part, node, self._take("tree.cut", 1)[0])
                stack += [above, below]
                if len(stack) * below.nbytes > _STACK_BYTES:  # the last one is the largest
                    raise CertificateError("the tree is too deep to be checked in bounded memory")

    def finish(self) -> None:
        """Raise CertificateError unless all streams are at their end."""
        left = [name for name, numbers in self._numbers.items() if next(numbers, None) is not None]
        if "tree.node" in left:
            raise CertificateError("the tree goes on after it has covered the region")
        if left:
            raise CertificateError("there are more cuts or multipliers than the trees need")

    def _take(self, name: str, count: int) -> list[Any]:
        taken = list(islice(self._numbers[name], count))
        if len(taken) < count:
            raise CertificateError(f"tensor {name!r} is too short")
        return taken

    def _duals(self) -> Float64Array:
        count, most = self._take("dual.count", 1)[0], len(self._splitter.whole)
        if not 0 <= count <= most:
            raise CertificateError(f"a leaf has {count} multipliers of {most} quantities")
        quantity = np.array(self._take("dual.quantity", count), dtype=np.int64)
        if not np.all((quantity >= 0) & (quantity < most)):
            raise CertificateError("a multiplier belongs to no quantity")
        result = np.zeros((most, 1))
        result[quantity, 0] = self._weights("dual.weight", count)
        return result

    def _planes(self) -> Float64Array:
        most = len(self._splitter.whole)
        return self._weights("plane.weight", PLANES * most).reshape(most, PLANES)

    def _weights(self, name: str, count: int) -> Float64Array:
        weights = np.array(self._take(name, count), dtype=np.float64)
        if not np.all(np.abs(weights) < 2.0**100):
            raise CertificateError("a multiplier is no number of reasonable size")
        return weights
