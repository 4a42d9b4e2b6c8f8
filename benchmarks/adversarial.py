"""Long adversarial runs: bit-exact executions against every bound of every problem at hand.

    python benchmarks/adversarial.py [--executions 1e8] [--seconds S] [--problem NAME] [--state FILE]

A third of the inputs are random, a third lie at the ends of code cells (where roundings tie) or of the region, a third
climb: each is a mutation of one of the best inputs so far, one coordinate at a time, along a random direction or along
the gradient.  A difference above a bound, by more than the error of its execution, is reported and ends the run with
exit code 4.  The bounds are those of each propagation, and the bracket of `milpq.bound`, whichever search it chose.
With --state a run goes on from where the last one was stopped: executions are counted together, and the largest
differences of all runs are held against the bounds of this version.  Problems from MILPQ_DATA (default ../shared/data)
are skipped where it is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import milpq
from milpq._compiled import compiled, entry
from milpq.bench.tasks.weights import rounded_weights
from milpq.bounds import differential, interval, symbolic, zonotope
from milpq.bounds.zonotope import supports
from milpq.formats.load import load_float
from milpq.merge import DomainKind, Problem
from milpq.quantization import quantize_fixed_point
from milpq.region.box import Box
from milpq.search.execution import Execution
from milpq.search.gradient import difference_gradient
from milpq.search.inputs import FeedableInputs
from milpq.verify.models import load_box, load_pair

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MILPQ_DATA", "../shared/data"))
CHUNK = 1 << 15
VALUES = 1 << 22
"""Inputs times points that are made at once."""

SEARCH_S = 20.0
SAVE_S = 10.0


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


@entry
def _fill(points: np.ndarray, lower: np.ndarray, upper: np.ndarray, whole: bool, seed: np.uint64) -> None:
    """Set points to uniform ones, of whole numbers or of float32 numbers."""
    for p in range(len(points)):
        for i in range(len(lower)):
            seed, share = _next(seed)
            if whole:
                points[p, i] = min(lower[i] + np.floor(share * (upper[i] - lower[i] + 1.0)), upper[i])
            else:
                points[p, i] = lower[i] + share * (upper[i] - lower[i])
    if not whole:
        _snap(points, lower, upper, whole)


@entry
def _move_to_ends(points: np.ndarray, lower: np.ndarray, upper: np.ndarray, seed: np.uint64) -> None:
    """Move two of three inputs to either end."""
    for p in range(len(points)):
        for i in range(len(lower)):
            seed, share = _next(seed)
            if share < 1 / 3:
                points[p, i] = lower[i]
            elif share < 2 / 3:
                points[p, i] = upper[i]


@entry
def _mutate(
    points: np.ndarray,
    best: np.ndarray,
    row: np.ndarray,
    directions: np.ndarray,
    direction: np.ndarray,
    one: np.ndarray,
    length: np.ndarray,
) -> None:
    """Set points to the best ones, moved along one input or along a direction."""
    for p in range(len(points)):
        start, towards = best[row[p]], directions[direction[p]]
        if one[p] >= 0:
            points[p] = start
            points[p, one[p]] += length[p] * towards[one[p]]
        else:
            for i in range(points.shape[1]):
                points[p, i] = start[i] + length[p] * towards[i]


@entry
def _snap(points: np.ndarray, lower: np.ndarray, upper: np.ndarray, whole: bool) -> None:
    """Move points to the nearest that can be fed, as `FeedableInputs.snap` does: levels or float32 numbers."""
    for p in range(len(points)):
        for i in range(len(lower)):
            x = np.rint(points[p, i]) if whole else np.float64(np.float32(points[p, i]))
            points[p, i] = min(max(x, lower[i]), upper[i])


@compiled
def _next(state: np.uint64) -> tuple[np.uint64, float]:
    """Return the next state and number in [0, 1) of splitmix64 (Steele, Lea and Flood, 2014)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, np.float64((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


class Attack:
    """Makes inputs, and remembers the best of them."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._rng = np.random.default_rng([0, seed])
        self._problem, self._inputs = problem, FeedableInputs(problem)
        if self._inputs.on_codes:
            root = problem.domain.root
            self._lower, self._upper = root.level_lower[0].astype(float), root.level_upper[0].astype(float)
        else:
            self._lower, self._upper = self._inputs.lower.copy(), self._inputs.upper.copy()
        self._size = int(np.clip(VALUES // self._inputs.size, 64, CHUNK))
        self._best = self._uniform(64)
        self._value = np.full(64, -np.inf)

    def inputs(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the next inputs, shape (points, inputs), and their levels where only codes are fed."""
        part = self._size // 3
        made = self._uniform(self._size)
        self._ends(made[part : 2 * part])
        self._climbing(made[2 * part :])
        if not self._inputs.on_codes:
            return made, None
        assert self._problem.domain.integer is not None
        return self._problem.domain.integer.float_value(made), made.astype(np.int64)

    def _seed(self) -> np.uint64:
        return self._rng.integers(0, 2**63, dtype=np.uint64)

    def _uniform(self, count: int) -> np.ndarray:
        """Return uniform levels where only codes are fed, otherwise points."""
        made = np.empty((count, len(self._lower)))
        _fill(made, self._lower, self._upper, self._inputs.on_codes, self._seed())
        return made

    def _ends(self, points: np.ndarray) -> None:
        """Move points to ends: of cells, where roundings tie, or of the region where there are no cells."""
        if self._inputs.on_codes or self._problem.domain.integer is None:
            _move_to_ends(points, self._lower, self._upper, self._seed())
            return
        lower, upper = self._inputs.cell_ends(self._inputs.levels(points))
        points[:] = np.where(self._rng.integers(0, 2, points.shape, dtype=np.int8) == 1, lower, upper)

    def _climbing(self, points: np.ndarray) -> None:
        """Set points to mutations of the best so far: single inputs, random directions, and signs of gradients."""
        rng, width, count = self._rng, self._upper - self._lower, len(points)
        row = rng.integers(0, len(self._best), count)
        directions = width * rng.normal(size=(64, len(width)))
        # Of every other point one input is moved, by a direction that is zero elsewhere.
        one = np.where(np.arange(count) % 2 == 0, rng.integers(0, len(width), count), -1)
        length = 10.0 ** rng.uniform(-4, np.where(one >= 0, 0.0, -0.5))
        _mutate(points, self._best, row, directions, rng.integers(0, 64, count), one, length)
        steep = max(count // 128, 1)
        start = self._best[row[:steep]]
        integer = self._problem.domain.integer
        if self._inputs.on_codes and integer is not None:
            read = integer.float_value(start.astype(np.int64))
        else:
            read = start
        objective = rng.integers(0, 2 * len(self._problem.outputs), steep)
        gradient = np.sign(sum(difference_gradient(self._problem, read, objective), np.zeros_like(read)))
        points[:steep] = start + gradient * width * 10.0 ** rng.uniform(-3, 0, (steep, 1))
        _snap(points, self._lower, self._upper, self._inputs.on_codes)

    def learn(self, points: np.ndarray, largest: np.ndarray) -> None:
        """Keep the inputs with the largest differences, shape (points,); of codes, their levels."""
        top = np.argpartition(-largest, 63)[:64]
        points = np.concatenate([self._best, points[top]])
        value = np.concatenate([self._value, largest[top]])
        keep = np.argsort(-value, kind="stable")[:64]
        self._best, self._value = points[keep], value[keep]


class Record:
    """How far the attacks of each problem have come, in a file that later runs go on from."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = {} if path is None or not path.exists() else json.loads(path.read_text())

    def of(self, problem: Problem) -> dict[str, Any]:
        """Return runs, executions, processor seconds and the largest objectives of a problem so far."""
        empty = {"runs": 0, "executions": 0, "cpu_s": 0.0, "largest": None}
        return self._known.setdefault(problem.hash(), empty)

    def save(self) -> None:
        """Write the file in one step."""
        if self._path is not None:
            beside = self._path.with_suffix(".part")
            beside.write_text(json.dumps(self._known))
            beside.replace(self._path)


def attack(name: str, problem: Problem, record: Record, executions: int, seconds: float) -> bool:
    """Attack one problem until so many executions are on record; tell whether every bound held."""
    so_far = record.of(problem)
    execution, rival = Execution(problem), Attack(problem, so_far["runs"])
    so_far["runs"] += 1
    largest = np.full(2 * len(problem.outputs), -np.inf)
    if so_far["largest"] is not None:
        largest = np.array(so_far["largest"])
    before = so_far["cpu_s"]
    start = saved = time.process_time()
    while so_far["executions"] < executions and time.process_time() - start < seconds:
        points, levels = rival.inputs()
        difference = execution.run(points, levels)
        rival.learn(points if levels is None else levels.astype(np.float64), np.abs(difference).max(axis=1))
        here = np.concatenate([difference.max(axis=0), -difference.min(axis=0)])
        largest = np.maximum(largest, here)
        so_far["executions"] += len(points)
        so_far["largest"] = largest.tolist()
        so_far["cpu_s"] = before + time.process_time() - start
        if time.process_time() - saved > SAVE_S:
            record.save()
            saved = time.process_time()
    record.save()
    bounds = bounds_of(problem)
    error = np.tile(execution.error, 2)
    broken = [method for method, upper in bounds.items() if (largest - error > upper).any()]
    tightest = min(float(upper.max()) for upper in bounds.values())
    verdict = f"VIOLATED: {', '.join(broken)}" if broken else "held"
    print(
        f"| {name} | {so_far['executions']:,} | {float(largest.max()):.6g} | {tightest:.6g} | "
        f"{', '.join(bounds)} | {verdict} | {so_far['cpu_s']:.0f} |",
        flush=True,
    )
    return not broken


def main() -> int:
    """Attack every problem, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=float, default=1e8, help="for each problem")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="processor time for each problem")
    parser.add_argument("--problem", help="only problems whose name contains this")
    parser.add_argument("--state", type=Path, help="file to go on from, and to keep what was reached in")
    options = parser.parse_args()
    record = Record(options.state)
    print(
        "| Problem | Executions | Largest difference | Tightest bound | Bounds | | CPU s |\n"
        "|---|---|---|---|---|---|---|"
    )
    held = [
        attack(name, make(), record, int(options.executions), options.seconds)
        for name, make in problems().items()
        if options.problem is None or options.problem in name
    ]
    return 0 if all(held) else 4


if __name__ == "__main__":
    sys.exit(main())
