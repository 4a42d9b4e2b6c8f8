"""Both networks of a pair in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import scipy.sparse as sp

from milpq.merge import MergedAffine, Problem
from milpq.merge.align import _weight_unit


def fractions(array) -> np.ndarray:
    dense = array.toarray() if sp.issparse(array) else np.asarray(array)
    return np.vectorize(Fraction, otypes=[object])(dense)


class Exact:
    """Both networks in rational arithmetic, value by value."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.layers = []
        scales = {0: None if problem.domain.integer is None else fractions(problem.domain.integer.scale)}
        for value, node in enumerate(problem.merged.nodes, start=1):
            if not isinstance(node, MergedAffine):
                scales[value] = None if node.step is None else fractions(node.scale_out)
                self.layers.append(scales[value])
                continue
            if node.integer is None:
                bias = fractions(node.quantized_bias)
            else:
                source = scales[node.terms[0].source][0]
                scales[value] = fractions(_weight_unit(node.integer, float(source))) * source
                bias = scales[value] * np.array([Fraction(int(b)) for b in node.integer.bias])
            matrices = [(fractions(t.float_matrix), fractions(t.quantized_matrix)) for t in node.terms]
            self.layers.append((matrices, fractions(node.float_bias), bias))
        self.scales = scales

    def values(self, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ``(a, v)`` of every merged value at one input."""
        problem = self.problem
        a = fractions(x)
        if problem.domain.integer is None:
            result = [(a, a)]
        else:
            levels = problem.quantized_levels(x[None])[0]
            result = [(a, self.scales[0] * np.array([Fraction(int(n)) for n in levels]))]
        for value, (node, layer) in enumerate(zip(problem.merged.nodes, self.layers, strict=True), start=1):
            if isinstance(node, MergedAffine):
                matrices, a, v = layer
                for term, (first, second) in zip(node.terms, matrices, strict=True):
                    a = a + first @ result[term.source][0]
                    v = v + second @ result[term.source][1]
            else:
                a, v = result[node.source]
                a = clamp(node, a)
                if node.step is None:
                    v = clamp(node, v)
                else:
                    accumulator = v / self.scales[node.source]
                    assert all(n.denominator == 1 for n in accumulator)
                    level = node.step(np.array([int(n) for n in accumulator]))
                    v = self.scales[value] * np.array([Fraction(int(n)) for n in level])
            result.append((a, v))
        return result


def clamp(node, values: np.ndarray) -> np.ndarray:
    if node.curve is not None:
        # Within 1e-50, which no bound in float64 comes near.
        return np.array([node.curve.enclose(x, x)[0] for x in values])
    low = node.lower if np.isinf(node.lower) else Fraction(node.lower)
    high = node.upper if np.isinf(node.upper) else Fraction(node.upper)
    return np.array([Fraction(min(max(x, low), high)) for x in values])
