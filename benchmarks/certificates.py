"""Certificates: random mutations, all of which have to be rejected, and the memory that a long one takes to check.

Run as ``python benchmarks/certificates.py [MUTATIONS] [SEED]``; the mutations are spread over certificates of every
kind of leaf and of operator.  One counts where its claim is false (below what executions have shown to be attained) or
what results is no proof of it whatever it claims; each of them has to be rejected.  Others may be accepted, as a claim
can be true and proved after a mutation.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open

import milpq
from milpq.bounds import differential
from milpq.certificate.format import BOUND, DUAL, EXECUTED, REWRITTEN
from milpq.certificate.tree import Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError
from milpq.formats import load_float, load_quantized
from milpq.merge import Problem
from milpq.milp.backends import choose_backend
from milpq.rounding.targets import get_target
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.decider import Decider
from milpq.search.enumerate import enumerate_codes
from milpq.search.planes import rewrite
from milpq.search.proof import DUAL_SLACK, Tree, raised, sizes, write, write_certificate

MODELS = Path(__file__).parent / "models"
TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / room) for room in ("property", "soundness", "oracle")]

from curve_pairs import smooth_pair  # noqa: E402 - the small networks of the tests
from image_pairs import CURVES, KINDS, image_pair  # noqa: E402
from random_pairs import sample  # noqa: E402
from test_certified_operators import dynamic_pair  # noqa: E402

LEAVES = {BOUND: "bounded", EXECUTED: "executed", DUAL: "multipliers", REWRITTEN: "rewritten"}
DEPTH = 17
"""Of the tree of the long certificate: 131,072 leaves."""


@dataclass
class Case:
    """A certificate's content, and what it is about."""

    problem: Problem
    truth: np.ndarray
    metadata: dict[str, str]
    tensors: dict[str, np.ndarray]
    models: tuple[object, object]
    verdicts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, path: Path, problem: Problem, truth: np.ndarray, models: tuple[object, object]) -> Case:
        """Take a certificate apart."""
        with safe_open(str(path), framework="numpy") as file:
            metadata = {key: value for key, value in file.metadata().items() if key != "digest"}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(problem, truth, metadata, tensors, models)


def controller(folder: Path) -> Case:
    """Return a certificate of executed and bounded leaves, whose claim is attained."""
    models = MODELS / "controller.onnx", MODELS / "controller_int8.tflite"
    network, model = load_float(models[0]), load_quantized(models[1]).on_target(get_target("tflm"))
    problem = Problem.create(network, model, milpq.Box([-0.3, -0.3, -0.3], [0.3, 0.3, 0.3]), "codes")
    truth = enumerate_codes(problem).upper
    found = Certifier(problem).run(float(truth.max()), Budget(600.0))
    path = folder / "controller.milpq"
    write(path, problem, found.trees, np.minimum(found.upper, truth.max()), "tflm", dequantized=False)
    return Case.read(path, problem, truth, models)


def digits(folder: Path) -> Case:
    """Return a certificate of decided leaves with multipliers; its truth is that of a few million codes."""
    models = MODELS / "digits.onnx", MODELS / "digits_int8.tflite"
    network, model = load_float(models[0]), load_quantized(models[1]).on_target(get_target("tflm"))
    centre = np.zeros(64)
    centre[20:44] = 128 / 255
    radius = np.where((np.arange(64) >= 20) & (np.arange(64) < 41), 1 / 255, 1e-4)
    box = milpq.Box(centre - radius, centre + radius)
    problem = Problem.create(network, model, box, "codes", [3])
    truth = enumerate_codes(problem).upper
    zonotope = Zonotope(problem)
    root = zonotope.upper(problem.domain.root)[0]
    goal = float(0.03 * root.max() + 0.97 * truth.max())
    backend = choose_backend("highs").backend
    decider = Decider(problem, zonotope, backend, differential(problem, problem.domain.root))
    trees = decider.run(goal, Budget(600.0), None)
    path = folder / "digits.milpq"
    upper = np.concatenate([tree.upper for tree in trees])
    write(path, problem, trees, upper, "tflm", dequantized=False)
    return Case.read(path, problem, truth, models)


def attained(problem: Problem) -> np.ndarray:
    """Return what executions show the objectives to be at least."""
    difference, error = problem.differences(sample(np.random.default_rng(0), problem, 3000))
    return np.concatenate([difference - error, -difference - error], axis=1).max(axis=0)


def small(problem: Problem, path: Path, *, whole: bool, target: str | None = None) -> Case:
    """Return a certificate of a tree of a few leaves, or of one that planes bound."""
    truth, root = attained(problem), problem.domain.root
    zonotope = Zonotope(problem)
    if whole:
        upper, planes = rewrite(problem, zonotope, root)
        tree = Tree(Splitter(problem.domain, zonotope.whole).root(), -1, upper.shape[1])
        claim = raised(upper, sizes(problem, zonotope.trace(root, None)), DUAL_SLACK)[0]
        tree.settle(0, REWRITTEN, claim, planes=planes)
        trees = (tree,)
    else:
        goal = max(0.9 * float(zonotope.upper(root).max()), 1.3 * float(truth.max()))
        found = Certifier(problem).run(goal, Budget(0.5), choose_backend("highs").backend)
        trees, claim = found.trees, found.upper
    write(path, problem, trees, claim, target, dequantized=False)
    return Case.read(path, problem, truth, (problem.float_network, problem.quantized))


