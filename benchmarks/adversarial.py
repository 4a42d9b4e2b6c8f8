"""Long adversarial runs: bit-exact executions against every bound of every problem at hand.

    python benchmarks/adversarial.py [--executions 1e8] [--seconds S] [--problem NAME]

A third of the inputs are random, a third lie at the ends of code cells (where roundings tie), a third climb: each is a
mutation of one of the best inputs so far, one coordinate at a time or along the gradient.  A difference above a bound,
by more than the error of its execution, is reported and ends the run with exit code 4.  The bounds are those of each
propagation, and the bracket of `milpq.bound`, whichever search it chose.  Problems from MILPQ_DATA (default
../shared/data) are skipped where it is absent.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import milpq
from milpq.bench.tasks.weights import rounded_weights
from milpq.bounds import differential, interval, symbolic, zonotope
from milpq.bounds.zonotope import supports
from milpq.formats.load import load_float
from milpq.merge import DomainKind, Problem
from milpq.quantization import quantize_fixed_point
from milpq.region.box import Box
from milpq.search.execution import Execution, signed
from milpq.search.gradient import difference_gradient
from milpq.search.inputs import FeedableInputs
from milpq.verify.models import load_box, load_pair

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MILPQ_DATA", "../shared/data"))
CHUNK = 1 << 15
SEARCH_S = 20.0


def problems() -> dict[str, Callable[[], Problem]]:
    """Return how to make every problem, by its name."""
    made: dict[str, Callable[[], Problem]] = {}
    for name, region in (
        ("controller", "controller"),
        ("controller", "controller_small"),
        ("digits", "digits"),
    ):
        for kind in ("codes", "continuous"):
            made[f"{region}, {kind}"] = partial(bundled, f"{name}.onnx", name, region, kind)
    made["digits_cnn, codes"] = partial(
        bundled, "digits_cnn_float.tflite", "digits_cnn", "digits_cnn", "codes"
    )
    made["regression, weights of 8 bits"] = regression
    if not DATA.exists():
        print(f"skipped: problems of MILPQ_DATA, {DATA} is not there")
        return made
    for name in ("silabs_autoencoder", "mlperftiny_ad01", "tflm_hello_world"):
        made[f"{name}, 4 codes"] = partial(published, name)
    made["mnist_3x100, weights of 8 bits"] = mnist
    made["mlperftiny_resnet8, 4 codes"] = partial(published, "mlperftiny_resnet8")
    for bits in (None, 4, 6, 8, 10):
        arithmetic = "int8 weights" if bits is None else f"fixed point of {bits} bits"
        made[f"ACAS Xu, {arithmetic}"] = partial(acasxu, bits)
    return made


def bundled(float_file: str, name: str, region: str, kind: DomainKind) -> Problem:
    """Return a problem on a pair of this repository."""
    models = HERE / "models"
    pair = load_pair(models / float_file, models / f"{name}_int8.tflite", "tflm", "file")
    box, _ = load_box(models / f"{region}.toml")
    return Problem.create(pair.float_network, pair.quantized, box, kind)


def regression() -> Problem:
    """Return the regression network of this repository against its 8-bit weights."""
    network = load_float(HERE / "models/regression.onnx")
    box = Box(np.full(network.input_size, -0.05), np.full(network.input_size, 0.05))
    return Problem.create(network, rounded_weights(network, 8), box)


def mnist() -> Problem:
    """Return a classifier of 784 inputs against its 8-bit weights, around one image."""
    network, rounded = (load_float(DATA / f"mnist/mnist_3x100{end}.onnx") for end in ("", "_w8"))
    box, _ = load_box(DATA / "mnist/image0_radius3.npz")
    return Problem.create(network, rounded, box)


def published(name: str) -> Problem:
    """Return a published model around a random input, 4 codes to each side."""
    hello = "hello" in name
    files = (DATA / f"models/{name}_{kind}.tflite" for kind in ("float" if hello else "fp32", "int8"))
    pair = load_pair(*files, "tflm", "dequantized" if hello else "file")
    entry = pair.quantized.input
    centre = np.rint(15 * np.random.default_rng(0).normal(size=entry.size))
    centre = np.clip(centre, entry.level_lower + 4, entry.level_upper - 4)
    scale = float(entry.float_scale[0])
    box = Box((centre - 4.5) * scale, (centre + 4.5) * scale)
    return Problem.create(pair.float_network, pair.quantized, box, "codes")


def acasxu(bits: int | None) -> Problem:
    """Return ACAS Xu N1_1 against its int8 weights in real arithmetic, or as fixed point of some bits."""
    network = load_float(DATA / "acasxu/ACASXU_run2a_1_1_batch_2000.onnx")
    box = Box(np.full(5, -0.05), np.full(5, 0.05))
    if bits is None:
        return Problem.create(network, rounded_weights(network, 8), box)
    return Problem.create(network, quantize_fixed_point(network, bits).on_target(None), box, "codes")


def bounds_of(problem: Problem) -> dict[str, np.ndarray]:
    """Return what each method claims of the objectives over the whole region."""
    methods = {"interval": interval, "symbolic": symbolic, "differential": differential}
    if supports(problem.merged):
        methods["zonotope"] = zonotope
    result = {}
    for name, method in methods.items():
        difference = method(problem, problem.domain.root).difference
        result[name] = np.concatenate(
            [difference.upper[0, problem.outputs], -difference.lower[0, problem.outputs]]
        )
    bracket = milpq.bound(
        problem.float_network,
        problem.quantized,
        problem.domain.box,
        input_domain=None if problem.domain.kind == "real" else problem.domain.kind,
        time_limit=SEARCH_S,
        jobs=1,
    )
    highest, lowest = (
        [getattr(output, end) for output in bracket.outputs] for end in ("max_upper", "min_lower")
    )
    result["bound"] = np.concatenate([highest, np.negative(lowest)])
    return result


class Attack:
    """Makes inputs, and remembers the best of them."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._problem, self._inputs = problem, FeedableInputs(problem)
        self._best = self._inputs.random(self._rng, 64)
        self._value = np.full(64, -np.inf)

    def points(self) -> np.ndarray:
        """Return the next inputs, shape (CHUNK, inputs)."""
        part = CHUNK // 3
        random = self._inputs.random(self._rng, part)
        ties = self._inputs.random(self._rng, part)
        if self._problem.domain.integer is not None:
            lower, upper = self._inputs.cell_ends(self._inputs.levels(ties))
            ties = np.where(self._rng.random(ties.shape) < 0.5, lower, upper)
        start = self._best[self._rng.integers(0, len(self._best), CHUNK - 2 * part)]
        width = self._inputs.upper - self._inputs.lower
        step = (
            width * self._rng.normal(size=start.shape) * 10.0 ** self._rng.uniform(-4, -0.5, (len(start), 1))
        )
        one = self._rng.integers(0, start.shape[1], len(start))
        single = np.zeros_like(step)
        row = np.arange(len(start))
        single[row, one] = step[row, one]
        moved = start + np.where(self._rng.random((len(start), 1)) < 0.5, single, step)
        objective = self._rng.integers(0, 2 * len(self._problem.outputs), 256)
        climbing = start[:256]
        gradient = sum(difference_gradient(self._problem, climbing, objective), np.zeros_like(climbing))
        moved[:256] = climbing + np.sign(gradient) * width * 10.0 ** self._rng.uniform(-3, 0, (256, 1))
        return np.concatenate([random, ties, self._inputs.snap(moved)])

    def learn(self, points: np.ndarray, values: np.ndarray) -> None:
        """Keep the inputs with the largest objectives."""
        largest = values.max(axis=1)
        top = np.argpartition(-largest, 64)[:64]
        points = np.concatenate([self._best, points[top]])
        value = np.concatenate([self._value, largest[top]])
        keep = np.argsort(-value, kind="stable")[:64]
        self._best, self._value = points[keep], value[keep]


