"""Random models that every backend can solve in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from milpq._arrays import Float64Array
from milpq.milp.model import LinearModel, ModelBuilder


def small(seed: int, integer: bool) -> tuple[LinearModel, Float64Array]:
    """Return a random model of a few columns and rows (now and then infeasible) and an objective."""
    rng = np.random.default_rng(seed)
    count, height = int(rng.integers(2, 9)), int(rng.integers(1, 7))
    lower = rng.integers(-5, 1, count).astype(np.float64)
    integers = rng.random(count) < 0.6 if integer else np.zeros(count, dtype=np.bool_)
    builder = ModelBuilder()
    x = builder.add_columns(lower, lower + rng.integers(0, 6, count), integer=integers)
    matrix = rng.integers(-6, 7, (height, count)) / 4 * (rng.random((height, count)) < 0.7)
    middle, width = matrix @ (lower + 1), rng.integers(0, 8, height) / 2
    kind = rng.integers(0, 4, height)
    row_lower = np.where(kind == 0, -np.inf, np.where(kind == 3, middle, middle - width))
    row_upper = np.where(kind == 1, np.inf, np.where(kind == 3, middle, middle + width))
    builder.add_rows([(x, matrix)], row_lower, row_upper)
    return builder.build(), rng.integers(-9, 10, count) * 2.0 ** rng.integers(-12, 3)


def knapsack(
    count: int, height: int, integer: bool = True, seed: int = 0
) -> tuple[LinearModel, Float64Array]:
    """Return a multidimensional knapsack: with many columns, more than any solver proves in seconds."""
    rng = np.random.default_rng(seed)
    builder = ModelBuilder()
    x = builder.add_columns(0.0, 3.0, count=count, integer=integer)
    weights = rng.integers(0, 50, (height, count)).astype(np.float64)
    builder.add_rows([(x, weights)], -np.inf, weights.sum(axis=1) / 2)
    return builder.build(), 1.0 + rng.random(count)


@pytest.fixture
def small_model() -> Callable[[int, bool], tuple[LinearModel, Float64Array]]:
    return small


@pytest.fixture
def hard_model() -> tuple[LinearModel, Float64Array]:
    return knapsack(200, 100)


@pytest.fixture
def knapsack_model() -> Callable[..., tuple[LinearModel, Float64Array]]:
    return knapsack
