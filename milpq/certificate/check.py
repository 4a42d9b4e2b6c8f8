"""Checking a certificate: the claim of a stranger, proved again from the two model files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.certificate.execution import Execution
from milpq.certificate.format import BOUND, DUAL, EXECUTED, REWRITTEN, CertificateFile
from milpq.certificate.rewriting import Rewriter
from milpq.certificate.slopes import dual_upper
from milpq.certificate.tree import Leaf, Reader, Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.errors import (
    CertificateError,
    MilpqError,
    ModelFileError,
    UnprovenError,
    UnsupportedModelError,
)
from milpq.formats._files import PathLike
from milpq.formats.sides import FloatSource, QuantizedSource, load_sides, on_target
from milpq.merge import DomainKind, MergedActivation, Problem
from milpq.network.integer_network import IntegerNetwork
from milpq.network.pairing import check_ends
from milpq.region.box import Box

_BATCH_BYTES = 1 << 24
_EXECUTED_AT_ONCE = 1024
_CORNERS_AT_ONCE = 1 << 13
"""Neurons of leaves; each takes up to 30 kB."""
_NAMES = {BOUND: "bounded", EXECUTED: "executed", DUAL: "multipliers", REWRITTEN: "rewritten"}


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """A claim that has been proved.

    Parameters
    ----------
    upper : float
        No input of the region differs by more, in exact arithmetic: ``max |f_q − f| <= upper``, real units.
    objectives : float64, shape (2·chosen,)
        The same for ``f_q − f`` and then for ``f − f_q`` of each output.
    problem : Problem
        What was asked, rebuilt from the two models: region, domain, outputs.
    target : str
        Id of the inference target, empty where the model settles its rounding.
    leaves : dict of str to int
        How many leaves were ``bounded``, ``executed`` code by code, bounded with ``multipliers``, or ``rewritten``.
    time_s : float
    """

    upper: float
    objectives: Float64Array
    problem: Problem
    target: str
    leaves: dict[str, int]
    time_s: float


def check(certificate: PathLike, float_network: FloatSource, quantized: QuantizedSource) -> Verified:
    """Prove the claim of a certificate again.

    Parameters
    ----------
    certificate : path
    float_network : FloatNetwork, path or torch module
        Not read where the certificate compares with the integer model's own dequantized weights.
    quantized : QuantizedModel, IntegerNetwork, FloatNetwork, path or torch module

    Returns
    -------
    Verified
        What was proved: the bound, and the question it is about.

    Raises
    ------
    UnprovenError
        The certificate does not prove its claim; the leaf and the reason are named.
    CertificateError
        It is malformed, damaged, or about other networks.
    MilpqError
        A model cannot be read.

    *Soundness:* trusts the readers of the model files, exact execution, the alignment of the two networks, and the
    modules of ``milpq.certificate``.  No bound, solver or search is imported.
    """
    started = time.monotonic()
    with CertificateFile(certificate) as file:
        problem = _problem(file, float_network, quantized)
        claim = file.array("upper", 2 * len(problem.outputs))
        if len(claim) < 2 * len(problem.outputs):
            raise file.error(f"claims {len(claim)} bounds for {len(problem.outputs)} outputs")
        objectives, checker = file.array("tree.objective", len(claim)), _Checker(problem, claim)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # NaN proves nothing
                checker.run(file, objectives.tolist())
        except CertificateError as error:
            raise file.error(str(error), type(error)) from None
        upper = max(0.0, float(claim.max()))
        target, spent = file.metadata["target"], time.monotonic() - started
        return Verified(upper, claim, problem, target, checker.leaves, spent)


class _Checker:
    """Walks the trees of a certificate and compares each leaf with the claim."""

    def __init__(self, problem: Problem, claim: Float64Array) -> None:
        self._problem, self._claim = problem, claim
        self._zonotope = Zonotope(problem)
        self._splitter = Splitter(problem.domain, self._zonotope.whole)
        self._execution = Execution(problem, self._zonotope, claim)
        self.leaves = dict.fromkeys(_NAMES.values(), 0)

    def run(self, file: CertificateFile, objectives: list[int]) -> None:
        """Check every tree, and that together they prove every bound of the claim."""
        bounded = self._zonotope.leaves_in(_BATCH_BYTES)
        # With multipliers the corners of one layer are looked at together.
        widest = max(node.size for node in self._problem.merged.nodes)
        with_multipliers = min(self._zonotope.leaves_in(_BATCH_BYTES // 8), _CORNERS_AT_ONCE // widest + 1)
        executed = min(bounded, _EXECUTED_AT_ONCE)
        sizes = {BOUND: bounded, EXECUTED: executed, DUAL: with_multipliers, REWRITTEN: 1}
        reader = Reader(file, self._splitter)
        proved = np.zeros(len(self._claim), dtype=np.bool_)
        for objective in objectives:
            if not -1 <= objective < len(proved):
                raise CertificateError(f"a tree is about bound {objective} of {len(proved)}")
            which = slice(None) if objective < 0 else slice(objective, objective + 1)
            waiting: dict[int, list[Leaf]] = {kind: [] for kind in sizes}
            for leaf in reader.leaves():
                waiting[leaf.kind].append(leaf)
                if len(waiting[leaf.kind]) == sizes[leaf.kind]:
                    self._check(waiting[leaf.kind], which)
                    waiting[leaf.kind] = []
            for leaves in waiting.values():
                if leaves:
                    self._check(leaves, which)
            proved[which] = True
        reader.finish()
        if not proved.all():
            raise UnprovenError(f"no tree proves bound {int(np.argmin(proved))} of the claim")

    def _check(self, leaves: list[Leaf], which: slice) -> None:
        """Compare what leaves of one kind prove with the claim."""
        kind, parts = leaves[0].kind, [leaf.part for leaf in leaves]
        self.leaves[_NAMES[kind]] += len(leaves)
        cubes = self._splitter.cubes(parts)
        # A part without inputs proves itself.
        some = np.flatnonzero((cubes.lower <= cubes.upper).all(axis=1))
        upper = np.full((len(cubes), len(self._claim[which])), -np.inf)
        if kind == DUAL and which.start is None:
            raise CertificateError("multipliers belong to a leaf in a tree about one bound")
        if len(some):
            upper[some] = self._upper([leaves[row] for row in some.tolist()], which)
        wrong = np.argwhere(~(upper <= self._claim[which]))  # written so that NaN is wrong
        if len(wrong):
            leaf, column = int(wrong[0, 0]), int(wrong[0, 1])
            objective = column + (which.start or 0)
            output = self._problem.outputs[objective % len(self._problem.outputs)]
            sign = "f_q − f" if objective < len(self._problem.outputs) else "f − f_q"
            ends = zip(cubes.lower[leaf].tolist(), cubes.upper[leaf].tolist(), strict=True)
            where = ", ".join(f"[{low:.6g}, {high:.6g}]" for low, high in ends)
            raise UnprovenError(
                f"does not prove its claim: {sign} of output {output} is only shown to be at most "
                f"{float(upper[leaf, column])!r}, not {float(self._claim[objective])!r}, on a leaf that is "
                f"{_NAMES[kind]} ({where:.200}{', decided further' if parts[leaf].decisions else ''})"
            )

    def _upper(self, leaves: list[Leaf], which: slice) -> Float64Array:
        """Return what leaves of one kind prove of the bounds that a tree is about, shape (leaves, bounds)."""
        kind, parts, problem = leaves[0].kind, [leaf.part for leaf in leaves], self._problem
        cubes, limits = self._splitter.cubes(parts), self._splitter.limits(parts)
        if kind == EXECUTED:
            return self._execution.upper(cubes)[:, which]
        if kind == BOUND:
            return self._zonotope.upper(cubes, limits)[:, which]
        multipliers = np.concatenate([leaf.multipliers for leaf in leaves], axis=1)
        if kind == DUAL:
            trace = self._zonotope.trace(cubes, limits)
            return dual_upper(problem, trace, which.start, multipliers)[:, None]
        rewriter = Rewriter(
            problem, self._zonotope, lambda first, layer, _: multipliers[first : first + 2 * len(layer.a[0])]
        )
        return rewriter.upper(cubes, limits)[:, which]


def _problem(file: CertificateFile, float_source: FloatSource, quantized_source: QuantizedSource) -> Problem:
    """Rebuild the question from the models, and compare it with the one the certificate was made for."""
    stated = file.metadata
    known = ("domain", {"real", "continuous", "codes"}), ("float_side", {"file", "dequantized"})
    for field, values in known:
        if stated[field] not in values:
            raise file.error(f"knows no {field} {stated[field]!r:.40}")
    try:
        dequantized = stated["float_side"] == "dequantized"
        network, model = load_sides(float_source, quantized_source, dequantized=dequantized)
        quantized = on_target(model, stated["target"] or None)
        check_ends(network, quantized)
        box = Box(*(file.array(f"region.{end}", network.input_size) for end in ("lower", "upper")))
        outputs = file.array("outputs", network.output_size).tolist()
        kind = cast("DomainKind", stated["domain"]) if isinstance(quantized, IntegerNetwork) else None
        problem = Problem.create(network, quantized, box, kind, outputs)
    except (CertificateError, ModelFileError, UnsupportedModelError):
        raise
    except MilpqError as reason:
        raise file.error(f"asks a question that these networks do not answer: {reason}") from None
    asked = problem.domain.kind, problem.outputs.tolist(), problem.hash()
    if asked != (stated["domain"], outputs, stated["problem"]):
        raise file.error(
            f"is about another problem: it was made for {stated['problem'][:16]!r}, but these two models, on the "
            f"target, region, domain and outputs that it states, are {problem.hash()[:16]!r}"
        )
    expected = step_tables(problem)
    if not np.array_equal(expected, file.array("steps", len(expected))):
        raise file.error("its thresholds and levels of steps are not how the target rounds")
    return problem


def step_tables(problem: Problem) -> Int64Array:
    """Return thresholds and values of all step functions, one after the other, as a certificate holds them."""
    steps = (node.step for node in problem.merged.nodes if isinstance(node, MergedActivation))
    tables = [part for step in steps if step is not None for part in (step.thresholds, step.values)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *(table.ravel() for table in tables)])
