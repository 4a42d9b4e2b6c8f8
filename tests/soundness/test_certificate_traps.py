"""The traps of the field, set for the checker: its bounds hold in exact arithmetic, and false claims stay unproven.

References: Zombori et al., *Fooling a Complete Neural Network Verifier*, ICLR 2021.  Jia and Rinard, *Exploiting
Verified Neural Networks via Floating Point Numerical Error*, SAS 2021.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from certificates import Proof, exact_maximum, exact_objectives, executed_upper, prove
from random_pairs import all_codes, box, float_network, quantized
from test_float_traps import HUGE, TINY, chain, unit_points

from milpq.certificate import check
from milpq.certificate.slopes import dual_upper
from milpq.certificate.stairs import Staircase
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError, UnprovenError
from milpq.merge import Cubes, MergedAffine, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerInput, IntegerNetwork
from milpq.network.nodes import Affine, IntegerAffine, Step, Term
from milpq.region.box import Box
from milpq.rounding.step import StepFunction


def assert_bounded(first: FloatNetwork, second: FloatNetwork, region: Box, points: np.ndarray) -> np.ndarray:
    """Check the zonotope of a pair, and the forms of its float side, against fractions."""
    problem = Problem.create(first, second, region)
    middle = np.clip(0.5 * region.lower + 0.5 * region.upper, region.lower, region.upper)
    parts = [problem.domain.root, problem.domain.cubes_of_boxes(region.lower[None], middle[None])]
    cubes = Cubes.concatenate(parts)
    zonotope = Zonotope(problem)
    upper = zonotope.upper(cubes)
    form = zonotope.trace(cubes, None).output.a
    ends = [end.T for end in form.ends(form.spread())]
    outputs = problem.merged.output_size
    upper = np.minimum(upper, backwards(problem, zonotope, cubes))
    for x in points:
        a, v = first.evaluate_exact(x), second.evaluate_exact(x)
        inside = (x >= cubes.lower).all(axis=1) & (x <= cubes.upper).all(axis=1)
        for cube in np.flatnonzero(inside):
            for j in range(outputs):
                assert v[j] - a[j] <= Fraction(upper[cube, j])
                assert a[j] - v[j] <= Fraction(upper[cube, outputs + j])
                assert Fraction(ends[0][cube, j]) <= a[j] <= Fraction(ends[1][cube, j])
    return upper


def backwards(problem: Problem, zonotope: Zonotope, cubes: Cubes) -> np.ndarray:
    """Return the least bounds that a few multipliers give, those among them that pass the whole functional on."""
    trace = zonotope.trace(cubes, None)
    best = np.full((len(cubes), 2 * problem.merged.output_size), np.inf)
    rng = np.random.default_rng(0)
    for objective in range(best.shape[1]):
        passed = passed_on(problem, objective)
        for weights in (passed, 0 * passed, passed * rng.uniform(0, 1, len(passed))):
            multipliers = np.tile(weights[:, None], (1, len(cubes)))
            found = dual_upper(problem, trace, objective, multipliers)
            best[:, objective] = np.minimum(best[:, objective], found)
    return best


def passed_on(problem: Problem, objective: int) -> np.ndarray:
    """Return the multipliers that rewrite a chain of layers as if no activation did anything."""
    nodes, outputs = problem.merged.nodes, problem.merged.output_size
    w = np.zeros(outputs)
    w[objective % outputs] = 1.0 if objective < outputs else -1.0
    y, found = -w, []
    for node in reversed(nodes):
        if isinstance(node, MergedAffine):
            y, w = node.terms[0].float_matrix.T @ y, node.terms[0].quantized_matrix.T @ w
        else:
            found.insert(0, np.concatenate([y, w]))
    return np.concatenate([np.zeros(0), *found])


def test_a_sum_that_float64_absorbs() -> None:
    # In exact arithmetic relu(1e17 + x) − relu(1e17) = x; in float64 it is 0.
    steps = ([[1.0], [0.0]], [HUGE, HUGE]), ([[1.0, -1.0]], [0.0])
    constant = ([[0.0], [0.0]], [HUGE, HUGE]), ([[1.0, -1.0]], [0.0])
    points = np.array([[0.0], [0.5], [1.0]])
    upper = assert_bounded(chain(*steps), chain(*constant), Box([0.0], [1.0]), points)
    assert upper[0, 1] >= 1


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1)])
def test_coefficients_that_float64_absorbs(order: tuple[int, ...]) -> None:
    # Backwards, the coefficient of x is 1e17 + 1 − 1e17: 0 in float64 in some orders.
    first = np.array([[HUGE], [1.0], [-HUGE]])[list(order)]

    def network(weights: np.ndarray) -> FloatNetwork:
        nodes = (
            Affine("first", (Term(0, weights),), np.zeros(3)),
            Affine("sum", (Term(1, np.ones((1, 3))),), np.zeros(1)),
        )
        return FloatNetwork(1, nodes, 2)

    points = np.array([[-1.0], [0.0], [0.5], [1.0]])
    assert_bounded(network(first), network(0 * first), Box([-1.0], [1.0]), points)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5, 1.0])
def test_a_backdoor_behind_huge_and_tiny_weights(shift: float) -> None:
    def network(last: float) -> FloatNetwork:
        return chain(
            ([[HUGE, 1.0], [TINY, 0.0]], [shift, 0.0]),
            ([[TINY, 0.0], [0.0, HUGE], [TINY, -HUGE]], [0.0, 0.0, 0.0]),
            ([[1.0, -1.0, last]], [0.0]),
        )

    region = Box([-1.0, -1.0], [1.0, 0.7])
    points = unit_points(np.random.default_rng(0), region, 40)
    assert_bounded(network(1.0), network(1.0 + 2.0**-40), region, points)


@pytest.mark.parametrize("clamp", [(0.0, np.inf), (0.0, 6.0), (-0.7, 0.9)])
@pytest.mark.parametrize("seed", range(12))
def test_weights_of_every_magnitude(seed: int, clamp: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) * 10.0 ** rng.integers(-17, 18, size=shape)

    layers = [(numbers(4, 2), numbers(4)), (numbers(3, 4), numbers(3)), (numbers(2, 3), numbers(2))]
    changes = [0.0, 2.0**-52, 1e-3]
    changed = [tuple(part * (1 + rng.choice(changes, size=part.shape)) for part in layer) for layer in layers]
    radius = 10.0 ** rng.integers(-17, 18)
    region = Box(np.full(2, -radius), np.full(2, 0.3 * radius))
    assert_bounded(
        chain(*layers, clamp=clamp), chain(*changed, clamp=clamp), region, unit_points(rng, region, 12)
    )


@pytest.mark.parametrize("small", [1e-160, 1e-200, 5e-324])
def test_products_that_underflow(small: float) -> None:
    layers = ([[small, 1.0], [-small, small]], [0.0, small]), ([[small, -small], [1.0, 1e150]], [0.0, small])
    moved = (
        ([[2 * small, 1.0], [-small, small]], [small, small]),
        ([[small, -small], [1.0, 1e150]], [0.0, 0.0]),
    )
    for radius in (1.0, small):
        region = Box([-radius, -radius], [radius, radius])
        assert_bounded(
            chain(*layers), chain(*moved), region, unit_points(np.random.default_rng(0), region, 12)
        )


def test_numbers_that_overflow_are_refused() -> None:
    layers = ([[1e200]], [0.0]), ([[1e200]], [0.0])
    moved = ([[1.5e200]], [0.0]), ([[1e200]], [0.0])
    problem = Problem.create(chain(*layers), chain(*moved), Box([-1.0], [1.0]))
    with np.errstate(all="ignore"), pytest.raises(CertificateError, match="overflow"):
        Zonotope(problem).upper(problem.domain.root)


def test_a_kink_met_exactly() -> None:
    for sign in (-1.0, 1.0):
        layers = ([[1.0], [-1.0]], [sign, 0.0]), ([[1.0, 1.0]], [0.0])
        moved = ([[1.0], [-1.0]], [sign * (1 + 2.0**-52), 0.0]), ([[1.0, 1.0]], [0.0])
        points = np.array([[-1.0], [0.0], [2.0**-60]])
        assert_bounded(chain(*layers), chain(*moved), Box([-1.0], [2.0**-60]), points)


def shifting(thresholds: list[int]) -> Problem:
    """Return an identity pair of one input whose integer side counts the thresholds that 32767 + level reaches."""
    one = np.ones(1)
    step = StepFunction(
        np.array([thresholds]), np.arange(len(thresholds) + 1)[None], np.zeros(1, dtype=np.int64)
    )
    nodes = (
        IntegerAffine("acc", (Term(0, np.ones((1, 1))),), np.array([32767]), 2.0**-16 * one),
        Step("shift", 1, step, one),
    )
    network = IntegerNetwork(IntegerInput(2.0**-16 * one, 0, -8, 8, 2.0**-16 * one, None), nodes, 2, "test")
    affine = Affine("acc", (Term(0, np.ones((1, 1))),), np.array([32767 * 2.0**-16]))
    return Problem.create(FloatNetwork(1, (affine,), 1), network, box(-(2.0**-13), 2.0**-13, 1))


def test_a_shift_by_16_next_to_its_tie(tmp_path: Path) -> None:
    # (32767 + 2^15) >> 16 is 0 and (32768 + 2^15) >> 16 is 1: a margin of 1e-4 codes would cut off either.
    problem = shifting([32768])
    truth = [float(value) for value in exact_objectives(problem)]
    assert truth == [0.5, 32767 / 65536]
    upper = Zonotope(problem).upper(problem.domain.root)[0]
    assert (upper >= truth).all()
    assert (upper <= np.array(truth) + 1e-3).all()
    for level, q in ((0, 0), (1, 1)):
        row = np.array([[level]], dtype=np.int64)
        leaf = problem.domain.cubes_of_levels(row, row)
        exact = q - (32767 + level) / 65536
        assert Zonotope(problem).upper(leaf)[0] == pytest.approx([exact, -exact], abs=1e-12)
        assert executed_upper(problem, [exact, -exact], leaf)[0].tolist() == [exact, -exact]
    proof = Proof.read(prove(problem, 0.5, tmp_path / "proof.milpq"))
    assert check(proof.write(tmp_path / "proof.milpq"), problem.float_network, problem.quantized).upper == 0.5
    # Rounding half away from zero and half up agree here; rounding half down does not.
    other = shifting([32769])
    with pytest.raises(CertificateError, match="another problem"):
        check(tmp_path / "proof.milpq", other.float_network, other.quantized)
    proof.metadata["problem"] = other.hash()
    assert proof.tensors["steps"].tolist() == [32768, 0, 1]
    proof.tensors["steps"][0] = 32769
    with pytest.raises(UnprovenError):
        check(proof.write(tmp_path / "other.milpq"), other.float_network, other.quantized)


def test_the_staircase_of_a_step_holds_every_accumulator() -> None:
    rng = np.random.default_rng(0)
    for target in ("tflm", "litert-ref", "ort", "pow2-half-even"):
        network = float_network(rng, [2, 6, 1], (0.0, np.inf))
        other = quantized(rng, network, target, stretch=0.5)
        problem = Problem.create(network, other, box(-0.5, 0.5, 2), "codes")
        for node, (lower, upper) in zip(problem.merged.nodes, other.reachable[1:], strict=True):
            if getattr(node, "step", None) is None:
                continue
            stairs = Staircase.of(node)
            low, high = (end.min() for end in (lower, upper))
            for accumulator in rng.integers(low - 5, high + 5, size=300).tolist():
                level = node.step(np.full(node.size, accumulator))
                for neuron in range(node.size):
                    v = Fraction(accumulator) * Fraction(float(node.scale_in[neuron]))
                    bottom, top = Fraction(stairs.psi.lower[neuron, 0]), Fraction(stairs.psi.upper[neuron, 0])
                    residue = Fraction(float(node.scale_out[neuron])) * int(level[neuron]) - min(
                        max(v, bottom), top
                    )
                    assert Fraction(stairs.low[neuron, 0]) <= residue <= Fraction(stairs.high[neuron, 0])


def test_an_output_that_the_target_does_not_round(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    network = float_network(rng, [2, 4, 1], (0.0, np.inf))
    raw, rounded = (
        Problem.create(
            network,
            quantized(np.random.default_rng(3), network, "tflm", raw_output=raw),
            box(-0.5, 0.5, 2),
            "codes",
        )
        for raw in (True, False)
    )
    goals = [exact_maximum(problem) for problem in (raw, rounded)]
    assert goals[0] < goals[1]
    for problem, goal in zip((raw, rounded), goals, strict=True):
        path = prove(problem, goal, tmp_path / "proof.milpq")
        assert check(path, problem.float_network, problem.quantized).upper == goal
    # The bound of the network that does not round is no bound of the one that does.
    proof = Proof.read(path)
    proof.tensors["upper"] = np.full(2, goals[0])
    with pytest.raises(UnprovenError):
        check(proof.write(path), rounded.float_network, rounded.quantized)


def test_execution_settles_ties_of_float64_in_fractions() -> None:
    # f is a third of the input as float64 rounds it, so the difference of 1/3 is off by less than an ulp.
    third = FloatNetwork(1, (Affine("third", (Term(0, np.array([[1 / 3]])),), np.zeros(1)),), 1)
    step = StepFunction(np.zeros((1, 0)), np.array([[0]]), np.zeros(1, dtype=np.int64))
    accumulate = IntegerAffine("none", (Term(0, np.zeros((1, 1))),), np.zeros(1), np.ones(1))
    nodes = accumulate, Step("step", 1, step, np.ones(1))
    other = IntegerNetwork(IntegerInput(np.ones(1), 0, 0, 3, np.ones(1), None), nodes, 2, "test")
    problem = Problem.create(third, other, box(0.0, 3.0, 1))
    exact = Fraction(1 / 3) * 3
    claim = float(np.nextafter(float(exact), np.inf)) if Fraction(float(exact)) < exact else float(exact)
    proved = executed_upper(problem, [0.0, claim], problem.domain.root)
    assert proved[0, 1] <= claim
    below = np.nextafter(claim, 0.0)
    assert executed_upper(problem, [0.0, below], problem.domain.root)[0, 1] > below
    assert all_codes(problem).shape == (4, 1)


def test_what_a_false_claim_of_executed_codes_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fractions are computed up to the first code that surely is above the claim, not of all of them.
    asked: list[int] = []
    enclose = FloatNetwork.enclose

    def counted(self: FloatNetwork, x: np.ndarray) -> object:
        asked.append(1)
        return enclose(self, x)

    monkeypatch.setattr(FloatNetwork, "enclose", counted)
    rng = np.random.default_rng(2)
    network = float_network(rng, [2, 4, 1], (0.0, np.inf))
    other = quantized(rng, network, "tflm")
    problem = Problem.create(network, other, box(-0.5, 0.5, 2), "codes")
    truth = [float(value) for value in exact_objectives(problem)]
    asked.clear()
    for claim in ([value - 1.0 for value in truth], [np.nextafter(value, -np.inf) for value in truth]):
        assert (executed_upper(problem, claim, problem.domain.root)[0] > claim).any()
    assert 0 < len(asked) < 20


def test_real_inputs_of_a_code_at_the_edge_of_a_leaf_count() -> None:
    # A leaf that holds one point of a cell bounds that point, and none of the codes that are read outside of it.
    rng = np.random.default_rng(1)
    network = float_network(rng, [2, 4, 1], (0.0, np.inf))
    other = quantized(rng, network, "tflm")
    problem = Problem.create(network, other, box(-0.5, 0.5, 2), "continuous")
    root, quantizer = problem.domain.root, other.input.quantizer
    for x in rng.uniform(-0.5, 0.5, size=(20, 2)):
        level = problem.quantized_levels(x[None])
        edge = np.clip(quantizer.cell(level)[int(rng.integers(2))], -0.5, 0.5)
        level = problem.quantized_levels(edge)
        difference, error = problem.differences(edge)
        leaf = Cubes(edge, edge, root.level_lower, root.level_upper)
        for claim in (-1e9, 1e9):  # with what is known of the leaf, and of each cell alone
            upper = executed_upper(problem, [claim, claim], leaf)[0]
            assert (upper >= np.concatenate([difference - error, -difference - error], axis=1)[0]).all()
        far = Cubes(edge, edge, level + 5, level + 6)
        assert (executed_upper(problem, [0.0, 0.0], far) == -np.inf).all()
