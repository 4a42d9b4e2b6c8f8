"""Certificates made up at random: whatever they hold, none proves less than an executed input shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from certificates import Proof
from curve_pairs import smooth_pair
from random_pairs import sample, some_pair

from milpq.certificate import check
from milpq.certificate.check import step_tables
from milpq.certificate.format import BOUND, DUAL, EXECUTED, FORMAT, REWRITTEN
from milpq.certificate.rewriting import PLANES
from milpq.certificate.tree import Part, Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError
from milpq.merge import Problem

CUTS = (-1e15, -1e6, -1.0, -1e-300, 0.0, 1e-9, 1.0, 7.0, 1e6, 2.0**52)
WEIGHTS = (0.0, 1e-300, 1e-17, 1.0, 1e3, 1e17, 1e29)


def forged(problem: Problem, claim: np.ndarray, rng: np.random.Generator) -> Proof:
    """Return a certificate with a random tree for each bound: well formed, with cuts and multipliers of any size."""
    whole = Zonotope(problem).whole
    splitter, inputs = Splitter(problem.domain, whole), problem.merged.input_size
    nodes: list[int] = []
    cuts: list[float] = []
    counts: list[int] = []
    quantities: list[int] = []
    weights: list[float] = []
    planes: list[float] = []

    def grow(part: Part, depth: int) -> None:
        if depth and rng.uniform() < 0.7:
            dimension = int(rng.integers(inputs + len(whole)))
            if dimension < inputs:
                ends = part.box.reshape(4, inputs)[:, dimension]
                several = ends[3] > ends[2]
                cut = float(rng.integers(ends[2], ends[3])) if several else float(rng.choice(ends[:2]))
            else:
                cut = float(rng.choice(CUTS)) * float(rng.choice([1.0, rng.normal()]))
                cut = float(np.rint(cut)) if whole[dimension - inputs] else cut
            try:
                halves = splitter.split(part, dimension, cut)
            except CertificateError:
                halves = None
            if halves is not None:
                nodes.append(dimension)
                cuts.append(cut)
                for half in halves:
                    grow(half, depth - 1)
                return
        kinds = [BOUND, DUAL, DUAL, REWRITTEN, BOUND if problem.domain.kind == "real" else EXECUTED]
        nodes.append(int(rng.choice(kinds)))
        if nodes[-1] == DUAL:
            count = int(rng.integers(0, len(whole) + 1))
            counts.append(count)
            quantities.extend(rng.integers(len(whole), size=count).tolist() if count else [])
            weights.extend((rng.choice(WEIGHTS, size=count) * rng.normal(size=count)).tolist())
        if nodes[-1] == REWRITTEN:
            size = PLANES * len(whole)
            planes.extend((rng.choice(WEIGHTS, size=size) * rng.normal(size=size)).tolist())

    for _ in claim:
        grow(splitter.root(), 4)
    metadata = {
        "format": FORMAT,
        "problem": problem.hash(),
        "target": "",
        "domain": problem.domain.kind,
        "float_side": "file",
    }
    tensors = {
        "region.lower": problem.domain.box.lower,
        "region.upper": problem.domain.box.upper,
        "outputs": problem.outputs,
        "upper": claim,
        "tree.objective": np.arange(len(claim), dtype=np.int32),
        "tree.node": np.array(nodes, dtype=np.int32),
        "tree.cut": np.array(cuts, dtype=np.float64),
        "dual.count": np.array(counts, dtype=np.int32),
        "dual.quantity": np.array(quantities, dtype=np.int32),
        "dual.weight": np.array(weights, dtype=np.float64),
        "plane.weight": np.array(planes, dtype=np.float32),
        "steps": step_tables(problem),
    }
    return Proof(metadata, tensors)


def test_no_certificate_proves_less_than_is_attained(tmp_path: Path) -> None:
    accepted = refused = 0
    for seed in range(60):
        make = smooth_pair if seed % 4 == 3 else some_pair
        rng, problem = np.random.default_rng(seed), make(seed, sizes=[2, 4, 2])
        difference, error = problem.differences(sample(rng, problem, 300))
        seen = np.concatenate([difference - error, -difference - error], axis=1).max(axis=0)
        for false in (True, False):
            # One bound a little too low, the others as loose as it takes to be accepted.
            claim = seen + 1e60
            if false:
                k = int(rng.integers(len(claim)))
                claim[k] = seen[k] - 10.0 ** -rng.integers(1, 14) * (1 + abs(seen[k]))
            path = forged(problem, claim, rng).write(tmp_path / "forged.milpq")
            try:
                check(path, problem.float_network, problem.quantized)
            except CertificateError:
                refused += 1
            else:
                accepted += 1
                assert not false, f"seed {seed}: a false claim was accepted"
    assert accepted > 20
    assert refused >= 60
