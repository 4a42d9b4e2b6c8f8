"""Affine maps in big integers against fractions, term by term."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from milpq.network.exact import affine_ends
from milpq.network.nodes import Affine, Term


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ends_are_those_of_plain_fractions(seed, sparse):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(4, 5)) * 2.0 ** rng.integers(-1040 if seed == 3 else -60, 60, (4, 5))
    matrix[rng.random((4, 5)) < 0.3] = 0.0
    matrix[0] = 0.0
    points = [Fraction(int(n), int(d)) for n, d in rng.integers(1, 2**40, (5, 2))]
    wide = [x + Fraction(int(n), 7) for x, n in zip(points, rng.integers(0, 9, 5), strict=True)]
    node = Affine("a", (Term(0, sp.csr_array(matrix) if sparse else matrix),) * 2, rng.normal(size=4))
    one = affine_ends(node, [points], [points])
    low, high = affine_ends(node, [points], [wide])
    assert one[0] is one[1]
    for row in range(4):
        bias, weights = Fraction(float(node.bias[row])), [Fraction(float(w)) for w in matrix[row]]
        ends = [sorted((w * x, w * y)) for w, x, y in zip(weights, points, wide, strict=True)]
        assert one[0][row] == bias + 2 * sum(w * x for w, x in zip(weights, points, strict=True))
        assert low[row] == bias + 2 * sum(end[0] for end in ends)
        assert high[row] == bias + 2 * sum(end[1] for end in ends)
