"""One instance of the competition: files in, a result file out.

References: the rules of VNN-COMP 2026 for the arguments and ``instances.csv``; the VNN-LIB 2.0 standard, sec. 5.3, for
the text of an assignment.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from pathlib import Path
from typing import Final, cast

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import MilpqError, NotAPairError, UnsupportedModelError, UsageError
from milpq.formats import load_float
from milpq.formats.vnnlib_query import DeclaredNetwork, Query, Tensor, read_vnnlib_query
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Smooth
from milpq.region.box import Box
from milpq.search.budget import Budget
from milpq.search.pool import round_down, round_up
from milpq.vnncomp.decide import Answer, decide
from milpq.vnncomp.question import Question, pose
from milpq.vnncomp.replay import Counterexample, Replay

VERSION: Final = "v1"

_MARGIN: Final = 0.02
_LEAST_MARGIN_S: Final = 1.0
"""Time kept back for the end of a search and the result file: a share of the limit, and at least so much."""


def run_instance(networks: str, query_file: Path, result_file: Path, timeout_s: float) -> Answer:
    """Decide an instance and write its result file.

    Parameters
    ----------
    networks : str
        As ``instances.csv`` has it: ``[('f', 'a.onnx'), ('g', 'b.onnx')]``, or one path for networks that are equal.
    query_file : Path
        VNN-LIB 2.0.
    result_file : Path
        Gets ``sat`` with the counterexample, ``unsat``, ``unknown`` or ``timeout``; ``error`` where files are not
        usable.
    timeout_s : float

    Raises
    ------
    MilpqError
        A file is not usable; the result file says ``error`` then.
    """
    budget = Budget(max(0.1, timeout_s - max(_LEAST_MARGIN_S, _MARGIN * timeout_s)))
    try:
        answer, question = _decide(networks, query_file, budget)
    except MilpqError:
        _write(result_file, "error\n")
        raise
    text = f"{answer.verdict}\n"
    if answer.counterexample is not None and question is not None:
        text += assignment(question, answer.counterexample)
    _write(result_file, text)
    return answer


def network_paths(text: str, query: Query, query_file: Path) -> dict[str, Path]:
    """Return the model file of each declared network.

    Relative paths are looked for in the working directory, beside the query and in the folder above it, where a
    benchmark has them.

    Raises
    ------
    UsageError
        A network has no file or two, or a name is not declared.
    """
    found: dict[str, Path] = {}
    for name, path in _pairs(text):
        if name is None:
            implemented = [network for network in query.networks if network.relation != "equal-to"]
            if len(implemented) != 1:
                raise UsageError(f"{query_file}: declares several networks; give [('name', 'file.onnx'), …]")
            name = implemented[0].name
        if name in found or all(network.name != name for network in query.networks):
            raise UsageError(f"{query_file}: network {name!r} is given twice or not declared")
        places = (Path(path), query_file.parent / path, query_file.parent.parent / path)
        found[name] = next((place for place in places if place.is_file()), places[0])
    for network in query.networks:
        twin = (
            None
            if network.relation != "equal-to" or network.relative is None
            else found.get(network.relative)
        )
        if twin is not None and found.setdefault(network.name, twin).resolve() != twin.resolve():
            raise UsageError(f"{query_file}: networks {network.name!r} and {network.relative!r} are equal-to")
        if network.name not in found:
            raise UsageError(f"{query_file}: there is no file for network {network.name!r}")
    return found


def assignment(question: Question, found: Counterexample) -> str:
    """Return a counterexample as the text of an assignment; inputs exactly, outputs as float32 gives them."""
    point = [_decimal(x) for x in found.point]
    parts: list[tuple[Tensor, Sequence[str]]] = []
    for network, outputs in ((question.first, found.first), (question.second, found.second)):
        parts += [(network.input, point), (network.output, [repr(y) for y in outputs])]
    lines: list[str] = []
    for tensor, values in parts:
        lines.append(f"{tensor.name} {tensor.kind} [{','.join(map(str, tensor.shape))}]")
        lines += values
    return "\n".join(lines) + "\n"


def _decide(networks: str, query_file: Path, budget: Budget) -> tuple[Answer, Question | None]:
    query = read_vnnlib_query(query_file)
    paths = network_paths(networks, query, query_file)
    try:
        question = pose(query, str(query_file))
        if question.empty:
            return Answer("unsat", "the bounds of an input contradict each other"), question
        files = paths[question.first.name], paths[question.second.name]
        loaded = _load(question.first, files[0]), _load(question.second, files[1])
        problem = Problem.create(loaded[0], loaded[1], _box(question))
    except (UnsupportedModelError, NotAPairError) as error:
        return Answer("unknown", str(error)), None
    replay: list[Replay] = []

    def replayed(point: Float64Array) -> Counterexample | None:
        if not replay:
            replay.append(Replay(question, loaded, files))
        return replay[0](point)

    return decide(question, problem, replayed, budget), question


def _load(declared: DeclaredNetwork, path: Path) -> FloatNetwork:
    network = load_float(path)
    if (network.input_size, network.output_size) != (declared.input.size, declared.output.size):
        raise UsageError(
            f"{path}: maps {network.input_size} numbers to {network.output_size}, but network {declared.name!r} is "
            f"declared to map {declared.input.size} to {declared.output.size}"
        )
    if network.note:
        # Such as a final sigmoid or softmax that the reader leaves out: the query speaks of what comes behind it.
        raise UnsupportedModelError(
            f"{path}: {network.note}; a query speaks of the output of the file itself"
        )
    smooth = next((node for node in network.nodes if isinstance(node, Smooth)), None)
    if smooth is not None:
        raise UnsupportedModelError(
            f"{path}: layer {smooth.name!r}: is a {smooth.curve.name}; queries are decided for ReLU and other clamps"
        )
    return network


def _box(question: Question) -> Box:
    """Return the box, rounded outwards to float64."""
    return Box(
        np.array([round_down(low) for low in question.lower]),
        np.array([round_up(high) for high in question.upper]),
    )


def _pairs(text: str) -> list[tuple[str | None, str]]:
    try:
        parsed: object = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return [(None, text)]
    if not isinstance(parsed, list):
        return [(None, text)]
    pairs: list[tuple[str | None, str]] = []
    for entry in cast("list[object]", parsed):
        match entry:
            case (str(name), str(path)):
                pairs.append((name, path))
            case _:
                raise UsageError(f"networks: {entry!r} is not a pair of a name and a file")
    return pairs


def _decimal(value: Fraction) -> str:
    """Return a fraction with finite decimals exactly."""
    context = Context(prec=1200, traps=[Inexact])
    quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return format(quotient.normalize(context), "f")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
