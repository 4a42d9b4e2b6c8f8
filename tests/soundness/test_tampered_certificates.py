"""Certificates that were tampered with: each kind is rejected, with its reason in one line.

All of them are signed again after the change, so it is the proof that fails and not the digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from certificates import (
    Proof,
    codes_problem,
    decide,
    decided_problem,
    exact_maximum,
    exact_objectives,
    prove,
    real_problem,
)
from random_pairs import float_network, quantized

from milpq.certificate import check
from milpq.certificate.format import BOUND, EXECUTED
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError, MilpqError, UnprovenError
from milpq.merge import Problem

PROBLEM = codes_problem()
DECIDED = decided_problem()


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    path = prove(PROBLEM, exact_maximum(PROBLEM), tmp_path_factory.mktemp("proof") / "proof.milpq")
    check(path, PROBLEM.float_network, PROBLEM.quantized)
    proof = Proof.read(path)
    assert {BOUND, EXECUTED} <= set(proof.tensors["tree.node"].tolist())
    return proof


def rejection(proof: Proof, path: Path, problem: Problem = PROBLEM) -> str:
    """Return why a certificate is rejected; fail if it is not."""
    with pytest.raises(CertificateError) as caught:
        check(proof.write(path), problem.float_network, problem.quantized)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def leaf_dropped(proof: Proof) -> None:
    nodes = proof.tensors["tree.node"]
    proof.tensors["tree.node"] = np.delete(nodes, np.flatnonzero(nodes < 0)[3])


def subtree_cut_off(proof: Proof) -> None:
    proof.tensors["tree.node"] = proof.tensors["tree.node"][:-4]


def leaf_added(proof: Proof) -> None:
    proof.tensors["tree.node"] = np.append(proof.tensors["tree.node"], np.int32(EXECUTED))


def cut_lost(proof: Proof) -> None:
    proof.tensors["tree.cut"] = proof.tensors["tree.cut"][:-1]


def cut_added(proof: Proof) -> None:
    proof.tensors["tree.cut"] = np.append(proof.tensors["tree.cut"], 0.0)


def cut_between_levels(proof: Proof) -> None:
    proof.tensors["tree.cut"][0] += 0.5


def cut_outside(proof: Proof) -> None:
    proof.tensors["tree.cut"][0] = 1e6


def cut_not_a_number(proof: Proof) -> None:
    proof.tensors["tree.cut"][0] = np.nan


def way_that_does_not_exist(proof: Proof) -> None:
    proof.tensors["tree.node"][0] = 2 + 2 * 7


def kind_that_does_not_exist(proof: Proof) -> None:
    nodes = proof.tensors["tree.node"]
    nodes[np.flatnonzero(nodes < 0)[0]] = -7


def bound_one_ulp_lower(proof: Proof) -> None:
    upper = proof.tensors["upper"]
    k = int(np.argmax(upper))
    upper[k] = np.nextafter(upper[k], -np.inf)


def bound_not_a_number(proof: Proof) -> None:
    proof.tensors["upper"][0] = np.nan


def one_bound_too_few(proof: Proof) -> None:
    proof.tensors["upper"] = proof.tensors["upper"][:-1]


def executed_leaves_only_bounded(proof: Proof) -> None:
    proof.tensors["tree.node"] = np.maximum(proof.tensors["tree.node"], BOUND)


def threshold_moved(proof: Proof) -> None:
    proof.tensors["steps"][100] += 1


def step_value_moved(proof: Proof) -> None:
    proof.tensors["steps"][-1] += 1


def table_lost(proof: Proof) -> None:
    del proof.tensors["steps"]


def region_shrunk(proof: Proof) -> None:
    proof.tensors["region.upper"] = proof.tensors["region.upper"] * 0.9


def region_inverted(proof: Proof) -> None:
    proof.tensors["region.upper"] = proof.tensors["region.lower"] - 1


def output_left_out(proof: Proof) -> None:
    proof.tensors["outputs"] = proof.tensors["outputs"][:1]
    proof.tensors["upper"] = proof.tensors["upper"][[0, 2]]


def output_that_does_not_exist(proof: Proof) -> None:
    proof.tensors["outputs"] = proof.tensors["outputs"] + 5


def domain_changed(proof: Proof) -> None:
    proof.metadata["domain"] = "continuous"


def hash_changed(proof: Proof) -> None:
    proof.metadata["problem"] = proof.metadata["problem"][::-1]


TAMPERINGS: dict[Callable[[Proof], None], str] = {
    leaf_dropped: "",
    subtree_cut_off: "does not cover the region",
    leaf_added: "goes on after it has covered the region",
    cut_lost: "tree.cut' is too short",
    cut_added: "more cuts or multipliers than the trees need",
    cut_between_levels: "a node cuts levels",
    cut_outside: "a node cuts levels",
    cut_not_a_number: "a node cuts levels",
    way_that_does_not_exist: "a node splits along 16, but there are 16 ways",
    kind_that_does_not_exist: "a node splits along -7",
    bound_one_ulp_lower: "does not prove its claim",
    bound_not_a_number: "NaN",
    one_bound_too_few: "claims 3 bounds for 2 outputs",
    executed_leaves_only_bounded: "does not prove its claim",
    threshold_moved: "are not how the target rounds",
    step_value_moved: "are not how the target rounds",
    table_lost: "its tensors should be",
    region_shrunk: "is about another problem",
    region_inverted: "inverted",
    output_left_out: "is about another problem",
    output_that_does_not_exist: "does not exist",
    domain_changed: "is about another problem",
    hash_changed: "is about another problem",
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_each_kind_of_tampering_is_rejected_with_its_reason(
    tamper: Callable[[Proof], None], proof: Proof, tmp_path: Path
) -> None:
    changed = proof.copy()
    tamper(changed)
    assert TAMPERINGS[tamper] in rejection(changed, tmp_path / "changed.milpq")


def test_another_model_is_rejected(proof: Proof, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    network = float_network(rng, [2, 5, 2], (0.0, np.inf))
    other = Problem.create(
        network, quantized(rng, network, "litert-ref", input_codes=(-64, 63)), PROBLEM.domain.box
    )
    assert "is about another problem" in rejection(proof, tmp_path / "proof.milpq", other)
    shape = codes_problem().float_network, real_problem().quantized
    with pytest.raises(CertificateError, match="asks a question that these networks do not answer"):
        check(proof.write(tmp_path / "proof.milpq"), *shape)


def test_a_shrunk_region_with_its_own_hash_proves_no_more_than_that_region(
    proof: Proof, tmp_path: Path
) -> None:
    # Whoever makes a proof of a smaller region has a proof of it; the region is part of what `check` reports.
    smaller = Problem.create(
        PROBLEM.float_network, PROBLEM.quantized, type(PROBLEM.domain.box)([-1, -1], [1, 1]), "codes"
    )
    changed = proof.copy()
    changed.metadata["problem"] = smaller.hash()
    changed.tensors["region.lower"], changed.tensors["region.upper"] = (
        smaller.domain.box.lower,
        smaller.domain.box.upper,
    )
    with pytest.raises(CertificateError, match="a node cuts levels"):
        check(changed.write(tmp_path / "smaller.milpq"), PROBLEM.float_network, PROBLEM.quantized)
    changed.tensors["tree.node"], changed.tensors["tree.cut"] = np.array([EXECUTED], np.int32), np.zeros(0)
    verified = check(changed.write(tmp_path / "smaller.milpq"), PROBLEM.float_network, PROBLEM.quantized)
    assert verified.problem.domain.box.upper.tolist() == [1, 1]


def test_a_thousand_random_mutations(proof: Proof, tmp_path: Path) -> None:
    rng, rejected, unproven = np.random.default_rng(1), 0, 0
    truth = exact_objectives(PROBLEM)
    for _ in range(1100):
        changed = proof.copy()
        surely_wrong = mutate(changed, rng)
        surely_wrong |= any(
            float(claim) < exact for claim, exact in zip(changed.tensors["upper"], truth, strict=False)
        )
        unproven += surely_wrong
        try:
            check(changed.write(tmp_path / "m.milpq"), PROBLEM.float_network, PROBLEM.quantized)
        except CertificateError:
            rejected += 1
        else:
            assert not surely_wrong
    assert unproven >= 1000
    assert rejected >= unproven


def mutate(proof: Proof, rng: np.random.Generator) -> bool:
    """Change something at random; tell whether what results is no proof, whatever the claim."""
    nodes, cuts, upper = (proof.tensors[name] for name in ("tree.node", "tree.cut", "upper"))
    leaves, splits = np.flatnonzero(nodes < 0), np.flatnonzero(nodes >= 0)
    match int(rng.integers(10)):
        case 0:  # a node gone, or one more: the tree no longer ends where the region is covered
            position = int(rng.integers(len(nodes)))
            proof.tensors["tree.node"] = np.delete(nodes, position)
            return True
        case 1:
            position = int(rng.integers(len(nodes) + 1))
            proof.tensors["tree.node"] = np.insert(nodes, position, rng.choice([BOUND, EXECUTED, 0, 1]))
            return True
        case 2:  # a leaf becomes a split and its cut is missing
            nodes[rng.choice(leaves)] = rng.integers(2)
            return True
        case 3:  # a split becomes a leaf: too many nodes are left
            nodes[rng.choice(splits)] = rng.choice([BOUND, EXECUTED])
            return True
        case 4:  # a cut that is no level of its part
            cuts[rng.integers(len(cuts))] = rng.choice([np.nan, np.inf, -1e9, 1e9, rng.uniform(-64, 63)])
            return True
        case 5:  # the claim lower than the truth
            k = int(np.argmax(upper))
            upper[k] *= 1 - 10.0 ** -rng.integers(1, 16)
            return False
        case 6:
            table = proof.tensors["steps"]
            table[rng.integers(len(table))] += rng.choice([-1, 1])
            return True
        case 7:
            end = proof.tensors[rng.choice(["region.lower", "region.upper"])]
            i = int(rng.integers(2))
            end[i] = np.nextafter(end[i], rng.choice([-np.inf, np.inf])) if rng.integers(2) else end[i] * 0.99
            return True
        case 8:
            field = rng.choice(["problem", "domain", "float_side", "format"])
            proof.metadata[field] = "".join(rng.permutation(list(proof.metadata[field])))[1:]
            return True
        case _:  # two leaves' places change, or two claims
            if rng.integers(2):
                upper[:] = np.roll(upper, 1)
            else:
                nodes[leaves] = BOUND
                return True  # the zonotope does not reach the exact maximum at its place
            return False


def test_a_flipped_byte_anywhere_is_noticed(proof: Proof, tmp_path: Path) -> None:
    path = proof.write(tmp_path / "proof.milpq")
    content, rng = path.read_bytes(), np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CertificateError) as caught:
            check(path, PROBLEM.float_network, PROBLEM.quantized)
        assert "\n" not in str(caught.value)
    for size in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CertificateError):
            check(path, PROBLEM.float_network, PROBLEM.quantized)


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}},
        {"x": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}},
        {"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}},
        {"__metadata__": {"format": "milpq-certificate/4"}},
        {"__metadata__": {"format": "milpq-certificate/3"}},
        {"__metadata__": {"format": ["milpq-certificate/4"]}},
        [],
        {},
    ],
    ids=str,
)
def test_headers_that_lie_are_refused(header: object, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "liar.milpq"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CertificateError):
        check(path, PROBLEM.float_network, PROBLEM.quantized)


def test_headers_of_absurd_depth_and_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "liar.milpq"
    deep = b"[" * 100_000
    size = len(deep).to_bytes(8, "little")
    for content in (
        (2**63).to_bytes(8, "little"),
        size + deep,
        b"\x80\x04pickle.",
        b"PK\x03\x04" + bytes(60),
    ):
        path.write_bytes(content)
        with pytest.raises(CertificateError):
            check(path, PROBLEM.float_network, PROBLEM.quantized)
    for absent in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CertificateError, match="no such file"):
            check(absent, PROBLEM.float_network, PROBLEM.quantized)


def test_a_tree_too_deep_or_codes_too_many_end_with_a_reason(tmp_path: Path) -> None:
    problem = real_problem()
    proof = Proof.read(prove(problem, 1.0, tmp_path / "proof.milpq"))
    # Each split leaves its upper half waiting: the stack of the checker grows with the file.
    depth = 2**27 // (8 * 8 + 256) + 2
    proof.tensors["tree.node"] = np.zeros(depth, dtype=np.int32)
    proof.tensors["tree.cut"] = np.full(depth, -1.0)
    assert "too deep" in rejection(proof, tmp_path / "deep.milpq", problem)
    proof.tensors["tree.node"], proof.tensors["tree.cut"] = np.array([EXECUTED], dtype=np.int32), np.zeros(0)
    assert "both networks are real" in rejection(proof, tmp_path / "real.milpq", problem)


def test_a_real_proof_survives_and_its_lowered_claim_does_not(tmp_path: Path) -> None:
    problem = real_problem()
    points = np.random.default_rng(0).uniform(-1, 1, size=(20_000, 2))
    seen = float(np.abs(problem.differences(points)[0]).max())
    proof = Proof.read(prove(problem, 1.02 * seen, tmp_path / "proof.milpq"))
    assert len(proof.tensors["tree.node"]) > 3
    verified = check(proof.write(tmp_path / "proof.milpq"), problem.float_network, problem.quantized)
    assert seen <= verified.upper <= 1.02 * seen * (1 + 1e-8)
    proof.tensors["upper"] = np.full(2, seen * (1 - 1e-6))
    with pytest.raises(UnprovenError) as caught:
        check(proof.write(tmp_path / "proof.milpq"), problem.float_network, problem.quantized)
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, MilpqError)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    root = float(Zonotope(DECIDED).upper(DECIDED.domain.root).max())
    goal = 0.02 * root + 0.98 * exact_maximum(DECIDED)
    path = decide(DECIDED, goal, tmp_path_factory.mktemp("decided") / "proof.milpq")
    assert check(path, DECIDED.float_network, DECIDED.quantized).leaves["multipliers"] > 3
    return Proof.read(path)


@pytest.mark.parametrize("seed", range(4))
def test_decisions_prove_what_they_say_and_nothing_false(seed: int, tmp_path: Path) -> None:
    problem = codes_problem(seed, [0])
    truth = exact_maximum(problem)
    root = float(Zonotope(problem).upper(problem.domain.root).max())
    path = decide(problem, 0.5 * root + 0.5 * truth, tmp_path / "proof.milpq")
    verified = check(path, problem.float_network, problem.quantized)
    assert truth <= verified.upper <= 0.5 * root + 0.5 * truth
    proof = Proof.read(path)
    proof.tensors["upper"] = np.minimum(proof.tensors["upper"], truth * (1 - 1e-9))
    with pytest.raises(UnprovenError):
        check(proof.write(path), problem.float_network, problem.quantized)


def dual_flipped(proof: Proof) -> None:
    proof.tensors["dual.weight"] *= -1


def dual_dropped(proof: Proof) -> None:
    proof.tensors["dual.weight"][:] = 0


def dual_not_a_number(proof: Proof) -> None:
    proof.tensors["dual.weight"][:] = np.nan


def duals_of_other_quantities(proof: Proof) -> None:
    proof.tensors["dual.quantity"] += 1


def duals_of_no_quantity(proof: Proof) -> None:
    proof.tensors["dual.quantity"] -= 10**6


def duals_moved_to_other_leaves(proof: Proof) -> None:
    for name in ("dual.count", "dual.quantity", "dual.weight"):
        proof.tensors[name] = proof.tensors[name][::-1].copy()


def dual_missing(proof: Proof) -> None:
    proof.tensors["dual.weight"] = proof.tensors["dual.weight"][:-1]


def dual_added(proof: Proof) -> None:
    proof.tensors["dual.quantity"] = np.append(proof.tensors["dual.quantity"], np.int32(0))


def count_absurd(proof: Proof) -> None:
    proof.tensors["dual.count"][0] = 2**31 - 1


def decision_moved(proof: Proof) -> None:
    cuts = proof.tensors["tree.cut"]
    cuts += np.where(proof.tensors["tree.node"][proof.tensors["tree.node"] >= 0] >= 12, 1e4, 0)


def decision_between_integers(proof: Proof) -> None:
    proof.tensors["tree.cut"] += 0.5


def tree_of_another_bound(proof: Proof) -> None:
    proof.tensors["tree.objective"][:] = 0


def tree_of_no_bound(proof: Proof) -> None:
    proof.tensors["tree.objective"][0] = 99


def trees_exchanged(proof: Proof) -> None:
    proof.tensors["tree.objective"] = proof.tensors["tree.objective"][::-1].copy()


DUAL_TAMPERINGS: dict[Callable[[Proof], None], str] = {
    dual_flipped: "does not prove its claim",
    dual_dropped: "does not prove its claim",
    dual_not_a_number: "no number of reasonable size",
    duals_of_other_quantities: "",
    duals_of_no_quantity: "belongs to no quantity",
    duals_moved_to_other_leaves: "",
    dual_missing: "dual.weight' is too short",
    dual_added: "more cuts or multipliers than the trees need",
    count_absurd: "multipliers",
    decision_moved: "does not prove its claim",
    decision_between_integers: "decides quantity",
    tree_of_another_bound: "",
    tree_of_no_bound: "a tree is about bound 99",
    trees_exchanged: "does not prove its claim",
}


@pytest.mark.parametrize("tamper", DUAL_TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_each_kind_of_tampering_with_decisions_is_rejected_with_its_reason(
    tamper: Callable[[Proof], None], decided: Proof, tmp_path: Path
) -> None:
    changed = decided.copy()
    tamper(changed)
    assert DUAL_TAMPERINGS[tamper] in rejection(changed, tmp_path / "changed.milpq", DECIDED)
