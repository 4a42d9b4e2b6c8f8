"""Fuzz every reader: mutations of real files must end in a read or in one clear error.

    python benchmarks/fuzz.py [--cases 1e6] [--seconds S] [--seed 0]

Bytes are flipped, overwritten with extremes, cut out, repeated, or spliced from another file of the kind.  A reader
may return or raise a MilpqError; anything else (another exception, more than SLOW seconds, more memory than LIMIT) is a
failure, whose file is kept.  A network that is read is also executed at one input, which must not crash.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

import milpq
from milpq.bench.suite import load_suite
from milpq.errors import MilpqError
from milpq.formats import load, load_region
from milpq.formats.vnnlib_query import read_vnnlib_query
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.rounding.targets import get_target
from milpq.search.checkpoint import Journal

MODELS = Path(__file__).resolve().parent / "models"
SUITES = MODELS.parent.parent / "configs"
QUERY = """(vnnlib-version <2.0>)
(declare-network f (declare-input X_f real [2]) (declare-output Y_f real [1]))
(declare-network g (isomorphic-to f) (declare-input X_g real [2]) (declare-output Y_g real [1]))
(assert (and (<= X_f[0] 0.5) (>= X_f[0] -0.5) (<= X_f[1] 0.5) (>= X_f[1] -0.5)))
(assert (and (== X_f[0] X_g[0]) (== X_f[1] X_g[1])))
(assert (or (> Y_g[0] (+ Y_f[0] 0.05)) (> Y_f[0] (+ Y_g[0] 0.05))))
"""
SLOW = 20.0
RARE = {"keras": 1e-3, "h5": 1e-3}
"""How often kinds are tried whose readers start a process, next to 1 for the others."""
LIMIT = 6 << 30


def seeds(folder: Path) -> dict[str, tuple[Callable[[Path], object], list[bytes]]]:
    """Return, by name, a reader and real files; a name's last part is the ending of its files."""
    nnet = "// comment\n2,2,1,3,\n2,3,1,\n0,\n-1,-1,\n1,1,\n0,0,0,\n1,1,1,\n"
    nnet += "1,2,\n3,4,\n5,6,\n0.5,\n0.25,\n-1e-2,\n1,-1,2,\n0,\n"
    layer = {"name": "a", "weights": [[1, -2], [3, 4]], "weight_scales": 0.5, "bias": [1, 2]}
    entry = {"size": 2, "scale": 0.1, "code_lower": -8, "code_upper": 7}
    network = {"schema": "milpq-network/1", "input": entry, "layers": [layer]}
    np.savez_compressed(folder / "box.npz", lower=np.zeros(3), upper=np.ones(3, dtype=np.float32))
    query = b"(declare-const X_0 Real)\n(assert (<= X_0 0.5))\n(assert (>= X_0 -0.5))\n"

    def some(pattern: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted(MODELS.glob(pattern))]

    controller = load(MODELS / "controller.onnx")
    quantized = load(MODELS / "controller_int8.tflite")
    small = load_region(MODELS / "controller_small.toml")
    samples = np.random.default_rng(0).uniform(-1.0, 1.0, (100, 3))
    milpq.save(milpq.quantize(controller, samples), folder / "quantized.onnx")
    milpq.bound(controller, quantized, small, target="tflm", gap=0.1, certificate=folder / "proof.milpq")

    milpq.bound(
        controller,
        quantized,
        MODELS / "controller.toml",
        target="tflm",
        time_limit=2.0,
        journal=folder / "search.npz",
    )
    write_keras(folder)
    np.savez(folder / "arrays.npz", weights=np.array([[1, -2], [3, 4]]), bias=np.array([1, 2]))
    stored = layer | {"weights": {"array": "weights"}, "bias": {"array": "bias"}}
    beside = {"schema": "milpq-network/1", "arrays": "case.arrays.npz", "input": entry, "layers": [stored]}
    np.save(folder / "center.npy", np.linspace(-0.5, 0.5, 3))
    problem = Problem.create(controller, quantized.on_target(get_target("tflm")), small)

    def verify(path: Path) -> object:
        return milpq.check(path, controller, quantized)

    def open_arrays(path: Path) -> object:
        path.with_name("arrays.json").write_text(json.dumps(beside), encoding="utf-8")
        return load(path.with_name("arrays.json"))

    def around_center(path: Path) -> object:
        path.with_name("center.toml").write_text(f'center = "{path.name}"\nradius = 0.1\n', encoding="utf-8")
        return load_region(path.with_name("center.toml"))

    def resume(path: Path) -> object:
        return Journal(path, problem, "fuzz", resume=True)

    return {
        "quantized.onnx": (load, [(folder / "quantized.onnx").read_bytes()]),
        "keras": (load, [(folder / "dense.keras").read_bytes()]),
        "h5": (load, [(folder / "dense.h5").read_bytes()]),
        "milpq": (verify, [(folder / "proof.milpq").read_bytes()]),
        "search.npz": (resume, [(folder / "search.npz").read_bytes()]),
        "arrays.npz": (open_arrays, [(folder / "arrays.npz").read_bytes()]),
        "center.npy": (around_center, [(folder / "center.npy").read_bytes()]),
        "query.vnnlib": (read_vnnlib_query, [QUERY.encode()]),
        "suite.toml": (load_suite, [path.read_bytes() for path in sorted(SUITES.glob("*.toml"))]),
        "onnx": (load, some("controller*.onnx")),
        "tflite": (load, some("controller*.tflite") + some("digits_cnn_int8.tflite")),
        "nnet": (load, [nnet.encode()]),
        "json": (load, [json.dumps(network).encode()]),
        "toml": (load_region, some("*.toml")),
        "npz": (load_region, [(folder / "box.npz").read_bytes()]),
        "vnnlib": (load_region, [query]),
    }