def cases(folder: Path) -> Iterator[tuple[str, Case]]:
    """Return certificates of every kind of leaf and of operator."""
    yield "controller, codes", controller(folder)
    yield "digits, codes", digits(folder)
    path = folder / "small.milpq"
    for number, kind in enumerate([*KINDS, *CURVES]):
        domain = ("codes", "continuous")[number % 2]
        problem = image_pair(4, folder, kind, radius=1, domain=domain, moved=5e-4)
        yield f"{kind}, {domain}", small(problem, path, whole=number % 3 == 0)
    for seed in (1, 2, 3):
        problem = smooth_pair(seed)
        yield f"curves, {problem.domain.kind}", small(problem, path, whole=seed == 3)
    network, other = dynamic_pair(np.random.default_rng(1))
    problem = Problem.create(network, other, milpq.Box([0.5, -0.6], [0.6, -0.5]))
    yield "dynamic quantization", small(problem, path, whole=False, target="ort")


def mutate(case: Case, rng: np.random.Generator) -> tuple[str, dict[str, str], dict[str, np.ndarray], bool]:
    """Change something; return what, the content, and whether it surely is no proof of anything."""
    metadata, tensors = dict(case.metadata), {name: array.copy() for name, array in case.tensors.items()}
    nodes, cuts, upper = tensors["tree.node"], tensors["tree.cut"], tensors["upper"]
    leaves, splits = np.flatnonzero(nodes < 0), np.flatnonzero(nodes >= 0)
    kinds = ["leaf dropped", "bound nudged", "bound lowered", "region shrunk"]
    kinds += ["leaf made a split", "hash", "claims exchanged"]
    kinds += ["threshold moved"] if len(tensors["steps"]) else []
    kinds += ["cut moved", "split dropped"] if len(splits) else []
    if len(tensors["plane.weight"]):
        kinds += ["planes flipped", "planes random", "planes missing"]
    if len(tensors["dual.weight"]):
        kinds += ["duals flipped", "duals random", "duals moved", "duals missing", "trees exchanged"]
    kind = str(rng.choice(kinds))
    surely = True
    match kind:
        case "leaf dropped":
            tensors["tree.node"] = np.delete(nodes, rng.choice(leaves))
        case "bound nudged":
            k = int(np.argmax(case.truth))
            upper[k] = np.nextafter(case.truth[k], -np.inf)
            surely = False
        case "bound lowered":
            k = int(rng.integers(len(upper)))
            upper[k] = min(upper[k], case.truth[k]) * (1 - 10.0 ** -rng.integers(1, 15))
            surely = False
        case "threshold moved":
            tensors["steps"][rng.integers(len(tensors["steps"]))] += rng.choice([-1, 1])
        case "region shrunk":
            i, end = int(rng.integers(len(tensors["region.lower"]))), str(rng.choice(["lower", "upper"]))
            inner = 0.5 * (tensors["region.lower"][i] + tensors["region.upper"][i])
            tensors[f"region.{end}"][i] = np.nextafter(tensors[f"region.{end}"][i], inner)
        case "cut moved":
            cuts[rng.integers(len(cuts))] = rng.choice([np.nan, np.inf, -1e300, 1e17])
        case "split dropped":
            nodes[rng.choice(splits)] = rng.choice([BOUND, EXECUTED])
        case "leaf made a split":
            nodes[rng.choice(leaves)] = rng.integers(len(tensors["region.lower"]))
        case "hash":
            metadata["problem"] = "".join(rng.permutation(list(metadata["problem"])))
            surely = metadata["problem"] != case.metadata["problem"]
        case "claims exchanged":
            upper[:] = rng.permutation(upper)
            surely = False
        case "duals flipped":
            tensors["dual.weight"] *= -1
            surely = False
        case "duals random":
            tensors["dual.weight"] = rng.normal(size=len(tensors["dual.weight"])) * 10.0 ** rng.integers(
                -3, 20
            )
            surely = False
        case "duals moved":
            tensors["dual.quantity"] = rng.permutation(tensors["dual.quantity"])
            surely = False
        case "planes flipped":
            tensors["plane.weight"] *= -1
            surely = False
        case "planes random":
            size = len(tensors["plane.weight"])
            weights = rng.normal(size=size) * 10.0 ** rng.integers(-3, 20)
            tensors["plane.weight"] = weights.astype(np.float32)
            surely = False
        case "planes missing":
            tensors["plane.weight"] = tensors["plane.weight"][:-1]
        case "duals missing":
            tensors["dual.weight"] = tensors["dual.weight"][:-1]
        case _:
            tensors["tree.objective"] = tensors["tree.objective"][::-1].copy()
            surely = False
    if kind.startswith(("duals", "planes")) and not surely:
        # What the multipliers then prove is one thing; that no false claim is proved with them the other.
        k = int(np.argmax(case.truth))
        upper[k] = case.truth[k] * (1 - 10.0 ** -rng.integers(1, 12))
    return kind, metadata, tensors, surely


