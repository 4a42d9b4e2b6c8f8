"""What a second job brings: wall and processor seconds of the same questions with one and with two jobs.

    python benchmarks/speedup.py [--only WORD] [--jobs 1 2] [--repeat N]

Questions on ACAS Xu need MILPQ_DATA (default ../shared/data) and are skipped without it.  Wall seconds mean
something only where nothing else runs; processor seconds, those of worker processes included, show the extra work of
two jobs.  Brackets and witnesses must be the same for any number of jobs: "same" says whether they are, where no
limit cut the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import milpq
from milpq.bench.tasks.weights import rounded_weights
from milpq.quantization import quantize_fixed_point

MODELS = Path(__file__).parent / "models"
ACAS = "acasxu/ACASXU_run2a_1_1_batch_2000.onnx"


@dataclass(frozen=True, slots=True)
class Question:
    """One run of `milpq.bound`, given the number of jobs."""

    name: str
    ask: Callable[[int], milpq.Result]


def bundled() -> Iterator[Question]:
    """Yield the questions on bundled models."""

    def ask(name: str, region: str, domain: str) -> Callable[[int], milpq.Result]:
        return lambda jobs: milpq.bound(
            MODELS / f"{name}.onnx",
            MODELS / f"{name}_int8.tflite",
            MODELS / region,
            target="tflm",
            input_domain=domain,
            jobs=jobs,
        )

    yield Question("controller, whole range, continuous", ask("controller", "controller.toml", "continuous"))
    yield Question("controller, whole range, codes", ask("controller", "controller.toml", "codes"))
    yield Question("digits, codes", ask("digits", "digits.toml", "codes"))


def acas(path: Path) -> Iterator[Question]:
    """Yield the questions on ACAS Xu N1_1."""
    network = milpq.load(path)
    rounded = rounded_weights(network, 8)

    def radius(size: float, outputs: list[int] | None, gap: float) -> Callable[[int], milpq.Result]:
        box = milpq.Box(np.full(5, -size), np.full(5, size))
        return lambda jobs: milpq.bound(network, rounded, box, outputs=outputs, gap=gap, jobs=jobs)

    yield Question("A, radius 0.05, output 1, gap 1 %", radius(0.05, [1], 0.01))
    yield Question("A, radius 0.05, all outputs", radius(0.05, None, 1e-4))
    yield Question("A, radius 0.1, output 1, gap 1 %", radius(0.1, [1], 0.01))

    def fixed(bits: int, radius: float, gap: float) -> Callable[[int], milpq.Result]:
        codes = np.clip(np.rint(np.array([[-radius], [radius]]) * 256 * np.ones(5)), -128, 127)
        box = milpq.Box(codes[0] / 255 - 1e-9, codes[1] / 255 + 1e-9)
        quantized = quantize_fixed_point(network, bits).on_target(None)
        return lambda jobs: milpq.bound(network, quantized, box, input_domain="codes", gap=gap, jobs=jobs)

    for bits in (4, 6, 8, 10):
        yield Question(f"D, {bits} bits, ε 0.05, first centre", fixed(bits, 0.05, 1e-4))
    for bits in (8, 10):
        yield Question(f"D, {bits} bits, ε 0.1, first centre, gap 0.1", fixed(bits, 0.1, 0.1))


def processor_s() -> float:
    """Return the processor seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a second job brings.")
    parser.add_argument("--only", default="", help="questions whose name has this in it")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=1, help="the least wall time of so many runs counts")
    options = parser.parse_args()
    path = Path(os.environ.get("MILPQ_DATA", "../shared/data")) / ACAS
    questions = [*bundled(), *(acas(path) if path.exists() else ())]
    if not path.exists():
        print(f"skipped ACAS Xu: {path} is not there; set MILPQ_DATA")
    print("| Question | Jobs | Status | Bracket | Wall s | CPU s | Faster | Same |")
    print("|---|---|---|---|---|---|---|---|")
    for question in questions:
        if options.only in question.name:
            compare(question, options.jobs, options.repeat)
    return 0


def compare(question: Question, jobs: list[int], repeat: int) -> None:
    """Ask with each number of jobs, and print a line for each."""
    first: tuple[float, milpq.Result] | None = None
    for count in jobs:
        wall_s = cpu_s = np.inf
        result: milpq.Result | None = None
        for _ in range(repeat):
            wall, cpu = time.perf_counter(), processor_s()
            result = question.ask(count)
            wall_s, cpu_s = min(wall_s, time.perf_counter() - wall), min(cpu_s, processor_s() - cpu)
        assert result is not None
        first = first or (wall_s, result)
        same = (result.lower, result.upper) == (first[1].lower, first[1].upper)
        print(
            f"| {question.name} | {count} | {result.status} | [{result.lower:.6g}, {result.upper:.6g}] "
            f"| {wall_s:.1f} | {cpu_s:.1f} | {first[0] / wall_s:.2f} | {'yes' if same else 'NO'} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
