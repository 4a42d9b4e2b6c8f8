from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_pairs import box, float_network, perturbed, quantized

from milpq.bounds.classes import CodeClasses, has_classes
from milpq.merge import Problem
from milpq.search.bounding import Zonotope
from milpq.search.branch import Batch, Branching
from milpq.search.codes import levels_of
from milpq.search.pool import WitnessPool


def pair(seed, sizes=(2, 6, 5, 3), **options):
    rng = np.random.default_rng(seed)
    network = float_network(rng, list(sizes), (0.0, np.inf))
    return Problem.create(
        network, quantized(rng, network, "tflm", **options), box(-0.4, 0.4, sizes[0]), "codes"
    )


def classes(network, levels):
    affine, step = network.nodes[:2]
    return len(
        np.unique(step.function((levels @ affine.terms[0].matrix.T).astype(np.int64) + affine.bias), axis=0)
    )


def random_cubes(problem, rng, count):
    root = problem.domain.root
    ends = np.sort(
        rng.integers(root.level_lower, root.level_upper + 1, size=(2, count, root.lower.shape[1])), axis=0
    )
    return problem.domain.cubes_of_levels(*ends)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from(["tflm", "pow2-floor", "ort"]),
)
def test_the_image_is_that_of_executing_every_code(seed, inputs, bits, target):
    rng = np.random.default_rng(seed)
    network = float_network(rng, [inputs, *rng.integers(1, 9, 2).tolist(), 2], (0.0, np.inf))
    other = quantized(rng, network, target, bits=bits, raw_output=bool(rng.integers(2)))
    problem = Problem.create(network, other, box(-0.3, 0.3, inputs), "codes")
    cubes = random_cubes(problem, rng, 5)
    image = CodeClasses(other).image(cubes)
    for i in range(len(cubes)):
        one = cubes.select(slice(i, i + 1))
        _, levels = levels_of(one, 0, int(np.prod(one.level_upper - one.level_lower + 1)))
        attained = other.execute(levels)
        outputs = attained * other.output_scale
        if np.isinf(image.upper[i]).any():
            assert (image.lower[i] == -np.inf).all() and (image.upper[i] == np.inf).all()
            assert classes(other, levels) > min(1 << 14, 32 + int(0.6 * len(levels)))
            continue
        for bound, truth in ((image.lower[i], outputs.min(axis=0)), (image.upper[i], outputs.max(axis=0))):
            assert np.allclose(bound, truth, rtol=1e-14, atol=1e-290)
        # An accumulator times its scale is no float64 number.
        for j, scale in enumerate(other.output_scale.tolist()):
            least, most = (Fraction(scale) * int(end) for end in (attained[:, j].min(), attained[:, j].max()))
            assert Fraction(image.lower[i, j]) <= least <= most <= Fraction(image.upper[i, j])


@pytest.mark.parametrize(
    ("hidden", "bits", "most", "known"),
    [(6, 2, 60, True), (6, 4, 3, False), (6, 8, 1 << 14, True), (60, 8, 1 << 14, False)],
)
def test_cubes_of_too_many_classes_are_given_up(hidden, bits, most, known):
    problem = pair(0, (2, hidden, 5, 3), bits=bits)
    image = CodeClasses(problem.quantized, most).image(problem.domain.root)
    if known:
        assert np.isfinite(image.lower).all() and np.isfinite(image.upper).all()
    else:
        assert (image.lower == -np.inf).all() and (image.upper == np.inf).all()


def test_cubes_that_do_not_fit_in_one_go(monkeypatch):
    problem = pair(1)
    cubes = random_cubes(problem, np.random.default_rng(0), 50)
    whole = CodeClasses(problem.quantized, 5000).image(cubes)
    monkeypatch.setattr("milpq.bounds.classes._ROOM", 1)
    parts = CodeClasses(problem.quantized, 5000).image(cubes)
    assert np.array_equal(whole.lower, parts.lower)
    assert np.array_equal(whole.upper, parts.upper)


def test_classes_tighten_what_undecided_steps_leave_open():
    problem = pair(2, bits=4)
    lower = problem.domain.root.level_lower + np.array([[0, 0], [5, 2], [2, 7], [8, 8]])
    cubes = problem.domain.cubes_of_levels(lower, lower + 3)
    threshold = np.full(6, 1e-3)
    batch = Batch(cubes, np.full((4, 6), np.inf), None, threshold, WitnessPool.empty(problem))
    bound = Zonotope()(problem, cubes, threshold).upper
    found = Branching(problem, Zonotope(), 0)(batch)
    assert len(found.cubes) == 4
    assert (found.upper <= bound).all()
    assert (found.upper < 0.7 * bound).any()


def test_what_has_classes():
    problem = pair(3)
    assert has_classes(problem.quantized)
    rng = np.random.default_rng(0)
    assert not has_classes(perturbed(rng, problem.float_network, 0.1))
    assert problem.quantized.is_cut(2)
    assert not problem.quantized.is_cut(problem.quantized.output + 1)
