"""What no bound can get below without deciding rounding steps: the largest difference of networks with free roundings.

    python benchmarks/noise_floor.py [--problem NAME] [--steps 200] [--starts 4]

In the *relaxed problem* an undecided step may take any value of the convex hull of its graph over the accumulators that
reach it, each neuron and each input on its own; ReLU phases, saturation, the input quantizer and decided steps are
exact.  Interval, backward and linear-programming bounds over such hulls, and a search that cuts nothing but phases,
take steps to be as free.  So the value of any point of the relaxed problem, found here by ascent over inputs and
roundings together, is a number below which none of them can get.  Beside it stand the same ascent with every step
executed, and the differential bound.

A neuron's hull is taken over accumulators that some point of the relaxed problem has already reached, beginning with
bit-exact executions; it only grows while the ascent goes on.  So the floor holds for any bounds of the ranges inside.
Models from MILPQ_DATA (default ../shared/data) are skipped where it is absent.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from milpq.bench.suite import CodesRegion
from milpq.bench.tasks.regions import build_region
from milpq.bounds import differential
from milpq.merge import DomainKind, MergedAffine, Problem
from milpq.merge.nodes import MergedActivation
from milpq.network.integer_network import IntegerNetwork
from milpq.network.nodes import apply_matrix
from milpq.rounding.step import NEVER
from milpq.verify.models import load_box, load_pair

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MILPQ_DATA", "../shared/data"))
ROWS = 256
LARGEST = 32
"""Objectives that get long ascents: those that are ahead after a short one."""

SAMPLES = 4_000
FIRST_RATE, LAST_RATE = 0.5, 0.01


def problems() -> dict[str, Callable[[], Problem]]:
    """Return how to make every problem, by its name."""
    kinds: tuple[DomainKind, ...] = ("codes", "continuous")
    made: dict[str, Callable[[], Problem]] = {f"digits, {kind}": partial(digits, kind) for kind in kinds}
    if not DATA.exists():
        print(f"skipped: problems of MILPQ_DATA, {DATA} is not there")
        return made
    for name in ("silabs_autoencoder", "mlperftiny_ad01"):
        for radius in (1, 4, 16):
            for kind in kinds:
                made[f"{name}, {radius} codes, {kind}"] = partial(published, name, radius, kind)
    return made


def digits(kind: DomainKind) -> Problem:
    """Return the bundled classifier around one image."""
    models = HERE / "models"
    pair = load_pair(models / "digits.onnx", models / "digits_int8.tflite", "tflm", "file")
    box, _ = load_box(models / "digits.toml")
    return Problem.create(pair.float_network, pair.quantized, box, kind)


def published(name: str, radius: int, kind: DomainKind) -> Problem:
    """Return a published model on the region of ``configs/tinyml.toml``."""
    files = (DATA / f"models/{name}_{end}.tflite" for end in ("fp32", "int8"))
    pair = load_pair(*files, "tflm", "file")
    assert isinstance(pair.quantized, IntegerNetwork)
    region = CodesRegion(center_codes="normal", radius_codes=radius)
    return Problem.create(
        pair.float_network, pair.quantized, build_region(region, pair.quantized, DATA), kind
    )


class Hull:
    """The convex hull of the graph of one layer's steps over the accumulators reached so far."""

    def __init__(self, node: MergedActivation) -> None:
        assert node.step is not None and node.scale_in is not None and node.scale_out is not None
        self._node, self._step = node, node.step
        self._unit, self._out = node.scale_in, node.scale_out
        self._low, self._high = np.full(node.size, np.inf), np.full(node.size, -np.inf)

    def reach(self, v: np.ndarray) -> None:
        """Take in accumulators, shape (points, neurons), real units."""
        accumulator = np.rint(v / self._unit)
        self._low = np.minimum(self._low, accumulator.min(axis=0))
        self._high = np.maximum(self._high, accumulator.max(axis=0))

    @property
    def undecided(self) -> int:
        """Number of steps with a threshold within reach."""
        ends = self._low.astype(np.int64), self._high.astype(np.int64)
        return int((self._step.plateau(ends[0]) != self._step.plateau(ends[1])).sum())

    def execute(self, v: np.ndarray) -> np.ndarray:
        """Return the step's values."""
        return self._out * self._step(np.rint(v / self._unit).astype(np.int64))

    def values(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the step's value and a lower and an upper value within the hull, at any reals, (points, neurons).

        The upper one runs along the chords from one plateau's left end to the next one's, the lower one along those of
        right ends: lines between points of the graph.  Outside of what was reached all three are the same.
        """
        step, accumulator = self._step, v / self._unit
        plateau = step.plateau(np.rint(accumulator).astype(np.int64))
        columns = step.thresholds.shape[1]
        rows = step.rows
        left = np.where(plateau > 0, step.thresholds[rows, np.maximum(plateau - 1, 0)], -NEVER)
        right = np.where(plateau < columns, step.thresholds[rows, np.minimum(plateau, columns - 1)], NEVER)
        value = step.values[rows, plateau].astype(float)
        above = step.values[rows, np.minimum(plateau + 1, columns)]
        below = step.values[rows, np.maximum(plateau - 1, 0)]
        inside = (accumulator >= self._low) & (accumulator <= self._high)
        start, end = np.maximum(left, self._low), np.minimum(right - 1, self._high)
        share = np.clip((accumulator - start) / np.maximum(right - start, 1), 0, 1)
        upper = np.where(inside & (right <= self._high), value + (above - value) * share, value)
        share = np.clip((end - accumulator) / np.maximum(end - left + 1, 1), 0, 1)
        lower = np.where(inside & (left - 1 >= self._low), value - (value - below) * share, value)
        return self._out * value, self._out * lower, self._out * upper


class Relaxed:
    """The relaxed problem: executed forward, differentiated backward."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem, self._nodes = problem, problem.merged.nodes
        self._hulls = {
            value: Hull(node)
            for value, node in enumerate(self._nodes, 1)
            if isinstance(node, MergedActivation) and node.step is not None
        }
        self._rng = np.random.default_rng(seed)
        levels = self._rng.integers(*self._ends(), endpoint=True, size=(SAMPLES, problem.merged.input_size))
        nothing = {value: np.zeros(1) for value in self._hulls}
        self._forward(levels, np.full(levels.shape, 0.5), nothing, free=False)

    @property
    def undecided(self) -> tuple[int, int]:
        """Number of undecided steps, and of all."""
        sizes = [self._nodes[value - 1].size for value in self._hulls]
        return sum(hull.undecided for hull in self._hulls.values()), sum(sizes)

    def ascend(self, objectives: np.ndarray, steps: int, *, free: bool) -> np.ndarray:
        """Return the largest values found of objectives ``[d, −d]``, with free roundings or with executed ones."""
        problem, rng, rows = self.problem, self._rng, np.arange(len(objectives))
        outputs = problem.outputs[objectives % len(problem.outputs)]
        sign = np.where(objectives < len(problem.outputs), 1.0, -1.0)
        unit = np.zeros((len(rows), problem.merged.output_size))
        unit[rows, outputs] = sign
        low, high = self._ends()
        place = rng.random((len(rows), problem.merged.input_size))
        offset = rng.random(place.shape)
        noise = {value: rng.uniform(-1, 1, (len(rows), self._nodes[value - 1].size)) for value in self._hulls}
        best = np.full(len(rows), -np.inf)
        for step in range(steps):
            levels = np.rint(low + place * (high - low)).astype(np.int64)
            difference, slopes, cells = self._forward(levels, offset, noise, free=free)
            best = np.maximum(best, sign * difference[rows, outputs])
            through, apart, on_noise = self._backward(unit, slopes)
            rate = FIRST_RATE * (LAST_RATE / FIRST_RATE) ** (step / steps)
            integer = problem.domain.integer
            assert integer is not None
            place = np.clip(
                place + rate * np.sign(through * integer.scale + apart * integer.float_scale), 0, 1
            )
            offset = np.clip(offset + rate * np.sign(apart * cells), 0, 1)
            if free:
                for value, here in noise.items():
                    noise[value] = np.clip(here + 2 * rate * np.sign(on_noise[value]), -1, 1)
        return best

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        root = self.problem.domain.root
        return root.level_lower[0], root.level_upper[0]

    def _forward(
        self, levels: np.ndarray, offset: np.ndarray, noise: dict[int, np.ndarray], *, free: bool
    ) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """Return the difference of all outputs, the slopes of every activation, and how wide the cells are."""
        integer = self.problem.domain.integer
        assert integer is not None
        cells = self.problem.domain.cubes_of_levels(levels, levels)
        width = cells.upper - cells.lower
        a, v = [np.clip(cells.lower + offset * width, cells.lower, cells.upper)], [levels * integer.scale]
        slopes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for value, node in enumerate(self._nodes, 1):
            if isinstance(node, MergedAffine):
                sides = [node.float_bias, node.quantized_bias]
                for term in node.terms:
                    sides[0] = sides[0] + apply_matrix(term.float_matrix, a[term.source])
                    sides[1] = sides[1] + apply_matrix(term.quantized_matrix, v[term.source])
                a.append(sides[0])
                v.append(sides[1])
                continue
            source, other = a[node.source], v[node.source]
            a.append(node.phi(source))
            passes = ((source > node.lower) & (source < node.upper)).astype(float)
            hull = self._hulls.get(value)
            if hull is None:
                v.append(node.phi(other))
                slopes[value] = passes, ((other > node.lower) & (other < node.upper)).astype(float)
                continue
            hull.reach(other)
            middle, lower, upper = hull.values(other)
            # On a plateau that cannot move the network is felt as the clamp it rounds, which only guides the ascent.
            slopes[value] = passes, (upper > lower).astype(float)
            here = noise[value]
            moved = np.where(here > 0, middle + here * (upper - middle), middle + here * (middle - lower))
            v.append(moved if free else hull.execute(other))
        output = self.problem.merged.output
        return v[output] - a[output], slopes, width

    def _backward(
        self, unit: np.ndarray, slopes: dict[int, tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """Return the gradient through the quantized input, through the float one, and in every rounding."""
        size = self.problem.merged.output
        quantized: list[np.ndarray | float] = [0.0] * (size + 1)
        real: list[np.ndarray | float] = [0.0] * (size + 1)
        quantized[size], real[size] = unit, -unit
        on_noise: dict[int, np.ndarray] = {}
        for value in range(size, 0, -1):
            node, on_v, on_a = self._nodes[value - 1], np.asarray(quantized[value]), np.asarray(real[value])
            if isinstance(node, MergedAffine):
                for term in node.terms:
                    quantized[term.source] = quantized[term.source] + on_v @ term.quantized_matrix
                    real[term.source] = real[term.source] + on_a @ term.float_matrix
            else:
                on_noise[value] = on_v
                quantized[node.source] = quantized[node.source] + on_v * slopes[value][1]
                real[node.source] = real[node.source] + on_a * slopes[value][0]
        return np.asarray(quantized[0]), np.asarray(real[0]), on_noise


def floor(problem: Problem, steps: int, starts: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return the largest executed values, those of the relaxed problem, (objectives,) each, and undecided steps."""
    relaxed = Relaxed(problem, seed=0)
    count = 2 * len(problem.outputs)
    found = []
    for free in (False, True):
        best = np.full(count, -np.inf)
        for first in range(0, count, ROWS):
            part = np.arange(first, min(first + ROWS, count))
            best[part] = relaxed.ascend(part, steps // 4, free=free)
        for _ in range(starts):
            part = np.argsort(-best)[:LARGEST]
            best[part] = np.maximum(best[part], relaxed.ascend(part, steps, free=free))
        found.append(best)
        if not free:
            undecided = relaxed.undecided
    return found[0], np.maximum(*found), undecided


def main() -> None:
    """Print a line for every problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", help="only names with this in them")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--starts", type=int, default=4)
    options = parser.parse_args()
    print(f"{'problem':38} {'executed':>9} {'floor':>9} {'mean':>9} {'bound':>10} undecided  CPU s")
    for name, make in problems().items():
        if options.problem and options.problem not in name:
            continue
        problem, started = make(), time.process_time()
        executed, found, (undecided, steps) = floor(problem, options.steps, options.starts)
        seconds = time.process_time() - started
        difference = differential(problem, problem.domain.root).difference
        bound = max(difference.upper[0, problem.outputs].max(), -difference.lower[0, problem.outputs].min())
        half = len(found) // 2
        mean = np.maximum(found[:half], found[half:]).mean()
        print(
            f"{name:38} {executed.max():9.4g} {found.max():9.4g} {mean:9.4g} {bound:10.4g} "
            f"{undecided:5} of {steps:4} {seconds:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
