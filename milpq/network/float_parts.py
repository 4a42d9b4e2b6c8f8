"""Sums, averages, maxima and selections as affine nodes and clamps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array
from milpq.network.geometry import OUTSIDE, maximum_rounds, selection_matrix, sum_matrix
from milpq.network.nodes import Affine, Clamp, FloatNode, Term


def selection_node(
    name: str, sources: Sequence[tuple[int, int]], chosen: Sequence[Int64Array], constant: Float64Array
) -> Affine:
    """Return the node whose every neuron is a neuron of a source, or a constant.

    Parameters
    ----------
    sources : (value, size) of each source
    chosen : int64, shape (neurons,) for each source; `OUTSIDE` where it is not of this source
    """
    terms = tuple(
        Term(value, selection_matrix(index, size))
        for (value, size), index in zip(sources, chosen, strict=True)
    )
    return Affine(name, terms, constant, weighted=False)


def average_node(name: str, source: int, size: int, candidates: Int64Array, counts: Int64Array) -> Affine:
    """Return the node of averages: sums of candidates times the float64 number nearest to ``1/count``."""
    matrix = sum_matrix(candidates, size)
    factors = 1.0 / counts
    matrix.data = np.repeat(factors, np.diff(matrix.indptr))
    return Affine(name, (Term(source, matrix),), np.zeros(len(counts)), weighted=False)


def sum_node(name: str, first: int, second: int, size: int, sign: float = 1.0) -> Affine:
    """Return the node ``first + sign·second`` of two different values."""
    identity = selection_matrix(np.arange(size, dtype=np.int64), size)
    terms = Term(first, identity), Term(second, sp.csr_array(sign * identity))
    return Affine(name, terms, np.zeros(size), weighted=False)


def maximum_nodes(
    name: str, source: int, size: int, candidates: Int64Array, first_value: int
) -> list[FloatNode]:
    """Return the nodes of a max pool, exactly: ``max(a, b) = b + relu(a − b)``, in rounds.

    Parameters
    ----------
    size : neurons of the source
    first_value : the value that the first of the nodes makes
    """
    nodes: list[FloatNode] = []
    for first, second in maximum_rounds(candidates):
        loser, none = selection_matrix(second, size), np.zeros(len(first))
        apart = sp.csr_array(selection_matrix(first, size) - loser)
        size = len(first)
        made = first_value + len(nodes)
        identity = selection_matrix(np.arange(size, dtype=np.int64), size)
        nodes += [
            Affine(name, (Term(source, apart),), none, weighted=False),
            Clamp(name, made),
            Affine(name, (Term(source, loser), Term(made + 1, identity)), none, weighted=False),
        ]
        source = made + 2
    return nodes


def outside_counts(candidates: Int64Array) -> Int64Array:
    """Return how many candidates of each row lie inside the image."""
    return (candidates != OUTSIDE).sum(axis=1)