def write_keras(folder: Path) -> None:
    """Write one dense layer as Keras does, in both its formats."""
    weights = {"kernel": np.ones((2, 3), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    entry = {"class_name": "InputLayer", "config": {"name": "x", "batch_shape": [None, 2]}}
    dense = {"class_name": "Dense", "config": {"name": "dense", "units": 3, "activation": "relu"}}
    config = json.dumps({"class_name": "Sequential", "config": {"name": "net", "layers": [entry, dense]}})
    with h5py.File(folder / "dense.h5", "w") as file:
        file.attrs["model_config"] = config
        group = file.create_group("model_weights/dense")
        group.attrs["weight_names"] = np.array([f"dense/{name}" for name in weights], dtype="S")
        for name, array in weights.items():
            group[f"dense/{name}"] = array
    with h5py.File(folder / "weights.h5", "w") as file:
        for index, array in enumerate(weights.values()):
            file[f"layers/dense/vars/{index}"] = array
    with zipfile.ZipFile(folder / "dense.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.writestr("config.json", config)
        archive.write(folder / "weights.h5", "model.weights.h5")


def mutate(data: bytes, other: bytes, generator: random.Random) -> bytes:
    """Return a damaged copy."""
    result = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 4, 16])):
        at = generator.randrange(len(result) + 1) if result else 0
        length = generator.choice([1, 1, 2, 4, 8, 64])
        match generator.randrange(6):
            case 0 if at < len(result):
                result[at] ^= 1 << generator.randrange(8)
            case 1:
                result[at : at + length] = (
                    generator.choice([b"\x00", b"\xff", b"\x7f", b"\x80", b"9"]) * length
                )
            case 2:
                del result[at : at + length]
            case 3:
                result[at:at] = result[at : at + length] * generator.choice([1, 2, 16])
            case 4:
                start = generator.randrange(len(other))
                result[at : at + length] = other[start : start + length]
            case _:
                if generator.random() < 0.2:
                    del result[at:]
    return bytes(result)


def read(reader: Callable[[Path], object], path: Path) -> str:
    """Read one file and say how it ended."""
    try:
        found = reader(path)
        if isinstance(found, FloatNetwork) and found.input_size < 10_000:
            found.evaluate(np.zeros((1, found.input_size)))
    except MilpqError as error:
        return type(error).__name__ if "\n" not in str(error) else "several lines"
    return "read"


def main() -> int:
    """Fuzz, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=float, default=1e6)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    generator = random.Random(options.seed)
    ends: dict[str, Counter[str]] = {}
    start, done, failures = time.process_time(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = seeds(folder)
        while done < options.cases and time.process_time() - start < options.seconds:
            ending = generator.choices(list(kinds), [RARE.get(kind, 1.0) for kind in kinds])[0]
            reader, files = kinds[ending]
            data = mutate(generator.choice(files), generator.choice(files), generator)
            path = folder / f"case.{ending}"
            path.write_bytes(data)
            began = time.process_time()
            try:
                end = read(reader, path)
                if time.process_time() - began > SLOW:
                    end = f"{end}, slow"
            except Exception as error:  # noqa: BLE001 - whatever a reader lets through is what is looked for
                end = f"FAILED {type(error).__name__}: {str(error)[:60]}"
            if end.startswith("FAILED") or end.endswith("slow") or end == "several lines":
                failures += 1
                kept = Path(tempfile.gettempdir()) / f"fuzz-{options.seed}-{done}.{ending}"
                kept.write_bytes(data)
                print(f"{end}; kept as {kept}", flush=True)
            ends.setdefault(ending, Counter())[end.split(":")[0]] += 1
            done += 1
    print(
        f"{done:,} cases, {failures} failures, {time.process_time() - start:.0f} CPU s, seed {options.seed}"
    )
    for ending, counter in sorted(ends.items()):
        print(
            f"| .{ending} | {sum(counter.values()):,} | "
            + ", ".join(f"{n:,} {end}" for end, n in counter.most_common())
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