def attack(case: Case, count: int, rng: np.random.Generator, path: Path) -> bool:
    """Mutate and check; return whether all that had to be rejected was."""
    for _ in range(count):
        kind, metadata, tensors, surely = mutate(case, rng)
        write_certificate(path, metadata, tensors)
        wrong = surely or bool((tensors["upper"] < np.nextafter(case.truth, -np.inf)).any())
        wrong |= kind == "bound nudged"
        try:
            milpq.check(path, *case.models)
        except CertificateError:
            case.verdicts[f"{kind}: rejected" if wrong else f"{kind}: true, rejected"] += 1
        else:
            case.verdicts[f"{kind}: ACCEPTED" if wrong else f"{kind}: true, accepted"] += 1
    write_certificate(path, case.metadata, case.tensors)
    content = path.read_bytes()
    for _ in range(count // 5):
        damaged = bytearray(content)
        for position in rng.integers(len(content), size=int(rng.integers(1, 4))).tolist():
            damaged[position] ^= 1 << int(rng.integers(8))
        if bytes(damaged) == content:
            continue
        path.write_bytes(damaged)
        try:
            milpq.check(path, *case.models)
        except CertificateError:
            case.verdicts["random bytes: rejected"] += 1
        else:
            case.verdicts["random bytes: ACCEPTED"] += 1
    write_certificate(path, case.metadata, case.tensors)
    milpq.check(path, *case.models)
    other = MODELS / "controller.onnx", MODELS / "controller_int8.tflite"
    if case.models != other:
        try:
            milpq.check(path, *other)
        except CertificateError:
            case.verdicts["other model: rejected"] += 1
        else:
            case.verdicts["other model: ACCEPTED"] += 1
    return not any(verdict.endswith("ACCEPTED") for verdict in case.verdicts)


def long_certificate(folder: Path) -> None:
    """Write a proof of many leaves, and measure what checking it takes."""
    models = MODELS / "controller.onnx", MODELS / "controller_int8.tflite"
    network, model = load_float(models[0]), load_quantized(models[1]).on_target(get_target("tflm"))
    for depth in (8, DEPTH):
        problem = Problem.create(network, model, milpq.Box([-1.0] * 3, [1.0] * 3), "continuous")
        splitter = Splitter(problem.domain, Zonotope(problem).whole)
        upper = 1.01 * Zonotope(problem).upper(problem.domain.root)[0]
        tree = Tree(splitter.root(), -1, len(upper))
        numbers = [0]
        for level in range(depth):
            halves: list[int] = []
            for number in numbers:
                part, d = tree.parts([number])[0], level % 3
                cut = float((part.box[6 + d] + part.box[9 + d]) // 2)
                halves += tree.split(number, d, cut, splitter.split(part, d, cut))
            numbers = halves
        for number in numbers:
            tree.settle(number, BOUND, upper)
        path = folder / "long.milpq"
        write(path, problem, [tree], upper, "tflm", dequantized=False)
        command = [sys.executable, "-m", "milpq", "check", str(path)]
        command += ["--float", str(models[0]), "--quantized", str(models[1])]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        script = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *command], capture_output=True, text=True, check=True
        )
        spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        size, peak = path.stat().st_size, int(done.stdout) // 1024
        print(f"{len(numbers):,} leaves, {size:,} bytes: checked in {spent:.1f} CPU s, peak {peak} MiB")


def main() -> None:
    """Run both."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1250
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long_certificate(folder)
        good, verdicts, leaves = True, Counter[str](), Counter[str]()
        every = list(cases(folder))
        for title, case in every:
            good &= attack(case, count // len(every), rng, folder / "mutated.milpq")
            verdicts += case.verdicts
            nodes = case.tensors["tree.node"]
            kinds = Counter(LEAVES[node] for node in nodes[nodes < 0].tolist())
            leaves += kinds
            found = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
            print(f"{title}: {found}; {sum(case.verdicts.values())} mutations")
        for verdict, number in sorted(verdicts.items()):
            print(f"  {number:5} {verdict}")
        wrong = {verdict: number for verdict, number in verdicts.items() if "true" not in verdict}
        rejected = sum(number for verdict, number in wrong.items() if verdict.endswith("rejected"))
        print(
            f"{sum(wrong.values()):,} false or no proof, {rejected:,} of them rejected, in {len(every)} certificates"
        )
        print("leaves:", ", ".join(f"{number:,} {kind}" for kind, number in sorted(leaves.items())))
        sys.exit(0 if good and set(leaves) == set(LEAVES.values()) else 1)


if __name__ == "__main__":
    main()
