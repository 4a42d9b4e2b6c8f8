"""Rebuild the bundled model pairs and region files: `python benchmarks/models/train.py`.

Every random choice is seeded and torch runs on one thread; on another kind of processor, or with
another torch, the weights may still differ in their last bits.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from ai_edge_litert.interpreter import OpResolverType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.models import pendulum, runtimes  # noqa: E402
from benchmarks.models.onnx_writer import write_onnx_model  # noqa: E402
from benchmarks.models.tflite_writer import Activation, FloatLayer, write_float_model  # noqa: E402
from milpq.formats import load_float, save  # noqa: E402
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel  # noqa: E402
from milpq.quantization import quantize  # noqa: E402

SEED = 0
BATCH_SIZE = 64
DIGITS_SIZES = (64, 32, 16, 10)
CONTROLLER_SIZES = (3, 16, 16, 1)
REGRESSION_SIZES = (5, 50, 50, 50, 5)
MIN_DIGITS_ACCURACY = 0.95
CONTROLLER_SMALL_BOX = np.array([0.1, 0.1, 0.1])
"""Half-widths of the small region around upright: 3.4 degrees, 0.25 rad/s, 0.03 rad s."""

FloatRows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """A float network and its int8 version."""

    name: str
    float_layers: tuple[FloatLayer, ...]
    quantized: QuantizedModel

    def float_outputs(self, rows: FloatRows) -> FloatRows:
        """Return the float network's outputs, shape (n, out)."""
        for layer in self.float_layers:
            rows = rows @ layer.weights.T + layer.bias
            if layer.activation is Activation.RELU:
                rows = np.maximum(rows, np.float32(0))
        return rows

    def encode(self, rows: FloatRows) -> npt.NDArray[np.int8]:
        """Return `rows` as int8 codes of the quantized input."""
        codes = np.rint(rows / np.float32(self.quantized.input_scale[0])) + self.quantized.input_zero_point
        return np.clip(codes, -128, 127).astype(np.int8)

    def decode(self, codes: npt.NDArray[np.int8]) -> FloatRows:
        """Return the real values of int8 output codes."""
        last = self.quantized.layers[-1]
        assert isinstance(last, QuantizedLinear) and last.requantization is not None
        shifted = codes.astype(np.float32) - np.float32(last.requantization.output_zero_point)
        return shifted * np.float32(last.requantization.output_scale)


