from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from milpq.errors import UsageError
from milpq.milp.model import LinearModel, ModelBuilder


@pytest.fixture
def model() -> LinearModel:
    builder = ModelBuilder()
    x = builder.add_columns(np.array([-1.0, 0.0, 2.0]), 4.0, name="x")
    p = builder.add_columns(0.0, 1.0, count=2, integer=True, name="p")
    builder.add_rows(
        [(x, np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])), (p, -2.0)], -np.inf, np.array([5.0, 6.0])
    )
    builder.add_rows([(p, sp.csr_array(np.array([[1.0, 1.0]])))], 1.0, 1.0)
    builder.add_rows([(x[:2], np.array([1.0, -1.0])), (p, 0.5)], 0.0, np.inf)
    return builder.build()


def test_rows_and_columns_come_out_as_they_went_in(model: LinearModel) -> None:
    assert model.matrix().toarray().tolist() == [
        [1, 0, 2, -2, 0],
        [0, 3, 0, 0, -2],
        [0, 0, 0, 1, 1],
        [1, 0, 0, 0.5, 0],
        [0, -1, 0, 0, 0.5],
    ]
    assert model.lower.tolist() == [-1, 0, 2, 0, 0]
    assert model.upper.tolist() == [4, 4, 4, 1, 1]
    assert model.integer.tolist() == [False, False, False, True, True]
    assert model.row_lower.tolist() == [-np.inf, -np.inf, 1, 0, 0]
    assert model.row_upper.tolist() == [5, 6, 1, np.inf, np.inf]
    assert (model.columns, model.rows, model.nonzeros) == (5, 5, 11)
    assert model.entry_rows().tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert model.block("p").tolist() == [3, 4]
    with pytest.raises(KeyError):
        model.block("q")


def test_the_builder_numbers_columns_and_rows_and_goes_on_after_build() -> None:
    builder = ModelBuilder()
    assert builder.add_columns(0.0, 1.0, count=3).tolist() == [0, 1, 2]
    x = builder.add_columns(0.0, np.ones(2))
    assert x.tolist() == [3, 4]
    assert builder.add_rows([(x, 1.0)], 0.0, 1.0).tolist() == [0, 1]
    first = builder.build()
    assert builder.add_rows([(x, 1.0)], 0.0, 1.0).tolist() == [2, 3]
    assert (first.rows, builder.build().rows, builder.rows, builder.columns) == (2, 4, 4, 5)


def test_sparse_and_dense_coefficients_make_the_same_model() -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(7, 5)) * (rng.random((7, 5)) < 0.4)
    models: list[LinearModel] = []
    for block in (dense, sp.csr_array(dense), sp.csc_array(dense), sp.csr_matrix(dense)):
        builder = ModelBuilder()
        x = builder.add_columns(0.0, 1.0, count=5)
        builder.add_rows([(x[::-1], block)], 0.0, 1.0)
        models.append(builder.build())
    for other in models:
        assert np.array_equal(other.matrix().toarray(), dense[:, ::-1])
        assert np.array_equal(other.indices, models[0].indices)


def test_every_array_is_read_only(model: LinearModel) -> None:
    for array in (model.lower, model.integer, model.row_upper, model.indptr, model.indices, model.values):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_copies_change_what_they_say_and_nothing_else(model: LinearModel) -> None:
    relaxed = model.relaxed()
    assert not relaxed.has_integers
    assert model.has_integers
    fixed = model.with_fixed(np.array([3]), 1.0)
    assert (fixed.lower[3], fixed.upper[3], model.lower[3]) == (1, 1, 0)
    lower = model.lower + 0.5
    moved = model.with_bounds(lower, model.upper)
    lower[0] = 99.0
    assert moved.lower[0] == -0.5
    assert moved.values is model.values


def test_the_violation_of_a_point_is_the_worst_of_rows_bounds_and_integrality(model: LinearModel) -> None:
    assert model.violation(np.array([0.0, 0.0, 2.0, 0.0, 1.0])) == 0.0
    assert model.violation(np.array([0.0, 0.0, 2.0, 0.0, 0.75])) == 0.25
    assert model.violation(np.array([0.0, 0.0, 5.0, 0.0, 1.0])) == 5.0
    assert model.violation(np.array([-1.0, 0.0, 2.0, 1.0, 0.0])) == 0.5


def test_an_objective_is_dense(model: LinearModel) -> None:
    assert model.objective(2).tolist() == [0, 0, 1, 0, 0]
    assert model.objective(np.array([0, 4]), np.array([2.0, -1.0])).tolist() == [2, 0, 0, 0, -1]


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(0.0, np.inf), (-np.inf, 0.0), (np.nan, 0.0), (1.0, 0.0), (np.zeros(2), np.zeros(3))],
)
def test_columns_need_finite_bounds_in_order(lower: float, upper: float) -> None:
    with pytest.raises(UsageError):
        ModelBuilder().add_columns(lower, upper, name="x")


def test_a_bad_bound_is_named() -> None:
    with pytest.raises(UsageError, match=r"column 1 of block x are not finite: \[0.0, inf\]"):
        ModelBuilder().add_columns(0.0, np.array([1.0, np.inf]), name="x")


def test_bounds_of_a_copy_are_checked_too(model: LinearModel) -> None:
    with pytest.raises(UsageError, match="inverted"):
        model.with_fixed(np.array([0]), 0.0).with_column_bounds(np.array([0]), 1.0, 0.0)
    with pytest.raises(UsageError, match="shapes"):
        model.with_bounds(np.zeros(2), np.zeros(2))


@pytest.mark.parametrize(
    ("terms", "lower", "upper", "message"),
    [
        ([([0, 1], np.ones((2, 2)))], np.zeros(3), 1.0, "differ in height"),
        ([([0, 1], np.ones((2, 2))), ([2], np.ones((1, 1)))], 0.0, 1.0, "differ in height"),
        ([([0, 1], np.ones((2, 3)))], 0.0, 1.0, "column indices of shape"),
        ([([0, 3], 1.0)], 0.0, 1.0, "outside"),
        ([([-1], 1.0)], 0.0, 1.0, "outside"),
        ([([0, 1], 1.0), ([0, 2], 1.0)], 0.0, 1.0, "twice"),
        ([([0, 0], np.ones((1, 2)))], 0.0, 1.0, "twice"),
        ([([0], np.nan)], 0.0, 1.0, "not finite"),
        ([([0], 1.0)], 1.0, 0.0, "inverted"),
        ([([0], 1.0)], np.nan, 0.0, "NaN"),
        ([([0], 1.0)], np.inf, np.inf, "no point"),
    ],
)
def test_bad_rows_are_refused(
    terms: list[tuple[list[int], object]], lower: float, upper: float, message: str
) -> None:
    builder = ModelBuilder()
    builder.add_columns(0.0, 1.0, count=3)
    with pytest.raises(UsageError, match=message):
        builder.add_rows([(np.array(columns), block) for columns, block in terms], lower, upper)  # type: ignore[misc]
