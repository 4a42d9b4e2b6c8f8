"""True points satisfy every row of the model in exact arithmetic, not just within a tolerance.

Both networks are run in fractions; the stored coefficients and sides are taken as the exact numbers they are.
Bounds from duals lean on this.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from milpq.merge import MergedAffine
from milpq.milp.encode import Encoding, encode
from milpq.milp.encode_affine import AffinePart
from milpq.milp.encode_clamp import Kink
from milpq.milp.faces import Copies, Difference

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "property"))

from random_pairs import interval_bounds, sample, some_pair


def exact_units(encoding: Encoding) -> dict[int, Fraction]:
    """Return the exact real value of one unit of each quantized column that has one."""
    units: dict[int, Fraction] = {}
    faces = encoding.faces
    for index, node in enumerate(encoding.problem.merged.nodes):
        face = faces[index + 1]
        if face.unit is None:
            continue
        exact = [Fraction(float(unit)) for unit in face.unit]
        if isinstance(node, MergedAffine):
            # The weights of the quantized side are exact products of a unit and an integer.
            source = Fraction(float(faces[node.terms[0].source].unit[0]))
            real, whole = node.terms[0].quantized_matrix, node.integer.terms[0].matrix
            for row in range(node.size):
                some = np.flatnonzero(whole[row])
                if len(some):
                    weight = Fraction(float(real[row, some[0]])) / int(whole[row, some[0]])
                    exact[row] = weight * source
        units |= dict(zip(face.quantized.columns.tolist(), exact, strict=True))
    return units


def exact_point(encoding: Encoding, x: np.ndarray) -> list[Fraction]:
    """Run both networks at `x` in fractions; levels and binaries follow from integers and signs."""
    rounded = encoding.start_from_input(x)
    point = [Fraction(float(value)) for value in rounded]
    units = exact_units(encoding)
    for part in encoding.parts:
        if isinstance(part, AffinePart):
            for row, column in enumerate(part.columns.tolist()):
                total = Fraction(float(part.bias[row]))
                for matrix, source in zip(part.matrices, part.sources, strict=True):
                    for j in np.flatnonzero(matrix[row]):
                        total += Fraction(float(matrix[row, j])) * point[source[j]]
                point[column] = total
        elif isinstance(part, Kink):
            for i, column in enumerate(part.result.columns.tolist()):
                value, kink = point[part.source.columns[i]], Fraction(part.kink)
                point[column] = max(value, kink) if part.sign > 0 else min(value, kink)
                if part.phase[i] >= 0:
                    point[part.phase[i]] = Fraction(part.sign * (value - kink) > 0)
        elif isinstance(part, Difference):
            for i, column in enumerate(part.columns.tolist()):
                quantized = int(part.quantized_columns[i])
                point[column] = units.get(quantized, Fraction(1)) * point[quantized]
                point[column] -= point[part.float_columns[i]]
        elif isinstance(part, Copies):
            for original, column in zip(part.originals.tolist(), part.columns.tolist(), strict=True):
                point[column] = point[original]
    return point


def violations(encoding: Encoding, point: list[Fraction]) -> list[str]:
    """Return the rows and columns that the point breaks, exactly."""
    model, broken = encoding.model, []
    for column, value in enumerate(point):
        if not Fraction(float(model.lower[column])) <= value <= Fraction(float(model.upper[column])):
            broken.append(f"column {column}")
    for row in range(model.rows):
        entries = slice(int(model.indptr[row]), int(model.indptr[row + 1]))
        activity = sum(
            (
                Fraction(float(value)) * point[column]
                for value, column in zip(model.values[entries], model.indices[entries].tolist(), strict=True)
            ),
            Fraction(0),
        )
        low, high = float(model.row_lower[row]), float(model.row_upper[row])
        if (np.isfinite(low) and activity < Fraction(low)) or (
            np.isfinite(high) and activity > Fraction(high)
        ):
            broken.append(f"row {row}")
    return broken


@pytest.mark.parametrize("seed", range(30))
def test_true_points_break_no_row(seed):
    problem = some_pair(seed)
    root = problem.domain.root
    encoding = encode(problem, root, interval_bounds(problem, root), cuts=True)
    for x in sample(np.random.default_rng(seed), problem, 5):
        assert violations(encoding, exact_point(encoding, x)) == []
