"""Every operator that networks are executed with is certified end to end: proved, checked, and refused once it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from certificates import Proof
from curve_pairs import smooth_pair
from image_pairs import CURVES, KINDS, image_pair
from random_pairs import sample, some_pair

import milpq
from milpq.certificate.format import BOUND, EXECUTED
from milpq.errors import CertificateError, UnprovenError
from milpq.merge import Problem
from milpq.network.dynamic_network import DynamicLayer, DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.rounding.targets import get_target
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.proof import write


def attained(problem: Problem, seed: int) -> np.ndarray:
    """Return what executions show the objectives to be at least, shape (2·chosen,)."""
    difference, error = problem.differences(sample(np.random.default_rng(seed), problem, 3000))
    return np.concatenate([difference - error, -difference - error], axis=1).max(axis=0)


def tampered(proof: Proof, path: Path, problem: Problem, surely: np.ndarray) -> None:
    """Assert that the claim cannot be lowered below what is attained, and that no leaf may miss."""
    lower = proof.copy()
    worst = int(np.argmax(surely))
    lower.tensors["upper"][worst] = np.nextafter(surely[worst], -np.inf)
    with pytest.raises(UnprovenError, match="does not prove its claim"):
        milpq.check(lower.write(path), problem.float_network, problem.quantized)
    less = proof.copy()
    less.tensors["tree.node"] = less.tensors["tree.node"][:-1]
    with pytest.raises(CertificateError, match=r"does not cover the region|is too short"):
        milpq.check(less.write(path), problem.float_network, problem.quantized)


@pytest.mark.parametrize("kind", [*KINDS, *CURVES])
@pytest.mark.parametrize("domain", ["codes", "continuous"])
def test_every_operator_is_certified(kind: str, domain: str, tmp_path: Path) -> None:
    problem, path = (
        image_pair(4, tmp_path, kind, radius=1, domain=domain, moved=5e-4),
        tmp_path / "proof.milpq",
    )
    integer = problem.quantized
    result = milpq.bound(
        problem.float_network, tmp_path / f"{kind}4.tflite", problem.domain.box, target=integer.target,
        input_domain=domain, gap=0.3, time_limit=6.0, jobs=1, certificate=path,
    )  # fmt: skip
    verified = milpq.check(path, problem.float_network, tmp_path / f"{kind}4.tflite")
    assert result.lower <= verified.upper == result.certificate.proved_upper
    surely = attained(problem, 0)
    assert (surely <= verified.objectives).all()
    assert verified.upper <= 3 * result.upper
    tampered(Proof.read(path), path, problem, surely)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("make", [some_pair, smooth_pair], ids=["clamps", "curves"])
def test_random_pairs_are_certified(make, seed: int, tmp_path: Path) -> None:
    problem, path = make(seed), tmp_path / "proof.milpq"
    root = Certifier(problem).run(np.inf, Budget(10.0)).upper.max()
    surely = attained(problem, seed)
    found = Certifier(problem).run(max(0.5 * root, 1.2 * surely.max()), Budget(1.5))
    write(path, problem, found.trees, found.upper, None, dequantized=False)
    verified = milpq.check(path, problem.float_network, problem.quantized)
    assert (surely <= verified.objectives).all()
    assert verified.upper < root or found.leaves == 1
    tampered(Proof.read(path), path, problem, surely)


@pytest.mark.parametrize("symbols", [True, False], ids=["forms", "intervals"])
@pytest.mark.parametrize("kind", ["residual", "max-pool", "mean", "tanh"])
def test_networks_too_large_for_programs_are_certified_whole(
    kind: str, symbols: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not symbols:
        monkeypatch.setattr("milpq.certificate.zonotope._MOST_BYTES", 100)
    monkeypatch.setattr("milpq.search.certifier._MOST_NEURONS", 0)
    problem, path = image_pair(5, tmp_path, kind, radius=1), tmp_path / "proof.milpq"
    found = Certifier(problem).run(0.0, Budget(10.0))
    assert not found.complete and found.leaves == 1
    write(path, problem, found.trees, found.upper, None, dequantized=False)
    verified = milpq.check(path, problem.float_network, problem.quantized)
    assert verified.leaves["rewritten"] == 1
    surely = attained(problem, 5)
    assert (surely <= verified.objectives).all()
    tampered(Proof.read(path), path, problem, surely)


def dynamic_pair(rng: np.random.Generator) -> tuple[FloatNetwork, DynamicNetwork]:
    """Return a perceptron and itself with dynamically quantized activations."""
    layers, nodes = [], []
    for fan_in, size, end in ((2, 5, np.inf), (5, 2, -np.inf)):
        codes = rng.integers(-127, 128, (size, fan_in)).astype(np.float64)
        scales = np.float32(rng.uniform(0.005, 0.01, size)).astype(np.float64)
        bias = np.float32(0.2 * rng.normal(size=size)).astype(np.float64)
        low = 0.0 if end > 0 else -np.inf
        layers.append(DynamicLayer(f"layer{len(layers)}", codes, scales, bias, low, np.inf, False))
        nodes.append(Affine(f"layer{len(layers)}", (Term(len(nodes), codes * scales[:, None]),), bias))
        if end > 0:
            nodes.append(Clamp("relu", len(nodes), 0.0, np.inf))
    return FloatNetwork(2, tuple(nodes), len(nodes)), DynamicNetwork(tuple(layers)).on_target(
        get_target("ort")
    )


def test_dynamic_quantization_is_certified(tmp_path: Path) -> None:
    network, other = dynamic_pair(np.random.default_rng(1))
    path = tmp_path / "proof.milpq"
    result = milpq.bound(
        network,
        other,
        milpq.Box([0.5, -0.6], [0.6, -0.5]),
        target="ort",
        gap=0.1,
        certificate=path,
        time_limit=4.0,
    )
    verified = milpq.check(path, network, other)
    assert result.lower <= verified.upper == result.certificate.proved_upper <= 1.5 * result.upper
    nodes = Proof.read(path).tensors["tree.node"]
    assert set(nodes[nodes < 0].tolist()) == {BOUND}
    problem = verified.problem
    tampered(Proof.read(path), path, problem, attained(problem, 0))
    forged = Proof.read(path)
    forged.tensors["tree.node"], forged.tensors["tree.cut"] = np.array([EXECUTED], np.int32), np.zeros(0)
    with pytest.raises(CertificateError, match="both networks are real"):
        milpq.check(forged.write(path), network, other)


def test_with_float32_arithmetic_the_certificate_is_of_real_arithmetic_and_says_so(tmp_path: Path) -> None:
    problem, path = (
        image_pair(4, tmp_path, "plain", radius=1, domain="codes", moved=5e-4),
        tmp_path / "proof.milpq",
    )
    result = milpq.bound(
        problem.float_network, tmp_path / "plain4.tflite", problem.domain.box, target=problem.quantized.target,
        input_domain="codes", gap=0.3, time_limit=6.0, jobs=1, certificate=path, float_arithmetic="float32",
    )  # fmt: skip
    verified = milpq.check(path, problem.float_network, tmp_path / "plain4.tflite")
    assert verified.upper == result.certificate.proved_upper < result.upper
    assert any("certificate in real arithmetic" in note for note in result.problem.notes)