def main() -> None:
    """Build everything and print what it achieves."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    build_digits()
    build_controller()
    build_regression()


def build_digits() -> None:
    """Train, quantize per channel, check and write the digits classifier and its region."""
    digits = load_digits()
    pixels = (digits.data / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    network = _perceptron(DIGITS_SIZES)
    labels = torch.from_numpy(train_y)
    _fit(
        network,
        torch.from_numpy(train_x),
        lambda outputs, rows: torch.nn.functional.cross_entropy(outputs, labels[rows]),
        epochs=60,
        weight_decay=1e-4,
    )
    layers = _float_layers(network)
    pair = _write_pair("digits", layers, train_x, per_channel=True)
    outputs = _check(pair, test_x)

    float_labels = pair.float_outputs(test_x).argmax(axis=1)
    accuracy = float((float_labels == test_y).mean())
    print(f"  float accuracy {accuracy:.4f} on {len(test_y)} test images")
    for runner, codes in outputs.items():
        same = (codes.argmax(axis=1) == test_y).mean()
        print(f"  int8 accuracy  {same:.4f} in {runner}")
    if accuracy < MIN_DIGITS_ACCURACY:
        raise RuntimeError("the digits classifier is worse than its documentation says")

    reference = outputs["LiteRT reference"].argmax(axis=1)
    chosen = int(np.flatnonzero((float_labels == test_y) & (reference == test_y))[0])
    index = int(np.flatnonzero((pixels == test_x[chosen]).all(axis=1))[0])
    center = ", ".join(str(float(pixel)) for pixel in test_x[chosen])
    _write_text(
        "digits.toml",
        f"# Image {index} of scikit-learn's digits, a {test_y[chosen]} not trained on, in units\n"
        "# of pixel / 16, give or take one code of the int8 model's input: 1/255.\n"
        f"center = [{center}]\n"
        f"radius = {1 / 255!r}\n"
        "clip = [0.0, 1.0]\n",
    )


def build_controller() -> None:
    """Train, quantize per tensor, check and write the pendulum controller and its regions."""
    train_x = _controller_states(np.random.default_rng(SEED), trajectories=200)
    test_x = _controller_states(np.random.default_rng(SEED + 1), trajectories=20)
    targets = torch.from_numpy(pendulum.target_torque(train_x).astype(np.float32))
    network = _perceptron(CONTROLLER_SIZES)
    rows_x = train_x.astype(np.float32)
    _fit(
        network,
        torch.from_numpy(rows_x),
        lambda outputs, rows: torch.nn.functional.mse_loss(outputs[:, 0], targets[rows]),
        epochs=60,
        weight_decay=0.0,
    )
    layers = _float_layers(network)
    pair = _write_pair("controller", layers, rows_x, per_channel=False)
    test_rows = test_x.astype(np.float32)
    outputs = _check(pair, test_rows)

    wanted = pendulum.target_torque(test_x)
    reference = pair.decode(outputs["LiteRT reference"])[:, 0]
    for kind, torque in (("float", pair.float_outputs(test_rows)[:, 0]), ("int8 ", reference)):
        error = np.abs(torque - wanted)
        print(
            f"  {kind} torque error: RMS {np.sqrt((error**2).mean()):.4f}, "
            f"largest {error.max():.4f} (of {pendulum.MAX_TORQUE} N m)"
        )
    _print_closed_loops(pair)

    _write_box("controller.toml", np.ones(3), "The whole operating range")
    _write_box("controller_small.toml", CONTROLLER_SMALL_BOX, "A box around upright")


def build_regression() -> None:
    """Train and write a network of five smooth functions of five inputs; it has no int8 version of its own."""
    generator = np.random.default_rng(SEED)
    train_x, test_x = (generator.uniform(-1.0, 1.0, (rows, 5)).astype(np.float32) for rows in (20_000, 2000))
    targets = torch.from_numpy(_five_functions(train_x))
    network = _perceptron(REGRESSION_SIZES)
    _fit(
        network,
        torch.from_numpy(train_x),
        lambda outputs, rows: torch.nn.functional.mse_loss(outputs, targets[rows]),
        epochs=60,
        weight_decay=0.0,
    )
    # Inputs in [-0.25, 0.25]: a factor of four, exact in float32, goes into the first layer.
    first, *rest = _float_layers(network)
    layers = (FloatLayer(4 * first.weights, first.bias, first.activation), *rest)
    content = write_onnx_model(layers, "regression")
    (HERE / "regression.onnx").write_bytes(content)
    error = runtimes.run_onnxruntime(content, test_x / 4) - _five_functions(test_x)
    print(f"regression\n  regression.onnx: {len(content)} bytes")
    print(f"  RMS error {np.sqrt((error**2).mean()):.4f}, largest {np.abs(error).max():.4f}")


def _five_functions(rows: FloatRows) -> FloatRows:
    """Return five smooth functions of `rows`, shape (n, 5), each of order one."""
    a, b, c, d, e = rows.T.astype(np.float64)
    columns = (
        np.sin(6.0 * a + 3.0 * b) * np.cos(4.0 * c),
        np.exp(-4.0 * (a - c) ** 2 - 4.0 * d**2) * np.sin(5.0 * b),
        np.tanh(8.0 * (a * b - d * e)),
        np.cos(2.0 * np.pi * e) * np.sin(4.0 * c * d + 3.0 * a),
        np.sin(5.0 * np.sqrt(0.1 + a**2 + d**2)) - np.abs(b + 0.3 * c),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _controller_states(rng: np.random.Generator, trajectories: int) -> npt.NDArray[np.float64]:
    """Return normalised states, shape (n, 3): half closed-loop, half uniform in the unit box.

    The trajectories concentrate where the loop spends its time; the uniform states cover the box.
    """
    start, disturbance = _starts(rng, trajectories)
    trace = pendulum.simulate(pendulum.target_torque, start, disturbance, seconds=3.0)
    visited = trace[::5].reshape(-1, 3)
    inside = visited[(np.abs(visited) <= 1.0).all(axis=1)]
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
    return np.concatenate([corners, inside, rng.uniform(-1.0, 1.0, inside.shape)])


def _starts(rng: np.random.Generator, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return start states, normalised (count, 3), and constant disturbance torques in N m (count,).

    A loop starts with an empty integrator.
    """
    start = rng.uniform(-1.0, 1.0, (count, 3)) * [1.0, 1.0, 0.0]
    return start, rng.uniform(-0.2, 0.2, count)


