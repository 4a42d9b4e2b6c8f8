"""Certificates to tamper with: small problems, their proofs, and what is true of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from random_pairs import all_codes, box, float_network, perturbed, quantized
from safetensors import safe_open

from milpq.bounds import differential
from milpq.certificate.execution import Execution
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Cubes, Problem
from milpq.milp.backends import choose_backend
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.decider import Decider
from milpq.search.enumerate import enumerate_codes
from milpq.search.proof import write, write_certificate


@dataclass
class Proof:
    """The content of a certificate, to be changed at will and signed again."""

    metadata: dict[str, str]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Proof:
        with safe_open(str(path), framework="numpy") as file:
            metadata = {key: value for key, value in file.metadata().items() if key != "digest"}
            return cls(metadata, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def copy(self) -> Proof:
        return Proof(dict(self.metadata), {name: array.copy() for name, array in self.tensors.items()})

    def write(self, path: Path) -> Path:
        write_certificate(path, self.metadata, self.tensors)
        return path


def codes_problem(seed: int = 0, outputs: list[int] | None = None) -> Problem:
    """Return a problem on codes whose proof is a tree with leaves of both kinds."""
    rng = np.random.default_rng(seed)
    network = float_network(rng, [2, 5, 2], (0.0, np.inf))
    other = quantized(rng, network, "tflm", input_codes=(-64, 63))
    return Problem.create(network, other, box(-3.0, 3.0, 2), "codes", outputs)


def decided_problem() -> Problem:
    """Return a problem of many inputs with few codes each: too many together for the leaves of a tree to execute."""
    rng = np.random.default_rng(5)
    network = float_network(rng, [12, 6, 2], (0.0, np.inf))
    other = quantized(rng, network, "tflm", input_codes=(-1, 1))
    return Problem.create(network, other, box(-3.0, 3.0, 12), "codes")


def real_problem() -> Problem:
    """Return a problem between two real networks whose proof is a tree of bounded leaves."""
    rng = np.random.default_rng(4)
    network = float_network(rng, [2, 6, 1], (0.0, np.inf))
    return Problem.create(network, perturbed(rng, network, 0.02), box(-1.0, 1.0, 2))


def decide(problem: Problem, goal: float, path: Path) -> Path:
    """Write a certificate whose leaves are decided and have multipliers."""
    backend = choose_backend("highs").backend
    bounds = differential(problem, problem.domain.root)
    trees = Decider(problem, Zonotope(problem), backend, bounds).run(goal, Budget(60.0), None)
    upper = np.concatenate([tree.upper for tree in trees])
    assert upper.max() <= goal
    write(path, problem, trees, upper, None, dequantized=False)
    return path


def prove(problem: Problem, goal: float, path: Path) -> Path:
    """Write the certificate of a goal that can be reached."""
    found = Certifier(problem).run(goal, Budget(60.0))
    assert found.complete
    write(path, problem, found.trees, found.upper, None, dequantized=False)
    return path


def exact_maximum(problem: Problem) -> float:
    """Return the largest difference over the codes, as the search settles it in fractions."""
    return float(enumerate_codes(problem).upper.max())


def exact_objectives(problem: Problem) -> list[Fraction]:
    """Return the largest ``f_q − f`` and then ``f − f_q`` of each output, all codes executed in fractions."""
    points = all_codes(problem)
    levels = problem.quantized.execute(problem.quantized_levels(points))
    scale = [Fraction(float(value)) for value in problem.quantized.output_scale]
    best: list[Fraction] = []
    rows = [
        [scale[j] * int(level[j]) - exact[j] for j in problem.outputs.tolist()]
        for level, exact in zip(
            levels, (problem.float_network.evaluate_exact(x) for x in points), strict=True
        )
    ]
    for sign in (1, -1):
        best += [max(sign * row[j] for row in rows) for j in range(len(problem.outputs))]
    return best


def executed_upper(problem: Problem, claim: list[float], leaves: Cubes) -> np.ndarray:
    """Return what executing the codes of leaves proves."""
    return Execution(problem, Zonotope(problem), np.array(claim)).upper(leaves)
