"""Another machine: the same problem, its products summed up in another order and off by as much as rounding may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF
from milpq.merge import MergedAffine, Problem


class Reordered(np.ndarray):
    """A matrix whose products are summed up backwards, each then off by as many roundings as it has terms."""

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        matrix, other = np.asarray(self), np.asarray(other)
        product = matrix[:, ::-1] @ other[::-1]
        most = UNIT_ROUNDOFF * matrix.shape[1] * (np.abs(matrix) @ np.abs(other))
        noise = np.random.default_rng(product.size).choice([-1.0, 1.0], size=product.shape)
        return product + noise * np.where(most == np.abs(product), 0.0, most)


def elsewhere(problem: Problem) -> Problem:
    """Return a problem as another machine calculates with it."""

    def reordered(matrix: np.ndarray) -> np.ndarray:
        dense = np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray())
        return dense.view(Reordered)

    def moved(node: object) -> object:
        if not isinstance(node, MergedAffine):
            return node
        names = ("float_matrix", "quantized_matrix", "difference_matrix")
        terms = [
            replace(term, **{name: reordered(getattr(term, name)) for name in names}) for term in node.terms
        ]
        return replace(node, terms=tuple(terms))

    copy = replace(problem)
    merged = replace(problem.merged, nodes=tuple(moved(node) for node in problem.merged.nodes))
    object.__setattr__(copy, "merged", merged)
    return copy
