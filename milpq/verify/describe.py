"""What a report says about the networks and the machine."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import milpq
from milpq._arrays import Int64Array, Matrix
from milpq.merge import Problem
from milpq.network.dynamic_network import DynamicNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import Affine, IntegerAffine, Step, is_sparse
from milpq.search.pool import Witness, refine_exact
from milpq.verify.result import Environment, ExecutedWitness, Memory

_EXACT_WEIGHTS = 2_000_000
"""Above this many weights the exact replay of a witness takes seconds; its float64 bound is kept then."""

_PACKAGES = ("numpy", "scipy", "numba", "highspy", "onnx", "tflite", "torch", "gurobipy", "pulp")


def execute_witness(problem: Problem, witness: Witness) -> tuple[Witness, ExecutedWitness]:
    """Replay a witness through both networks, in exact arithmetic where that is quick."""
    nodes = (node for node in problem.float_network.nodes if isinstance(node, Affine))
    if sum(_stored(term.matrix) for node in nodes for term in node.terms) <= _EXACT_WEIGHTS:
        witness = refine_exact(problem, witness)
    point = witness.point[None]
    quantized = problem.quantized
    codes = output_codes = None
    if isinstance(quantized, IntegerNetwork):
        levels = problem.quantized_levels(point)[0]
        codes = levels + quantized.input.zero_point
        output_codes = quantized.execute_codes(codes[None])[0]
    return witness, ExecutedWitness(
        witness.point,
        codes,
        problem.float_network.evaluate(point)[0],
        output_codes,
        problem.run_quantized(point)[0],
        witness.output,
        max(0.0, witness.lower),
    )


def memory(problem: Problem) -> Memory:
    """Return the bytes of weights and biases, a convolution kernel counted once.

    Float parameters take four bytes; integer weights one, two or four by their size, and biases four.
    """
    quantized = problem.quantized
    float_bytes = quantized_bytes = 0
    for index, node in enumerate(quantized.nodes):
        if isinstance(node, Affine):
            weights = sum(_stored(term.matrix) for term in node.terms)
            float_bytes += 4 * (len(node.bias) + weights)
            quantized_bytes += (
                4 * len(node.bias) + (1 if isinstance(quantized, DynamicNetwork) else 4) * weights
            )
        elif isinstance(node, IntegerAffine):
            channel = _channels(quantized.nodes, index + 1, node)
            biases = len(np.unique(channel))
            for term in node.terms:
                weights = _stored(term.matrix, channel)
                float_bytes += 4 * weights
                quantized_bytes += _weight_bytes(term.matrix) * weights
            float_bytes += 4 * biases
            quantized_bytes += 4 * biases
    return Memory(float_bytes, quantized_bytes)


def environment(solver: str | None, threads: int, seed: int) -> Environment:
    """Describe the versions and the machine of this run."""
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Environment(milpq.__version__, platform.python_version(), solver, versions, _cpu(), threads, seed)


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _stored(matrix: Matrix, channel: Int64Array | None = None) -> int:
    """Return how many weights a file holds for a matrix; rows of one channel share theirs."""
    if isinstance(matrix, np.ndarray):
        return int(matrix.size)
    in_row = np.diff(matrix.indptr).astype(np.int64)
    if channel is None:
        return int(in_row.sum())
    kernel = np.zeros(int(channel.max(initial=0)) + 1, dtype=np.int64)
    np.maximum.at(kernel, channel, in_row)
    return int(kernel.sum())


def _weight_bytes(matrix: Matrix) -> int:
    data = matrix if isinstance(matrix, np.ndarray) else matrix.data
    largest = float(np.abs(data).max(initial=0.0))
    return 1 if largest <= 255 else 2 if largest <= 65535 else 4


def _channels(nodes: Sequence[object], value: int, node: IntegerAffine) -> Int64Array:
    """Return the channel of each neuron: of a convolution, as the requantization behind it tells."""
    neurons = len(node.bias)
    if any(is_sparse(term.matrix) for term in node.terms):
        for step in nodes:
            if isinstance(step, Step) and step.source == value and len(step.function.rows) == neurons:
                return step.function.rows
    return np.arange(neurons, dtype=np.int64)
