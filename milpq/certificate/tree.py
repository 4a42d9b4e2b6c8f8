"""The tree of a certificate: splits of the region whose leaves cover it, because each split covers what it splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import CertificateError
from milpq.merge import Cubes, Domain

_STACK_BYTES: Final = 1 << 27
_OVERHEAD: Final = 128  # of an array object


@dataclass(frozen=True, slots=True, eq=False)
class Splitter:
    """Splits parts of a domain, each a vector of its real ends and its levels: lower, upper, first, last.

    *Soundness:* a part is all inputs of the region with ``lower <= x <= upper`` that are read as levels ``first`` to
    ``last``.  Both halves of a split together hold all of them: levels up to the cut and above it; or, among inputs of
    one level, numbers on either side of the cut, both sides closed.  Inputs of a level lie inside the closed cells of
    the quantizer, so the halves of a continuous domain end at the threshold between them.
    """

    domain: Domain

    def root(self) -> Float64Array:
        """Return the whole domain."""
        root = self.domain.root
        ends = (root.lower[0], root.upper[0], root.level_lower[0], root.level_upper[0])
        return np.concatenate([end.astype(np.float64) for end in ends])

    def split(self, part: Float64Array, dimension: int, cut: float) -> tuple[Float64Array, Float64Array]:
        """Return the lower and the upper half of a part.

        Raises
        ------
        CertificateError
            There is no such input, or the cut lies outside of the part.
        """
        inputs = len(part) // 4
        if not 0 <= dimension < inputs:
            raise CertificateError(f"a node splits along input {dimension}, but there are {inputs}")
        low, high = dimension, inputs + dimension
        below, above = part.copy(), part.copy()
        first, last = part[2 * inputs + dimension], part[3 * inputs + dimension]
        if last > first:
            if not (first <= cut < last and cut == int(cut)):
                raise CertificateError(f"a node cuts levels {first:.0f} to {last:.0f} at {cut}")
            below[3 * inputs + dimension], above[2 * inputs + dimension] = cut, cut + 1
            if self.domain.kind == "continuous":
                assert self.domain.integer is not None and self.domain.integer.quantizer is not None
                quantizer = self.domain.integer.quantizer
                threshold = quantizer.thresholds[dimension, int(cut) - quantizer.level_lower]
                below[high], above[low] = min(part[high], threshold), max(part[low], threshold)
        elif self.domain.kind != "codes" and part[low] <= cut <= part[high]:
            below[high] = above[low] = cut
        else:
            raise CertificateError(f"a node cuts [{part[low]}, {part[high]}] at {cut}")
        return below, above

    def cubes(self, parts: list[Float64Array]) -> Cubes:
        """Return parts as cubes."""
        lower, upper, first, last = np.stack(parts).reshape(len(parts), 4, -1).swapaxes(0, 1)
        return Cubes(lower, upper, first.astype(np.int64), last.astype(np.int64))


def leaves(
    splitter: Splitter, nodes: Iterable[Int64Array], cuts: Iterable[Float64Array], batch: dict[int, int]
) -> Iterator[tuple[int, int, Cubes]]:
    """Read a tree in preorder and return its leaves in batches, as ``(kind, number of a leaf, cubes)``.

    Parameters
    ----------
    nodes, cuts : int32 and float64 arrays, one after the other
        See ``milpq.certificate.format``.
    batch : dict from kind to how many leaves to return at once

    Raises
    ------
    CertificateError
        The tree stops before it covers the region, goes on after, or is malformed.
    """
    stack = [splitter.root()]
    deepest = _STACK_BYTES // (stack[0].nbytes + _OVERHEAD)
    waiting: dict[int, list[Float64Array]] = {kind: [] for kind in batch}
    places = chain.from_iterable(block.tolist() for block in cuts)
    count = 0
    for node in chain.from_iterable(block.tolist() for block in nodes):
        if not stack:
            raise CertificateError("the tree goes on after it has covered the region")
        part = stack.pop()
        if node in waiting:
            count += 1
            waiting[node].append(part)
            if len(waiting[node]) == batch[node]:
                yield node, count, splitter.cubes(waiting[node])
                waiting[node] = []
            continue
        cut = next(places, None)
        if cut is None:
            raise CertificateError("a split of the tree has no cut")
        stack.extend(splitter.split(part, node, cut)[::-1])
        if len(stack) > deepest:
            raise CertificateError("the tree is too deep to be checked in bounded memory")
    if stack:
        raise CertificateError(f"the tree does not cover the region: {len(stack)} parts of it have no leaf")
    if next(places, None) is not None:
        raise CertificateError("the tree has more cuts than splits")
    for kind, parts in waiting.items():
        if parts:
            yield kind, count, splitter.cubes(parts)