def _print_closed_loops(pair: Pair) -> None:
    """Print how well the law, the float network and the int8 network keep the pendulum upright."""
    start, disturbance = _starts(np.random.default_rng(SEED + 2), 50)
    content = (HERE / f"{pair.name}_int8.tflite").read_bytes()
    int8 = runtimes.litert_session(content, OpResolverType.BUILTIN_REF)

    def float_torque(states: pendulum.Array) -> pendulum.Array:
        torque = pair.float_outputs(states.astype(np.float32))[:, 0]
        return np.clip(torque, -1.0, 1.0).astype(np.float64)

    def int8_torque(states: pendulum.Array) -> pendulum.Array:
        torque = pair.decode(int8(pair.encode(states.astype(np.float32))))[:, 0]
        return np.clip(torque, -1.0, 1.0).astype(np.float64)

    policies: Iterable[tuple[str, pendulum.Policy]] = (
        ("law  ", pendulum.target_torque),
        ("float", float_torque),
        ("int8 ", int8_torque),
    )
    for kind, policy in policies:
        trace = pendulum.simulate(policy, start, disturbance, seconds=6.0)
        angles = np.abs(trace[:, :, 0]) * pendulum.STATE_RANGE[0]
        settled = angles[-100:].max(axis=0)
        print(
            f"  {kind} in the loop: largest angle {angles.max():.3f} rad, "
            f"in the sixth second {settled.max():.4f} rad"
        )


def _perceptron(sizes: Sequence[int]) -> torch.nn.Sequential:
    """Return a freshly seeded ReLU network with these layer widths."""
    torch.manual_seed(SEED)
    modules: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        modules += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def _fit(
    network: torch.nn.Sequential,
    inputs: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    epochs: int,
    weight_decay: float,
) -> None:
    """Train with AdamW and a cosine schedule; `loss` takes outputs and the rows they belong to."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(network(inputs[rows]), rows).backward()
            optimizer.step()
        schedule.step()


def _float_layers(network: torch.nn.Sequential) -> tuple[FloatLayer, ...]:
    """Return the linear layers of `network`, all but the last with a fused ReLU."""
    linear = [module for module in network if isinstance(module, torch.nn.Linear)]
    return tuple(
        FloatLayer(
            module.weight.detach().numpy().copy(),
            module.bias.detach().numpy().copy(),
            Activation.NONE if module is linear[-1] else Activation.RELU,
        )
        for module in linear
    )


def _write_pair(
    name: str, layers: tuple[FloatLayer, ...], calibration: FloatRows, *, per_channel: bool
) -> Pair:
    """Write the files of a pair, the int8 one quantized from the float one."""
    print(name)
    (HERE / f"{name}.onnx").write_bytes(write_onnx_model(layers, name))
    (HERE / f"{name}_float.tflite").write_bytes(write_float_model(layers))
    model = quantize(load_float(HERE / f"{name}.onnx"), calibration, per_channel=per_channel)
    save(model, HERE / f"{name}_int8.tflite")
    for suffix in (".onnx", "_float.tflite", "_int8.tflite"):
        print(f"  {name}{suffix}: {(HERE / f'{name}{suffix}').stat().st_size} bytes")
    return Pair(name, layers, model)


def _check(pair: Pair, rows: FloatRows) -> dict[str, npt.NDArray[np.int8]]:
    """Run the files of `pair`; return the int8 codes on `rows`, shape (n, out), by runtime."""
    onnx_model, float_model, int8_model = (
        (HERE / f"{pair.name}{suffix}").read_bytes() for suffix in (".onnx", "_float.tflite", "_int8.tflite")
    )
    expected = pair.float_outputs(rows)
    for name, run, model in (
        ("ONNX Runtime", runtimes.run_onnxruntime, onnx_model),
        ("LiteRT", runtimes.run_litert, float_model),
        ("TFLM", runtimes.run_tflm, float_model),
    ):
        np.testing.assert_allclose(run(model, rows), expected, rtol=1e-4, atol=1e-4, err_msg=name)

    codes = pair.encode(rows)
    outputs = {name: run(int8_model, codes) for name, run in runtimes.INT8_RUNNERS.items()}
    reference = outputs["LiteRT reference"].astype(int)
    for name, output in outputs.items():
        gap = np.abs(output.astype(int) - reference)
        print(f"  {name}: {(gap > 0).sum()} of {gap.size} codes differ, by at most {gap.max()}")
    error = np.abs(pair.decode(outputs["LiteRT reference"]) - expected).max()
    print(f"  largest |float - int8| on the test set: {error:.4f}")
    return outputs


def _write_box(file_name: str, half_widths: npt.NDArray[np.float64], title: str) -> None:
    """Write the region file of a box around the origin of the normalised states."""
    angle, velocity, integral = half_widths * pendulum.STATE_RANGE
    _write_text(
        file_name,
        f"# {title}, in the controller's normalised inputs: angle +-{angle:.3g} rad,\n"
        f"# angular velocity +-{velocity:.3g} rad/s, integral of angle +-{integral:.3g} rad s.\n"
        f"lower = {(-half_widths).tolist()}\n"
        f"upper = {half_widths.tolist()}\n",
    )


def _write_text(file_name: str, text: str) -> None:
    """Write a text file beside this script."""
    (HERE / file_name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
