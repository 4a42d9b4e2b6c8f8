"""What the propagations need of a merged network, computed once per network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from milpq._arrays import Matrix
from milpq.bounds.residue import Residue
from milpq.merge.nodes import Merged, MergedAffine
from milpq.network.nodes import absolute


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Elementwise absolute values of a merged term's three matrices."""

    float_matrix: Matrix
    quantized_matrix: Matrix
    difference_matrix: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Per node: the sizes of an affine node's terms, or the residue tables of a step (None without one)."""

    sizes: tuple[tuple[Sizes, ...], ...]
    residues: tuple[Residue | None, ...]


@lru_cache(maxsize=8)
def prepared(merged: Merged) -> Prepared:
    """Return the prepared network; merged networks are immutable and compared by identity."""
    sizes: list[tuple[Sizes, ...]] = []
    residues: list[Residue | None] = []
    for node in merged.nodes:
        if isinstance(node, MergedAffine):
            sizes.append(
                tuple(
                    Sizes(
                        absolute(term.float_matrix),
                        absolute(term.quantized_matrix),
                        absolute(term.difference_matrix),
                    )
                    for term in node.terms
                )
            )
            residues.append(None)
        else:
            sizes.append(())
            residues.append(None if node.step is None else Residue.of(node))
    return Prepared(tuple(sizes), tuple(residues))
