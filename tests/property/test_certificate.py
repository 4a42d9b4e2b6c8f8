"""The checker's own bounds: they hold every executed input, and are of the order of the prover's."""

from __future__ import annotations

import numpy as np
import pytest
from curve_pairs import smooth_pair
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from random_pairs import box, float_network, perturbed, quantized, residual_pair, sample, some_pair

from milpq.bounds import differential
from milpq.certificate.execution import Execution
from milpq.certificate.rewriting import PLANES, Rewriter
from milpq.certificate.slopes import Corners, dual_upper
from milpq.certificate.tree import Part, Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.errors import TargetError
from milpq.merge import Cubes, MergedAffine, Problem
from milpq.search.halves import halve
from milpq.search.planes import rewrite


def any_pair(seed: int, *, sizes: list[int] | None = None) -> Problem:
    """Return a small problem with clamps or with curves."""
    try:
        return (some_pair if seed % 2 else smooth_pair)(seed, sizes=sizes)
    except TargetError:  # a scale at which a target leaves a table to the machine's C library
        reject()


def executed(problem: Problem, points: np.ndarray) -> np.ndarray:
    """Return what the objectives surely are at some points."""
    difference, error = problem.differences(points)
    return np.concatenate([difference - error, -difference - error], axis=1)


def rewritten(
    problem: Problem, zonotope: Zonotope, limits: tuple[np.ndarray, np.ndarray] | None, planes: np.ndarray
) -> np.ndarray:
    """Return what planes prove of the whole domain under some decisions."""
    rewriter = Rewriter(
        problem, zonotope, lambda first, layer, _: planes[first : first + 2 * len(layer.a[0])]
    )
    return rewriter.upper(problem.domain.root, limits)[0]


def inside(problem: Problem, cubes: Cubes, row: int, points: np.ndarray) -> np.ndarray:
    """Return the points that a cube holds, read as the levels that the cube holds."""
    held = (points >= cubes.lower[row]) & (points <= cubes.upper[row])
    if problem.domain.integer is not None:
        levels = problem.quantized_levels(points)
        held &= (levels >= cubes.level_lower[row]) & (levels <= cubes.level_upper[row])
    return points[held.all(axis=1)]


def halved(problem: Problem, rng: np.random.Generator, times: int) -> Cubes:
    """Return the parts of a domain after a few rounds of splitting along random inputs."""
    cubes = problem.domain.root
    for _ in range(times):
        cubes = halve(problem.domain, cubes, rng.integers(cubes.lower.shape[1], size=len(cubes)))
        cubes = cubes.select(np.flatnonzero((cubes.level_lower <= cubes.level_upper).all(axis=1)))
    return cubes


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), times=st.integers(0, 4))
def test_no_executed_input_leaves_a_bound(seed: int, times: int) -> None:
    problem, rng = any_pair(seed), np.random.default_rng(seed)
    cubes = halved(problem, rng, times)
    upper = Zonotope(problem).upper(cubes)
    points = sample(rng, problem, 500)
    for row in range(len(cubes)):
        values = executed(problem, inside(problem, cubes, row, points))
        assert (values <= upper[row]).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_executing_the_codes_of_a_leaf_holds_every_executed_input(seed: int) -> None:
    problem, rng = any_pair(seed, sizes=[2, 4, 2]), np.random.default_rng(seed)
    if problem.domain.kind == "real":
        return
    cubes = halved(problem, rng, 4)
    upper = Execution(problem, Zonotope(problem), np.zeros(4)).upper(cubes)
    points = sample(rng, problem, 500)
    for row in range(len(cubes)):
        values = executed(problem, inside(problem, cubes, row, points))
        assert (values <= upper[row]).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_both_sides_of_a_split_hold_every_input(seed: int) -> None:
    problem, rng = some_pair(seed), np.random.default_rng(seed)
    splitter = Splitter(problem.domain, Zonotope(problem).whole)
    parts = [splitter.root()]
    points = sample(rng, problem, 300)
    for _ in range(12):
        part = parts.pop(int(rng.integers(len(parts))))
        inputs = len(part.box) // 4
        d = int(rng.integers(inputs))
        first, last = part.box[2 * inputs + d], part.box[3 * inputs + d]
        if problem.domain.kind == "codes" and first == last:
            parts.append(part)
            continue
        several = last > first
        cut = (
            float(rng.integers(first, last))
            if several
            else float(rng.uniform(part.box[d], part.box[inputs + d]))
        )
        parts += splitter.split(part, d, cut)
    cubes = splitter.cubes(parts)
    if problem.domain.kind == "codes":
        cubes = problem.domain.cubes_of_levels(cubes.level_lower, cubes.level_upper)
    held = sum(len(inside(problem, cubes, row, points[[k]])) for k in range(300) for row in range(len(cubes)))
    assert held >= 300
    assert all(
        any(len(inside(problem, cubes, row, points[[k]])) for row in range(len(cubes))) for k in range(300)
    )


