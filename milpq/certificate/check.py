"""Checking a certificate: the claim of a stranger, proved again from the two model files."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from milpq._arrays import Float64Array
from milpq.certificate.execution import Execution
from milpq.certificate.format import BOUND, DUAL, EXECUTED, REWRITTEN, CertificateFile
from milpq.certificate.rewriting import Rewriter
from milpq.certificate.slopes import dual_upper
from milpq.certificate.traces import Limits
from milpq.certificate.tree import Batch, Reader, Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError, MilpqError, UnprovenError
from milpq.formats import TorchModule, load_float, load_quantized
from milpq.formats._files import PathLike
from milpq.merge import DomainKind, MergedActivation, Problem, QuantizedNetwork
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.layout import match_layouts
from milpq.network.pairing import check_ends, dequantized_twin
from milpq.network.quantized_model import QuantizedModel
from milpq.region.box import Box
from milpq.rounding.targets import get_target

FloatSource: TypeAlias = "FloatNetwork | PathLike | TorchModule"
QuantizedSource: TypeAlias = "QuantizedNetwork | QuantizedModel | DynamicNetwork | PathLike | TorchModule"

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
        claim = file.array("upper")
        if claim.shape != (2 * len(problem.outputs),):
            raise file.error(f"claims {len(claim)} bounds for {len(problem.outputs)} outputs")
        checker = _Checker(problem, claim)
        try:
            checker.run(file)
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
        self._rewriter = Rewriter(problem, self._zonotope)
        self.leaves = dict.fromkeys(_NAMES.values(), 0)

    def run(self, file: CertificateFile) -> None:
        """Check every tree, and that together they prove every bound of the claim."""
        bounded = self._zonotope.leaves_in(_BATCH_BYTES)
        # With multipliers the ends of all layers are kept, and the corners of one layer are looked at together.
        widest = max(node.size for node in self._problem.merged.nodes)
        with_multipliers = min(self._zonotope.leaves_in(_BATCH_BYTES // 8), _CORNERS_AT_ONCE // widest + 1)
        executed = min(bounded, _EXECUTED_AT_ONCE)
        sizes = {BOUND: bounded, EXECUTED: executed, DUAL: with_multipliers, REWRITTEN: 1}
        reader = Reader(file, self._splitter, sizes)
        proved = np.zeros(len(self._claim), dtype=np.bool_)
        for objective in file.array("tree.objective").tolist():
            if not -1 <= objective < len(proved):
                raise CertificateError(f"a tree is about bound {objective}, but there are {len(proved)}")
            which = slice(None) if objective < 0 else slice(objective, objective + 1)
            for batch in reader.leaves():
                self._check(batch, which)
            proved[which] = True
        reader.finish()
        if not proved.all():
            raise UnprovenError(f"no tree proves bound {int(np.argmin(proved))} of the claim")

    def _check(self, batch: Batch, which: slice) -> None:
        cubes, limits = self._splitter.cubes(batch.parts), self._splitter.limits(batch.parts)
        # A part without inputs proves itself.
        some = np.flatnonzero((cubes.lower <= cubes.upper).all(axis=1))
        upper = np.full((len(cubes), len(self._claim)), -np.inf)
        self.leaves[_NAMES[batch.kind]] += len(cubes)
        if batch.kind == REWRITTEN and len(some):
            upper = self._rewriter.upper(cubes, limits)
        elif batch.kind == EXECUTED and len(some):
            upper[some] = self._execution.upper(cubes.select(some))
        elif batch.kind == BOUND and len(some):
            decided = None if limits is None else Limits(limits.lower[:, some], limits.upper[:, some])
            upper[some] = self._zonotope.upper(cubes.select(some), decided)
        elif batch.kind == DUAL:
            if which.start is None or len(some) < len(cubes):
                raise CertificateError(
                    "multipliers belong to a leaf that has inputs, in a tree about one bound"
                )
            trace = self._zonotope.trace(cubes, limits, keep=True)
            upper[:, which.start] = dual_upper(self._problem, trace, which.start, batch.multipliers)
        wrong = np.argwhere(~(upper[:, which] <= self._claim[which]))  # written so that NaN is wrong
        if len(wrong):
            leaf, objective = int(wrong[0, 0]), int(wrong[0, 1]) + (which.start or 0)
            output = self._problem.outputs[objective % len(self._problem.outputs)]
            sign = "f_q − f" if objective < len(self._problem.outputs) else "f − f_q"
            ends = zip(cubes.lower[leaf].tolist(), cubes.upper[leaf].tolist(), strict=True)
            where = ", ".join(f"[{low:.6g}, {high:.6g}]" for low, high in ends)
            raise UnprovenError(
                f"does not prove its claim: {sign} of output {output} is only shown to be at most "
                f"{float(upper[leaf, objective])!r}, not {float(self._claim[objective])!r}, on a leaf among the first "
                f"{batch.number} of a tree ({where:.200}{', decided further' if batch.parts[leaf].decisions else ''})"
            )


def _problem(file: CertificateFile, float_source: FloatSource, quantized_source: QuantizedSource) -> Problem:
    """Rebuild the question from the models, and compare it with the one the certificate was made for."""
    stated = file.metadata
    outputs = file.array("outputs").tolist()
    if stated["domain"] not in {"real", "continuous", "codes"} or stated["float_side"] not in {
        "file",
        "dequantized",
    }:
        raise file.error(
            f"knows no domain {stated['domain']!r:.40} of a {stated['float_side']!r:.40} float side"
        )
    model = (
        load_quantized(quantized_source)
        if isinstance(quantized_source, str | os.PathLike | TorchModule)
        else quantized_source
    )
    if stated["float_side"] == "dequantized":
        if not isinstance(model, QuantizedModel):
            raise file.error(
                "compares with dequantized weights, but the quantized network is no integer model"
            )
        network = dequantized_twin(model)
    else:
        stored = isinstance(float_source, str | os.PathLike | TorchModule)
        network = load_float(float_source) if stored else float_source
        if isinstance(model, QuantizedModel | FloatNetwork):
            network = match_layouts(network, model)
    if isinstance(model, QuantizedModel | DynamicNetwork):
        model = model.on_target(get_target(stated["target"]) if stated["target"] else None)
    check_ends(network, model)
    try:
        box = Box(file.array("region.lower"), file.array("region.upper"))
        kind = cast("DomainKind", stated["domain"]) if isinstance(model, IntegerNetwork) else None
        problem = Problem.create(network, model, box, kind, outputs)
    except MilpqError as reason:
        raise file.error(f"asks a question that these networks do not answer: {reason}") from None
    if problem.outputs.tolist() != outputs or problem.hash() != stated["problem"]:
        raise file.error(
            f"is about another problem: it was made for {stated['problem'][:16]!r}, but these two models, on the "
            f"target, region, domain and outputs that it states, are {problem.hash()[:16]!r}"
        )
    expected = step_tables(problem)
    found = file.steps()
    for name in sorted({*expected, *found}):
        if name not in expected or name not in found or not np.array_equal(expected[name], found[name]):
            raise file.error(f"its table {name!r:.40} is not how the target rounds there")
    return problem


def step_tables(problem: Problem) -> dict[str, np.ndarray]:
    """Return the tables of all step functions by the names that a certificate gives them."""
    tables: dict[str, np.ndarray] = {}
    for index, node in enumerate(problem.merged.nodes):
        if isinstance(node, MergedActivation) and node.step is not None:
            tables[f"step.{index}.thresholds"] = node.step.thresholds
            tables[f"step.{index}.values"] = node.step.values
    return tables
