"""Rebuild the bundled convolutional pair: `python benchmarks/models/train_images.py`.

A residual network on scikit-learn's 8x8 digits, as float32 and as int8 `.tflite` by LiteRT's int8 specification:
convolutions per channel, an ADD with fused ReLU, an average pool.  Every random choice is seeded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.models.tflite_graph import Codes, GraphWriter  # noqa: E402
from milpq.formats import load_float, load_quantized  # noqa: E402
from milpq.network.quantized_model import QuantizedModel  # noqa: E402
from milpq.rounding.targets import get_target  # noqa: E402

SEED = 0
CHANNELS = 6
EPOCHS = 80
MIN_ACCURACY = 0.9
PATCH = [(row, column) for row in (3, 4, 5) for column in (3, 4, 5)]
"""Pixels that vary in the small region, by one code each way."""

Rows = npt.NDArray[np.float32]


class Network(torch.nn.Module):
    """Convolution, residual convolution, average pool, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1)
        self.second = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.last = torch.nn.Linear(4 * CHANNELS, 10)

    def activations(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return what every tensor of the file holds, in order."""
        # TFLite's SAME padding of an even image with stride 2 lies behind it only.
        padded = torch.nn.functional.pad(rows, (0, 1, 0, 1))
        first = torch.relu(torch.nn.functional.conv2d(padded, self.first.weight, self.first.bias, stride=2))
        second = self.second(first)
        both = torch.relu(first + second)
        pooled = torch.nn.functional.avg_pool2d(both, 2)
        logits = self.last(pooled.permute(0, 2, 3, 1).flatten(1))
        return [first, second, both, pooled, logits]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.activations(rows)[-1]


def main() -> None:
    """Train, quantize, check and write."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(SEED)
    digits = load_digits()
    pixels = (digits.data / 16.0).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    network = Network()
    _fit(network, train_x, train_y)
    (HERE / "digits_cnn_float.tflite").write_bytes(_write(network, None))
    (HERE / "digits_cnn_int8.tflite").write_bytes(_write(network, train_x))
    _check(test_x, test_y)
    _write_region(test_x[0])


def _fit(network: Network, rows: Rows, labels: npt.NDArray[np.int64]) -> None:
    inputs, targets = torch.from_numpy(rows).reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, weight_decay=1e-4)
    order = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs), generator=order).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
            optimizer.step()


def _write(network: Network, calibration: Rows | None) -> bytes:
    """Return the float file, or with calibration inputs the int8 one."""
    ranges: list[Codes | None] = [None] * 5
    if calibration is not None:
        with torch.no_grad():
            tensors = network.activations(torch.from_numpy(calibration).reshape(-1, 1, 8, 8))
        ranges = [_codes(tensor.numpy()) for tensor in tensors]
    graph = GraphWriter((1, 8, 8, 1), None if calibration is None else Codes(1 / 255, -128))
    weights = [parameter.detach().numpy() for parameter in network.parameters()]
    kernels = [weights[0].transpose(0, 2, 3, 1), weights[2].transpose(0, 2, 3, 1), weights[4]]
    biases = [weights[1], weights[3], weights[5]]

    def layer(index: int, source: float | None) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray | None]:
        kernel, bias = kernels[index], biases[index]
        if source is None:
            return kernel, bias, None
        largest = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
        scales = (largest / 127).astype(np.float32)
        scales = scales if index < 2 else scales.max(keepdims=True)
        spread = scales.reshape(-1, *(1 for _ in kernel.shape[1:]))
        codes = np.clip(np.rint(kernel / spread), -127, 127).astype(np.int8)
        return codes, np.rint(bias / (np.float32(source) * scales)).astype(np.int32), scales

    def scale(value: Codes | None) -> float | None:
        return None if value is None else value.scale

    kernel, bias, scales = layer(0, scale(graph.input.codes))
    options = {"strides": (2, 2), "padding": "same", "activation": "relu", "weight_scales": scales}
    first = graph.convolution(graph.input, kernel, bias, ranges[0], **options)
    kernel, bias, scales = layer(1, scale(ranges[0]))
    second = graph.convolution(first, kernel, bias, ranges[1], padding="same", weight_scales=scales)
    both = graph.add(first, second, ranges[2], "relu")
    pooled = graph.pool(both, (2, 2), average=True, strides=(2, 2))
    flat = graph.reshape(pooled, (1, 4 * CHANNELS))
    kernel, bias, scales = layer(2, scale(ranges[2]))
    return graph.finish(graph.fully_connected(flat, kernel, bias, ranges[4], weight_scales=scales))


def _codes(values: Rows) -> Codes:
    """Return the asymmetric quantization of a range that holds zero."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = float(np.float32((high - low) / 255))
    return Codes(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def _check(rows: Rows, labels: npt.NDArray[np.int64]) -> None:
    """Print the accuracy of both files."""
    network = load_float(HERE / "digits_cnn_float.tflite")
    model = load_quantized(HERE / "digits_cnn_int8.tflite")
    assert isinstance(model, QuantizedModel)
    accuracy = (network.evaluate(rows.astype(np.float64)).argmax(axis=1) == labels).mean()
    integers = model.on_target(get_target("tflm"))
    codes = np.rint(rows * 255).astype(np.int64) - 128
    quantized = (integers.execute_codes(codes).argmax(axis=1) == labels).mean()
    print(f"float accuracy {accuracy:.4f}, int8 accuracy {quantized:.4f} on {len(labels)} test images")
    if min(accuracy, quantized) < MIN_ACCURACY:
        raise RuntimeError("the classifier is worse than its documentation says")


def _write_region(image: Rows) -> None:
    codes = np.rint(image * 255)
    radius = np.zeros(64)
    radius[[8 * row + column for row, column in PATCH]] = 1.25 / 255
    radius[radius == 0] = 0.25 / 255
    count = int(np.prod([3 - (codes[8 * row + column] in (0, 255)) for row, column in PATCH]))
    center = ", ".join(repr(float(code) / 255) for code in codes)
    text = (
        "# A test image of scikit-learn's digits; nine pixels in its middle vary by one code of the int8 model\n"
        f"# each way, the others stay on their code: {count:,} inputs on codes.\n"
        f"center = [{center}]\nradius = [{', '.join(repr(float(r)) for r in radius)}]\n"
    )
    (HERE / "digits_cnn.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