def executed_values(problem: Problem, points: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Return ``a, v, h, z`` of every activation at some points, each of shape (points, neurons), in float64."""
    integer = problem.domain.integer
    reading = points if integer is None else problem.quantized_levels(points) * integer.scale
    values, found = [(points, reading)], []
    for node in problem.merged.nodes:
        if isinstance(node, MergedAffine):
            a, v = node.float_bias, node.quantized_bias
            for term in node.terms:
                a = a + values[term.source][0] @ term.float_matrix.T
                v = v + values[term.source][1] @ term.quantized_matrix.T
            values.append((a, v))
            continue
        a, v = values[node.source]
        h, z = node.phi(a), node.phi(v)
        if node.step is not None:
            z = node.step(np.rint(v / node.scale_in).astype(np.int64)) * node.scale_out
        found.append((a, v, h, z))
        values.append((h, z))
    return found


def decided(
    problem: Problem, zonotope: Zonotope, rng: np.random.Generator, points: np.ndarray
) -> tuple[Part, np.ndarray]:
    """Return the whole domain under a few decisions that some of the points satisfy, and these points."""
    splitter = Splitter(problem.domain, zonotope.whole)
    part, known = splitter.root(), executed_values(problem, points)
    trace = zonotope.trace(problem.domain.root, None)
    quantities = []
    for layer, (a, v, _, _) in zip(trace.layers, known, strict=True):
        quantities += [a, v if layer.stairs.node.step is None else np.rint(v / layer.stairs.unit[:, 0])]
    if not quantities:
        return part, points
    table, inputs = np.concatenate(quantities, axis=1), problem.merged.input_size
    kept = np.ones(len(points), dtype=np.bool_)
    for _ in range(int(rng.integers(1, 5))):
        quantity = int(rng.integers(table.shape[1]))
        cut = float(rng.choice(table[kept, quantity]))
        below = table[:, quantity] <= cut
        # Points within rounding errors of a real cut are left out: they are on both sides, or on either.
        near = ~zonotope.whole[quantity] & (np.abs(table[:, quantity] - cut) <= 1e-9)
        side = int((kept & ~near & ~below).sum() > (kept & ~near & below).sum())
        chosen = kept & ~near & (~below if side else below)
        if not chosen.any():
            continue
        part, kept = splitter.split(part, inputs + quantity, cut)[side], chosen
    return part, points[kept]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_corners_hold_the_graph_of_every_activation(seed: int) -> None:
    problem, rng = any_pair(seed), np.random.default_rng(seed)
    zonotope = Zonotope(problem)
    part, points = decided(problem, zonotope, rng, sample(rng, problem, 400))
    limits = Splitter(problem.domain, zonotope.whole).limits([part])
    trace = zonotope.trace(problem.domain.root, limits)
    assert not trace.empty[0]
    for layer, (a, v, h, z) in zip(trace.layers, executed_values(problem, points), strict=True):
        for _ in range(4):
            p, r, y, w = rng.normal(size=(4, a.shape[1], 1)) * rng.choice([0.0, 1.0, 10.0], size=(4, 1, 1))
            best, size = Corners.of(layer).most(p, r, y, w)
            value = p[:, 0] * h + r[:, 0] * z - y[:, 0] * a - w[:, 0] * v
            assert (value <= best[:, 0] + 1e-9 * (1 + size[:, 0])).all()
    assert (executed(problem, points) <= zonotope.upper(problem.domain.root, limits)[0] + 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_any_multipliers_give_a_bound(seed: int, scale: float) -> None:
    problem, rng = any_pair(seed), np.random.default_rng(seed)
    zonotope = Zonotope(problem)
    part, points = decided(problem, zonotope, rng, sample(rng, problem, 400))
    limits = Splitter(problem.domain, zonotope.whole).limits([part])
    trace = zonotope.trace(problem.domain.root, limits)
    total = len(zonotope.whole)
    count = int(rng.integers(0, 12)) if total else 0
    weights = scale * rng.normal(size=count)
    multipliers = np.zeros((total, 1))
    multipliers[rng.integers(max(total, 1), size=count), 0] = weights
    values = executed(problem, points)
    for objective in range(values.shape[1]):
        upper = dual_upper(problem, trace, objective, multipliers)
        assert (values[:, objective] <= upper[0]).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_planes_give_a_bound(seed: int) -> None:
    problem, rng = any_pair(seed), np.random.default_rng(seed)
    zonotope = Zonotope(problem)
    part, points = decided(problem, zonotope, rng, sample(rng, problem, 400))
    limits = Splitter(problem.domain, zonotope.whole).limits([part])
    given = rewrite(problem, zonotope, problem.domain.root)[1]
    for planes in (given, given + rng.normal(size=given.shape), rng.normal(size=(len(given), PLANES))):
        assert (executed(problem, points) <= rewritten(problem, zonotope, limits, planes)).all()


def test_rewriting_is_tighter_where_networks_are_deep() -> None:
    rng = np.random.default_rng(0)
    network = float_network(rng, [6, *[12] * 8, 2], (0.0, np.inf))
    problem = Problem.create(network, quantized(rng, network, "tflm"), box(-0.1, 0.1, 6), "codes")
    zonotope = Zonotope(problem)
    root = problem.domain.root
    upper, planes = rewrite(problem, zonotope, root)
    assert upper.max() < 0.8 * zonotope.upper(root).max()
    assert np.array_equal(rewritten(problem, zonotope, None, planes), upper[0])


def test_a_graph_whose_branches_meet_again_is_bounded() -> None:
    rng = np.random.default_rng(3)
    problem = Problem.create(*residual_pair(rng), box(-0.4, 0.5, 3))
    upper = Zonotope(problem).upper(problem.domain.root)[0]
    values = executed(problem, sample(rng, problem, 20_000)).max(axis=0)
    assert (values <= upper).all()
    assert upper.max() <= 3 * values.max()


def test_a_batch_does_not_change_a_bound() -> None:
    problem = some_pair(8, sizes=[3, 4, 1])
    cubes = halved(problem, np.random.default_rng(0), 5)
    together = Zonotope(problem).upper(cubes)
    for row in range(len(cubes)):
        alone = Zonotope(problem).upper(cubes.select(slice(row, row + 1)))[0]
        assert together[row] == pytest.approx(alone, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("kind", ["real", "codes", "continuous"])
def test_the_bounds_are_of_the_order_of_the_prover_s(kind: str) -> None:
    ratios = []
    for seed in range(60):
        problem = some_pair(seed)
        if problem.domain.kind != kind:
            continue
        difference, chosen = differential(problem, problem.domain.root).difference, problem.outputs
        other = max(difference.upper[0, chosen].max(), -difference.lower[0, chosen].min())
        ratios.append(Zonotope(problem).upper(problem.domain.root).max() / other)
    assert np.median(ratios) < 2
    assert np.max(ratios) < 5


def test_equal_networks_differ_by_rounding_errors_only() -> None:
    rng = np.random.default_rng(5)
    network, _ = residual_pair(rng)
    problem = Problem.create(network, perturbed(rng, network, 0.0), box(-1, 1, 3))
    assert Zonotope(problem).upper(problem.domain.root).max() < 1e-12