def attack(name: str, problem: Problem, executions: int, seconds: float) -> bool:
    """Attack one problem; tell whether every bound held."""
    bounds = bounds_of(problem)
    execution, rival = Execution(problem), Attack(problem, 0)
    error = np.tile(execution.error, 2)
    largest = np.full(2 * len(problem.outputs), -np.inf)
    start, done = time.process_time(), 0
    while done < executions and time.process_time() - start < seconds:
        points = rival.points()
        values = signed(execution.run(points))
        rival.learn(points, values)
        largest = np.maximum(largest, values.max(axis=0))
        done += len(points)
    broken = [method for method, upper in bounds.items() if (largest - error > upper).any()]
    tightest = min(float(upper.max()) for upper in bounds.values())
    verdict = f"VIOLATED: {', '.join(broken)}" if broken else "held"
    print(
        f"| {name} | {done:,} | {float(largest.max()):.6g} | {tightest:.6g} | {', '.join(bounds)} | {verdict} | "
        f"{time.process_time() - start:.0f} |",
        flush=True,
    )
    return not broken


def main() -> int:
    """Attack every problem, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=float, default=1e8, help="for each problem")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="processor time for each problem")
    parser.add_argument("--problem", help="only problems whose name contains this")
    options = parser.parse_args()
    print(
        "| Problem | Executions | Largest difference | Tightest bound | Bounds | | CPU s |\n"
        "|---|---|---|---|---|---|---|"
    )
    held = [
        attack(name, make(), int(options.executions), options.seconds)
        for name, make in problems().items()
        if options.problem is None or options.problem in name
    ]
    return 0 if all(held) else 4


if __name__ == "__main__":
    sys.exit(main())
