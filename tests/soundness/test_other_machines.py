"""A certificate written on one machine is proved on another, whose products are summed up in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from certificates import Proof, codes_problem, decide, decided_problem, exact_maximum, prove, real_problem
from curve_pairs import smooth_pair
from image_pairs import image_pair
from other_machine import Reordered, elsewhere
from random_pairs import box, float_network, perturbed, quantized, some_pair

from milpq.certificate import check
from milpq.certificate.format import REWRITTEN
from milpq.certificate.forms import less
from milpq.certificate.zonotope import Zonotope
from milpq.errors import UnprovenError
from milpq.merge import Problem
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.planes import rewrite
from milpq.search.proof import DUAL_SLACK, SLACK, Tree, raised, sizes, write


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checker calculate as another machine does."""
    module = __import__("milpq.certificate.check", fromlist=["check"])
    rebuilt = module._problem
    monkeypatch.setattr(module, "_problem", lambda *arguments: elsewhere(rebuilt(*arguments)))


def deep(seed: int, *, real: bool) -> Problem:
    rng = np.random.default_rng(seed)
    network = float_network(rng, [6, *[12] * 8, 2], (0.0, np.inf))
    if real:
        return Problem.create(network, perturbed(rng, network, 1e-5), box(-0.1, 0.1, 6))
    return Problem.create(network, quantized(rng, network, "tflm"), box(-0.1, 0.1, 6), "codes")


def test_the_other_machine_gives_other_sums() -> None:
    problem = deep(0, real=True)
    here, there = Zonotope(problem), Zonotope(elsewhere(problem))
    assert any(isinstance(term.float_matrix, Reordered) for term in elsewhere(problem).merged.nodes[0].terms)
    assert (here.upper(problem.domain.root) != there.upper(problem.domain.root)).all()


@pytest.mark.parametrize("kind", ["clamps", "curves", "deep", "images"])
def test_what_is_left_for_other_machines_is_six_times_what_they_need(kind: str, tmp_path: Path) -> None:
    for seed in range(2 if kind == "deep" else 12):
        match kind:
            case "clamps":
                problem = some_pair(seed)
            case "curves":
                problem = smooth_pair(seed)
            case "deep":
                problem = deep(seed, real=bool(seed))
            case _:
                kinds = ("residual", "max-pool", "average-pool", "tanh")
                problem = image_pair(seed, tmp_path, kinds[seed % 4], radius=1)
        root = problem.domain.root
        trace = Zonotope(problem).trace(root, None)
        upper = Zonotope(problem).bounds(trace)
        margin = raised(upper, sizes(problem, trace), SLACK) - upper
        assert (Zonotope(elsewhere(problem)).upper(root) <= upper + margin / 6).all()


def whole(problem: Problem, path: Path) -> Path:
    """Write a certificate of one leaf with planes."""
    zonotope, root = Zonotope(problem), problem.domain.root
    upper, planes = rewrite(problem, zonotope, root)
    tree = Tree(Certifier(problem)._splitter.root(), -1, upper.shape[1])
    claim = raised(upper, sizes(problem, zonotope.trace(root, None)), DUAL_SLACK)[0]
    tree.settle(0, REWRITTEN, claim, planes=planes)
    write(path, problem, [tree], claim, None, dequantized=False)
    return path


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize(
    "kind", ["executed", "bounded", "multipliers", "rewritten", "rewritten deep", "rewritten curves"]
)
def test_a_claim_holds_on_another_machine(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "proof.milpq"
    match kind:
        case "executed":
            problem = codes_problem()
            prove(problem, exact_maximum(problem), path)
        case "bounded":
            problem = real_problem()
            found = Certifier(problem).run(
                0.7 * float(Zonotope(problem).upper(problem.domain.root).max()), Budget(20.0)
            )
            write(path, problem, found.trees, found.upper, None, dequantized=False)
        case "multipliers":
            problem = decided_problem()
            root = float(Zonotope(problem).upper(problem.domain.root).max())
            decide(problem, 0.02 * root + 0.98 * exact_maximum(problem), path)
        case "rewritten":
            problem = codes_problem(1)
            whole(problem, path)
        case "rewritten deep":
            problem = deep(2, real=True)
            whole(problem, path)
        case _:
            problem = smooth_pair(3)
            whole(problem, path)
    verified = check(path, problem.float_network, problem.quantized)
    assert verified.leaves[kind.split(maxsplit=1)[0]] > 0
    assert any(
        isinstance(node.terms[0].float_matrix, Reordered) for node in verified.problem.merged.nodes[:1]
    )
    # That another machine calculates makes no false claim true.
    proof = Proof.read(path)
    proof.tensors["upper"] = (
        proof.tensors["upper"] * (1 - 1e-6) if kind != "executed" else 0.9 * proof.tensors["upper"]
    )
    with pytest.raises(UnprovenError):
        check(proof.write(path), problem.float_network, problem.quantized)


def test_of_nearly_equal_numbers_every_machine_chooses_the_second() -> None:
    number = np.array([1e-3, 1.0, 7e5])
    for error in (-1e-12, 0.0, 1e-12):
        assert not less(number * (1 + error), number).any()
        assert not less(number, number * (1 + error)).any()
    assert less(0.999 * number, number).all()
