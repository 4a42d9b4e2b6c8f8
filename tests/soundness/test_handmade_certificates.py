"""Certificates built byte by byte, by someone who knows the models and the checker and wants a false claim accepted.

Each is rejected in one line that says why, in moments and in little memory.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from certificates import Proof, codes_problem, exact_objectives, real_problem
from random_pairs import box, float_network, quantized

from milpq.certificate import check
from milpq.certificate.check import step_tables
from milpq.certificate.format import BOUND, DUAL, EXECUTED, FORMAT, REWRITTEN, digest
from milpq.certificate.rewriting import PLANES
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import IntegerAffine

CODES, REAL = codes_problem(), real_problem()
TYPES = {"float64": "F64", "float32": "F32", "int32": "I32", "int64": "I64"}


def blank(problem: Problem, nodes: list[int], cuts: list[float], claim: float = 1e6) -> Proof:
    """Return a certificate of one tree about all bounds, written down by hand."""
    count = 2 * len(problem.outputs)
    metadata = {"format": FORMAT, "problem": problem.hash(), "target": "", "domain": problem.domain.kind}
    tensors = {
        "region.lower": problem.domain.box.lower,
        "region.upper": problem.domain.box.upper,
        "outputs": problem.outputs,
        "upper": np.full(count, claim),
        "tree.objective": np.array([-1], np.int32),
        "tree.node": np.array(nodes, np.int32),
        "tree.cut": np.array(cuts, np.float64),
        "dual.count": np.zeros(0, np.int32),
        "dual.quantity": np.zeros(0, np.int32),
        "dual.weight": np.zeros(0),
        "plane.weight": np.zeros(0, np.float32),
        "steps": step_tables(problem),
    }
    return Proof(metadata | {"float_side": "file"}, tensors)


def payload(proof: Proof, shapes: dict[str, list[int]], types: dict[str, str], header: str = "") -> bytes:
    """Return the bytes of a signed certificate; some tensors lie about their shape or type."""
    entries, content = [], b""
    signed = proof.metadata | {
        "digest": digest(proof.metadata, {n: iter([a]) for n, a in proof.tensors.items()})
    }
    for name, array in proof.tensors.items():
        start, content = len(content), content + np.ascontiguousarray(array).tobytes()
        entry = {
            "dtype": types.get(name, TYPES[str(array.dtype)]),
            "shape": shapes.get(name, list(array.shape)),
            "data_offsets": [start, len(content)],
        }
        entries.append(f"{json.dumps(name)}: {json.dumps(entry)}")
    text = f'{{"__metadata__": {json.dumps(signed)}, {", ".join(entries)}{header}}}'.encode()
    return len(text).to_bytes(8, "little") + text + content


def verdict(content: bytes, path: Path, problem: Problem) -> str:
    """Return why a file is rejected, empty where it is accepted."""
    path.write_bytes(content)
    try:
        check(path, problem.float_network, problem.quantized)
    except CertificateError as error:
        message = str(error)
        assert message.startswith(str(path)) and message.count(str(path)) == 1 and message.isprintable()
        return message
    return ""


def test_what_is_honest_is_accepted(tmp_path: Path) -> None:
    # So that what is rejected below is rejected for its lie.
    for problem, nodes, cuts in (
        (CODES, [EXECUTED], []),
        (CODES, [0, BOUND, EXECUTED], [3.0]),
        (REAL, [1, 2, BOUND, BOUND, BOUND], [0.25, -0.5]),
    ):
        assert not verdict(payload(blank(problem, nodes, cuts), {}, {}), tmp_path / "honest.milpq", problem)


LONG, STEPS = 2**60, len(step_tables(CODES))
LIES: dict[str, tuple[dict[str, list[int]], dict[str, str], str]] = {
    "an empty tensor of 2^60 rows": ({"dual.count": [LONG, 0]}, {}, "of shape"),
    "an empty tensor of rows of 2^60": ({"dual.count": [0, LONG]}, {}, "of shape"),
    "an empty tensor of 2^63 rows": ({"dual.count": [2**63, 0]}, {}, "of shape"),
    "steps in rows": ({"steps": [STEPS, 1]}, {}, "of shape"),
    "steps of 2^60 numbers": ({"steps": [LONG]}, {}, "not a readable"),
    "bounds in a column": ({"upper": [4, 1]}, {}, "of shape"),
    "bounds that are one number": ({"upper": []}, {}, "not a readable"),
    "nodes in rows": ({"tree.node": [1, 1]}, {}, "of shape"),
    "more nodes than bytes": ({"tree.node": [2**61]}, {}, "not a readable"),
    "more nodes than there are numbers": ({"tree.node": [2**64]}, {}, "not a readable"),
    "nodes that are reals": ({}, {"tree.node": "F32"}, "is F32"),
    "nodes without a sign": ({}, {"tree.node": "U32"}, "is U32"),
    "bounds that are integers": ({}, {"upper": "I64"}, "is I64"),
    "outputs that are reals": ({}, {"outputs": "F64"}, "is F64"),
    "a region without a sign": ({}, {"region.lower": "U64"}, "is U64"),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_are_not_what_they_should_be(lie: str, tmp_path: Path) -> None:
    shapes, types, reason = LIES[lie]
    proof = blank(CODES, [EXECUTED], [])
    assert reason in verdict(payload(proof, shapes, types), tmp_path / "lie.milpq", CODES)


def test_names_that_are_said_twice(tmp_path: Path) -> None:
    proof, path = blank(CODES, [EXECUTED], []), tmp_path / "twice.milpq"
    for header in (
        ', "__metadata__": {}',
        ', "upper": {"dtype": "F64", "shape": [4], "data_offsets": [0, 32]}',
        ', "steps": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}',
    ):
        assert verdict(payload(proof, {}, {}, header), path, CODES)


INF, NAN = float("inf"), float("nan")
B, E = BOUND, EXECUTED
TREES: dict[str, tuple[Problem, list[int], list[float], str]] = {
    "no tree": (REAL, [], [], "does not cover"),
    "one half only": (REAL, [0, B], [0.0], "does not cover"),
    "three halves": (REAL, [0, B, B, B], [0.0], "goes on after"),
    "a cut of nothing": (REAL, [B], [0.0], "more cuts"),
    "cut at NaN": (REAL, [0, B, B], [NAN], "cuts [-1.0, 1.0] at nan"),
    "cut at infinity": (REAL, [0, B, B], [INF], "at inf"),
    "cut an ulp outside": (REAL, [0, B, B], [float(np.nextafter(1.0, 2.0))], "at 1.0000000000000002"),
    "cut an ulp below the lower part": (REAL, [0, 0, B, B, B], [0.0, float(np.nextafter(0, 1))], "at 5e-324"),
    "cut behind the last quantity": (REAL, [2 + 12, B, B], [0.0], "there are 14 ways"),
    "cut along a kind": (REAL, [-5, B, B], [0.0], "splits along -5"),
    "decided at NaN": (REAL, [2, B, B], [NAN], "decides quantity 0 at nan"),
    "decided at infinity": (REAL, [2, B, B], [-INF], "decides quantity 0 at -inf"),
    "decided beyond integers": (CODES, [2 + 5, E, E], [2.0**53], "decides quantity 5 at"),
    "an accumulator between integers": (CODES, [2 + 5, E, E], [0.5], "decides quantity 5 at 0.5"),
    "levels at half a code": (CODES, [0, E, E], [2.5], "cuts levels"),
    "levels at the last": (CODES, [0, E, E], [float(CODES.domain.root.level_upper[0, 0])], "cuts levels"),
    "one level cut as if it were real": (
        CODES,
        [0, E, 0, E, E],
        [float(CODES.domain.root.level_upper[0, 0]) - 1, 3.0],
        "a node cuts",
    ),
    "executed without codes": (REAL, [E], [], "both networks are real"),
    "multipliers of everything": (REAL, [DUAL], [], "is too short"),
    "planes that are missing": (REAL, [REWRITTEN], [], "'plane.weight' is too short"),
}


@pytest.mark.parametrize("tree", TREES)
def test_trees_that_do_not_cover_the_region(tree: str, tmp_path: Path) -> None:
    problem, nodes, cuts, reason = TREES[tree]
    found = verdict(payload(blank(problem, nodes, cuts), {}, {}), tmp_path / "tree.milpq", problem)
    assert reason in found


def test_real_inputs_between_two_codes_are_in_both_halves_or_the_split_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    network = float_network(rng, [1, 3, 1], (0.0, np.inf))
    problem = Problem.create(network, quantized(rng, network, "tflm"), box(-0.5, 0.5, 1), "continuous")
    first, last = (
        int(end[0, 0]) for end in (problem.domain.root.level_lower, problem.domain.root.level_upper)
    )
    quantizer, path = problem.domain.integer.quantizer, tmp_path / "between.milpq"
    for level in range(first, last):
        threshold = float(quantizer.thresholds[0, level - quantizer.level_lower])
        # Up to this level; of the upper half one level; that cut an ulp in front of where it begins.
        nodes, cuts = [0, B, 0, 0, B, B, B], [float(level), level + 1.0, float(np.nextafter(threshold, -INF))]
        if level + 1 < last:
            assert "a node cuts [" in verdict(payload(blank(problem, nodes, cuts), {}, {}), path, problem)
            cuts[2] = threshold
            assert not verdict(payload(blank(problem, nodes, cuts), {}, {}), path, problem)


def chain_of_decisions(proof: Proof) -> None:
    # Each part knows all decisions above it: together they grow with the square of the depth.
    proof.tensors["tree.node"] = np.full(100_000, 2, np.int32)
    proof.tensors["tree.cut"] = np.linspace(1.0, 2.0, 100_000)


def many_trees(proof: Proof) -> None:
    proof.tensors["tree.objective"], proof.tensors["tree.node"] = (
        np.full(10**6, value, np.int32) for value in (-1, BOUND)
    )


def many_outputs(proof: Proof) -> None:
    proof.tensors["outputs"] = np.arange(10**6)


def many_inputs(proof: Proof) -> None:
    proof.tensors["region.lower"] = np.full(10**6, -1.0)


def many_steps(proof: Proof) -> None:
    proof.tensors["steps"] = np.zeros(10**6, np.int64)


def a_tensor_more(proof: Proof) -> None:
    proof.tensors["step.9.values"] = np.zeros((1, 0), np.int64)


def an_older_version(proof: Proof) -> None:
    proof.metadata["format"] = "milpq-certificate/3"


def no_trees(proof: Proof) -> None:
    for name in ("tree.objective", "tree.node"):
        proof.tensors[name] = np.zeros(0, np.int32)


def codes_of_a_real_network(proof: Proof) -> None:
    proof.metadata["domain"] = "codes"


def weights_of_no_integers(proof: Proof) -> None:
    proof.metadata["float_side"] = "dequantized"


def rounding_of_a_real_network(proof: Proof) -> None:
    proof.metadata["target"] = "tflm"


def target_that_is_a_path(proof: Proof) -> None:
    proof.metadata["target"] = "../\n\x1b[31m"


def region_with_a_negative_zero(proof: Proof) -> None:
    proof.tensors["region.upper"] = np.array([1.0, -0.0])


def side_that_is_infinite(proof: Proof) -> None:
    proof.tensors["upper"] = np.array([1e6, INF])


def claim_below_zero(proof: Proof) -> None:
    proof.tensors["upper"] = np.array([-5e-324, 1e6])


def claim_that_is_barely_false(proof: Proof) -> None:
    proof.tensors["upper"] = np.array([1e6, 5e-324])


FORGERIES: dict[Callable[[Proof], None], str] = {
    chain_of_decisions: "too deep",
    many_trees: "more than 2",
    many_outputs: "more than 1",
    many_inputs: "more than 2",
    many_steps: "more than 0",
    a_tensor_more: "its tensors should be",
    an_older_version: f"is not a certificate of format {FORMAT}, but 'milpq-certificate/3'",
    no_trees: "no tree proves bound 0",
    codes_of_a_real_network: "is about another problem",
    weights_of_no_integers: "needs an integer model",
    rounding_of_a_real_network: "has no meaning",
    target_that_is_a_path: "unknown target",
    region_with_a_negative_zero: "is about another problem",
    side_that_is_infinite: "NaN or infinity",
    claim_below_zero: "is only shown to be at most",
    claim_that_is_barely_false: "is only shown to be at most",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_forgeries_are_rejected_with_their_reason(forge: Callable[[Proof], None], tmp_path: Path) -> None:
    proof = blank(REAL, [BOUND], [])
    forge(proof)
    content = payload(proof, {}, {})
    tracemalloc.start()
    try:
        assert FORGERIES[forge] in verdict(content, tmp_path / "forged.milpq", REAL)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def truth() -> list[float]:
    return [float(value) for value in exact_objectives(CODES)]


@pytest.mark.parametrize("weight", [0.0, -0.0, 5e-324, -1e-310, 1e-300, 1.0, 2.0**99, -(2.0**99)])
def test_no_multiplier_proves_what_is_false(weight: float, truth: list[float], tmp_path: Path) -> None:
    path, quantities = tmp_path / "weights.milpq", len(Zonotope(CODES).whole)
    for objective, attained in enumerate(truth):
        proof = blank(CODES, [DUAL], [])
        proof.tensors["tree.objective"][0] = objective
        proof.tensors["upper"][objective] = np.nextafter(attained, -INF)
        proof.tensors["dual.count"] = np.array([quantities], np.int32)
        proof.tensors["dual.quantity"] = np.arange(quantities, dtype=np.int32)
        proof.tensors["dual.weight"] = np.full(quantities, weight)
        assert "is only shown to be at most" in verdict(payload(proof, {}, {}), path, CODES)
        planes = blank(CODES, [REWRITTEN], [])
        planes.tensors["upper"] = proof.tensors["upper"]
        planes.tensors["plane.weight"] = np.full(PLANES * quantities, weight, np.float32)
        assert "is only shown to be at most" in verdict(payload(planes, {}, {}), path, CODES)


def nudged(network: FloatNetwork | IntegerNetwork, layer: int, name: str) -> FloatNetwork | IntegerNetwork:
    """Return a network one number of which is the next one."""
    node = network.nodes[layer]
    if name == "weights":
        matrix = node.terms[0].matrix.copy()
        matrix[0, 0] += 1 if isinstance(node, IntegerAffine) else np.spacing(matrix[0, 0])
        node = replace(node, terms=(replace(node.terms[0], matrix=matrix),))
    elif name == "function":
        thresholds = node.function.thresholds.copy()
        thresholds[0, np.argmin(np.abs(thresholds[0]))] += 1
        node = replace(node, function=replace(node.function, thresholds=thresholds))
    else:
        value = getattr(node, name).copy()
        value[0] += 1 if value.dtype == np.int64 else np.spacing(np.float32(value[0]))
        node = replace(node, **{name: value})
    return replace(network, nodes=(*network.nodes[:layer], node, *network.nodes[layer + 1 :]))


@pytest.mark.parametrize(
    ("side", "layer", "name"),
    [
        ("float", 0, "weights"),
        ("float", 2, "bias"),
        ("integer", 0, "weights"),
        ("integer", 2, "bias"),
        ("integer", 1, "function"),
        ("integer", 3, "scale"),
        ("unrounded", 2, "scale"),
    ],
)
def test_a_network_that_differs_in_one_number_by_a_hair_is_another(
    side: str, layer: int, name: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    network = float_network(rng, [2, 5, 2], (0.0, np.inf))
    other = quantized(rng, network, "tflm", input_scale=0.125, raw_output=side == "unrounded")
    if side == "unrounded":
        # The integers are the same: only what one of them stands for is not.
        last = replace(other.nodes[-1], scale=2.0 * other.nodes[-1].scale)
        pair = network, replace(other, nodes=(*other.nodes[:-1], last))
    elif side == "float":
        pair = nudged(network, layer, name), other
    else:
        pair = network, nudged(other, layer, name)
    problem = Problem.create(network, other, box(-1.0, 1.0, 2), "codes")
    path = tmp_path / "similar.milpq"
    assert not verdict(payload(blank(problem, [BOUND], []), {}, {}), path, problem)
    with pytest.raises(CertificateError, match="is about another problem"):
        check(path, *pair)
