"""What the affine nodes of a float network without weights are: sums, averages, maxima, selections.

Float networks state them as plain matrices; here they are recognized from those, entry by entry, so that it does not
matter which file they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Int64Array, Matrix
from milpq.network.geometry import OUTSIDE, maximum_rounds
from milpq.network.nodes import Affine, Clamp, FloatNode


@dataclass(frozen=True, slots=True, eq=False)
class Maximum:
    """A max pool made of several nodes.

    Parameters
    ----------
    candidates : int64, shape (neurons, window)
    nodes : int
        How many nodes it is.
    """

    source: int
    candidates: Int64Array
    nodes: int


def is_sum(node: Affine) -> bool:
    """Tell whether a node adds two values, entry by entry."""
    return len(node.terms) == 2 and not node.bias.any() and all(is_identity(t.matrix) for t in node.terms)


def is_identity(matrix: Matrix) -> bool:
    """Tell whether a sparse matrix leaves a value as it is."""
    chosen = _chosen(matrix)
    return (
        chosen is not None
        and matrix.shape[0] == matrix.shape[1]
        and np.array_equal(chosen, np.arange(len(chosen)))
    )


def averaged(node: Affine) -> Int64Array | None:
    """Return the neurons that each neuron of an average reads, shape (neurons, window); None if it is none."""
    matrix = node.terms[0].matrix
    if len(node.terms) != 1 or isinstance(matrix, np.ndarray) or node.bias.any():
        return None
    counts = np.diff(matrix.indptr)
    if not counts.all() or (matrix.data != np.repeat(1.0 / counts, counts)).any():
        return None
    candidates = np.full((len(counts), int(counts.max())), OUTSIDE, dtype=np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    candidates[row, np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)] = matrix.indices
    return candidates


def selected(node: Affine) -> tuple[Int64Array, ...] | None:
    """Return which neuron of each source each neuron of a selection is, `OUTSIDE` if of none; None if it is none."""
    found = [_chosen(term.matrix) for term in node.terms]
    chosen = tuple(part for part in found if part is not None)
    if len(chosen) != len(found):
        return None
    times = np.stack([part != OUTSIDE for part in chosen]).sum(axis=0)
    return chosen if times.max() <= 1 and not node.bias[times == 1].any() else None


def maximum(nodes: Sequence[FloatNode], start: int, readers: Int64Array) -> Maximum | None:
    """Return the max pool that begins with a node; None if none does.

    Parameters
    ----------
    readers : int64, shape (values,)
        How often each value is read.
    """
    pairs: list[tuple[Int64Array, Int64Array]] = []
    index, first = start, nodes[start]
    source = first.sources[0]
    while index + 2 < len(nodes):
        pair = _round(nodes, index, source, readers)
        if pair is None:
            break
        pairs.append(pair)
        index, source = index + 3, index + 3
        # The result of a round is read by both nodes of the next one, and by nothing else.
        if readers[source] != 2:
            break
    for count in range(len(pairs), 0, -1):
        size, opening = len(pairs[count - 1][0]), np.stack(pairs[0], axis=1)
        if opening.size % size:
            continue
        candidates = opening.reshape(size, -1)
        rounds = maximum_rounds(candidates)
        if len(rounds) == count and all(
            np.array_equal(left, right)
            for ours, theirs in zip(rounds, pairs, strict=False)
            for left, right in zip(ours, theirs, strict=True)
        ):
            return Maximum(first.sources[0], candidates, 3 * count)
    return None


def _round(
    nodes: Sequence[FloatNode], index: int, source: int, readers: Int64Array
) -> tuple[Int64Array, Int64Array] | None:
    """Return the pairs of one round ``b + relu(a − b)``, if these three nodes are one."""
    apart, gain, total = nodes[index : index + 3]
    if not (
        isinstance(apart, Affine)
        and isinstance(gain, Clamp)
        and isinstance(total, Affine)
        and not (apart.weighted or total.weighted or apart.bias.any() or total.bias.any())
        and apart.sources == (source,)
        and (gain.source, gain.lower, gain.upper) == (index + 1, 0.0, np.inf)
        and total.sources == (source, index + 2)
        and readers[index + 1] == readers[index + 2] == 1
        and is_identity(total.terms[1].matrix)
    ):
        return None
    second = _chosen(total.terms[0].matrix)
    matrix = apart.terms[0].matrix
    if second is None or (second == OUTSIDE).any() or isinstance(matrix, np.ndarray):
        return None
    size = matrix.shape[1]
    loser = sp.csr_array((np.ones(len(second)), (np.arange(len(second)), second)), shape=(len(second), size))
    winner = sp.csr_array(matrix + loser)
    winner.eliminate_zeros()
    first = _chosen(winner)
    return None if first is None or (first == OUTSIDE).any() else (first, second)


def _chosen(matrix: Matrix) -> Int64Array | None:
    """Return the column of the one entry of each row, `OUTSIDE` where it has none; None unless all entries are 1."""
    if isinstance(matrix, np.ndarray):
        return None
    counts = np.diff(matrix.indptr)
    if (counts > 1).any() or (matrix.data != 1.0).any():
        return None
    chosen = np.full(len(counts), OUTSIDE, dtype=np.int64)
    chosen[counts == 1] = matrix.indices
    return chosen
