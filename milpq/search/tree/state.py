"""Where a branch and bound stands: its open nodes, and where a certificate is wanted its leaves, with their evidence.

Decisions and rows are named by value, kind and neuron, so they mean the same to another run.  Evidence with duals goes
with the bounds of the whole domain that its rows were made of (`milpq.search.bounds_state`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.milp.encode_clamp import Face
from milpq.milp.model import RowBlock
from milpq.search.checkpoint import Arrays, packed, unpacked
from milpq.search.tree.branching import Gains
from milpq.search.tree.leaf import Decision, Evidence, EvidenceKind, Node

_FACES: Final[tuple[Face, ...]] = ("float", "quantized")
_KINDS: Final[tuple[EvidenceKind, ...]] = (
    "root",
    "dual",
    "infeasible",
    "propagation",
    "enumeration",
    "cells",
)

NamedNode = tuple[Node, tuple[RowBlock, ...]]
"""A node with the names of the rows that its duals belong to."""


@dataclass(frozen=True, slots=True, eq=False)
class TreeState:
    """Where a branch and bound stands.

    Parameters
    ----------
    nodes : tuple of Node
        The open ones, in the order of their queue.
    order : int64, shape (open,)
        Numbers by which equal bounds are told apart.
    closed : float64, shape (objectives,)
        The highest bound of a leaf.
    gains : Gains
    witnesses : float64, shape (witnesses, inputs)
    counts : int64, shape (4,)
        Leaves, programs, rounds, and the last number given.
    """

    nodes: tuple[Node, ...]
    order: Int64Array
    closed: Float64Array
    gains: Gains
    witnesses: Float64Array
    counts: Int64Array

    def arrays(self) -> Arrays:
        """Return what a journal keeps; the evidence of nodes is left to `pack_nodes` with the names of rows."""
        keys = [
            (objective, value, _FACES.index(face), neuron, side)
            for objective, (value, face, neuron), side in self.gains.sums
        ]
        return pack_nodes([(node, ()) for node in self.nodes], "open") | {
            "order": self.order,
            "closed": self.closed,
            "gain_keys": np.array(keys, dtype=np.int64).reshape(-1, 5),
            "gain_sums": np.array(list(self.gains.sums.values()), dtype=np.float64).reshape(-1, 4),
            "witnesses": self.witnesses,
            "counts": self.counts,
        }

    @classmethod
    def of(cls, arrays: Arrays, nodes: Sequence[NamedNode]) -> TreeState:
        """Return the state that a journal has kept, about these nodes."""
        keys, sums = arrays["gain_keys"].tolist(), arrays["gain_sums"].tolist()
        known: dict[tuple[int, tuple[int, Face, int], int], tuple[float, float, float, int]] = {
            (objective, (value, _face(face), neuron), side): (gained, promised, distance, int(count))
            for (objective, value, face, neuron, side), (gained, promised, distance, count) in zip(
                keys, sums, strict=True
            )
        }
        return cls(
            tuple(node for node, _ in nodes),
            arrays["order"],
            arrays["closed"].copy(),
            Gains(known),
            arrays["witnesses"],
            arrays["counts"],
        )


def pack_nodes(nodes: Sequence[NamedNode], prefix: str) -> Arrays:
    """Return nodes as arrays; duals whose rows have no names are left out."""
    names: dict[str, int] = {}
    head: list[tuple[int, int, int, int, int, int]] = []
    decisions: list[tuple[int, int, int]] = []
    rows: list[Int64Array] = [np.zeros((0, 3), dtype=np.int64)]
    duals: list[Float64Array] = [np.zeros(0)]
    for node, blocks in nodes:
        evidence = node.evidence
        named, values = _named(evidence, blocks, names)
        rows.append(named)
        duals.append(values)
        decisions += [(d.value, _FACES.index(d.face), d.neuron) for d in node.decisions]
        kind = _KINDS.index(evidence.kind)
        head.append((node.objective, kind, evidence.depth, evidence.anchor, len(node.decisions), len(values)))
    ends = [(d.lower, d.upper) for node, _ in nodes for d in node.decisions]
    found: Arrays = {
        "head": np.array(head, dtype=np.int64).reshape(-1, 6),
        "upper": np.array([node.upper for node, _ in nodes], dtype=np.float64),
        "decisions": np.array(decisions, dtype=np.int64).reshape(-1, 3),
        "ends": np.array(ends, dtype=np.float64).reshape(-1, 2),
        "rows": np.concatenate(rows),
        "duals": np.concatenate(duals),
        "names": packed("\n".join(names)),
    }
    return {f"{prefix}_{name}": array for name, array in found.items()}


def unpack_nodes(arrays: Arrays, prefix: str) -> list[NamedNode]:
    """Return the nodes that `pack_nodes` was given, their rows numbered anew."""
    part = {
        name.removeprefix(f"{prefix}_"): array for name, array in arrays.items() if name.startswith(prefix)
    }
    names = unpacked(part["names"]).split("\n")
    cuts, ends = part["decisions"].tolist(), part["ends"].tolist()
    decisions = [
        Decision(value, _face(face), neuron, lower, upper)
        for (value, face, neuron), (lower, upper) in zip(cuts, ends, strict=True)
    ]
    result: list[NamedNode] = []
    at = row = 0
    for (objective, kind, depth, anchor, cut, count), bound in zip(
        part["head"].tolist(), part["upper"].tolist(), strict=True
    ):
        here = slice(row, row + count)
        blocks = _blocks(part["rows"][here], names)
        evidence = Evidence(_kind(kind), depth, anchor)
        if count:
            evidence = replace(
                evidence, rows=frozen(np.arange(int(count))), duals=frozen(part["duals"][here].copy())
            )
        result.append((Node(objective, tuple(decisions[at : at + cut]), bound, evidence), blocks))
        at, row = at + cut, row + count
    return result


def _face(number: int) -> Face:
    return _FACES[number]


def _kind(number: int) -> EvidenceKind:
    return _KINDS[number]


def _named(
    evidence: Evidence, blocks: tuple[RowBlock, ...], names: dict[str, int]
) -> tuple[Int64Array, Float64Array]:
    """Return value, name and neuron of each row with a dual, shape (rows, 3), sorted by block, and the duals."""
    named: list[Int64Array] = [np.zeros((0, 3), dtype=np.int64)]
    duals: list[Float64Array] = [np.zeros(0)]
    if evidence.rows is not None and evidence.duals is not None:
        for block in blocks:
            here = np.flatnonzero((evidence.rows >= block.start) & (evidence.rows < block.stop))
            if not len(here):
                continue
            name = names.setdefault(block.name, len(names))
            part = np.empty((len(here), 3), dtype=np.int64)
            part[:, 0], part[:, 1] = block.value, name
            part[:, 2] = block.neurons[evidence.rows[here] - block.start]
            named.append(part)
            duals.append(evidence.duals[here])
    return np.concatenate(named), np.concatenate(duals)


def _blocks(rows: Int64Array, names: list[str]) -> tuple[RowBlock, ...]:
    """Return the blocks of consecutive rows of one value and name."""
    if not len(rows):
        return ()
    change = np.flatnonzero(np.any(rows[1:, :2] != rows[:-1, :2], axis=1)) + 1
    starts = [0, *change.tolist(), len(rows)]
    return tuple(
        RowBlock(
            int(rows[start, 0]),
            names[int(rows[start, 1])],
            start,
            stop,
            frozen(rows[start:stop, 2].copy()),
        )
        for start, stop in pairwise(starts)
    )
