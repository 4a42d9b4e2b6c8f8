"""Calibration data, good and bad, and the ranges that follow from them."""

from pathlib import Path

import numpy as np
import pytest

from milpq.errors import UnsupportedModelError, UsageError
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.quantization import Scheme, calibrate, load_calibration
from milpq.quantization.calibration import check_calibration


def network(*clamps: tuple[float, float], weight: float = 1.0) -> FloatNetwork:
    nodes: list[Affine | Clamp] = [Affine("linear", (Term(0, weight * np.eye(2)),), np.zeros(2))]
    nodes += [Clamp(f"clamp{index}", index + 1, *ends) for index, ends in enumerate(clamps)]
    return FloatNetwork(2, tuple(nodes), len(nodes))


ROWS = np.array([[-1.0, 4.0], [0.5, 2.0]], np.float32)


def test_min_max() -> None:
    found = calibrate(network((0.0, np.inf)), ROWS, Scheme())
    assert found.input.scale == np.float32(5 / 255)
    assert found.layers[0].scale == np.float32(4 / 255)
    assert found.layers[0].zero_point == -128


def test_percentile_and_mse_cut_outliers() -> None:
    rows = np.random.default_rng(1).normal(size=(20_000, 2)).astype(np.float32)
    rows[0, 0] = 60.0
    whole, cut, least = (
        calibrate(network(), rows, Scheme(activation_bits=4, range_method=method, percentile=99.9))
        for method in ("min-max", "percentile", "mse")
    )
    values = rows.astype(np.float64)
    assert cut.layers[0].scale < 0.2 * whole.layers[0].scale
    assert least.layers[0].scale < 0.5 * whole.layers[0].scale
    errors = [found.layers[0].squared_error(values) for found in (least, cut, whole)]
    assert errors[0] < 0.5 * errors[2]
    assert errors[0] <= errors[1] * 1.1


def test_dead_layers_take_the_range_of_their_activation() -> None:
    found = calibrate(network((0.0, 0.3), weight=0.0), ROWS, Scheme())
    assert found.layers[0].scale == np.float32(0.3 / 255)
    assert calibrate(network(weight=0.0), ROWS, Scheme()).layers[0].scale == 1.0


def test_overflowing_values_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'linear': its values overflow float32"):
        calibrate(network(weight=1e38), 10 * ROWS, Scheme())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 2)), "no samples"),
        (np.zeros((3, 3)), r"shape \(3, 3\).*give \(samples, 2\)"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.float64(1.0), r"shape \(\)"),
        (np.array([[0.0, np.nan]]), "sample 0, input 1 is nan"),
        (np.array([[0.0, 1.0], [1e39, 1.0]]), "sample 1, input 0 is 1e\\+39"),
        (np.array([["a", "b"]]), "not numbers"),
    ],
)
def test_bad_data_are_refused(data: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_calibration(data, 2, "file.npy")


def test_images_are_flattened_and_vectors_are_samples_of_one_input() -> None:
    assert check_calibration(np.zeros((4, 2, 3, 1), np.uint8), 6, "").shape == (4, 6)
    assert check_calibration(np.arange(5), 1, "").shape == (5, 1)


def test_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ROWS)
    np.savez(tmp_path / "one.npz", anything=ROWS)
    np.savez(tmp_path / "named.npz", inputs=ROWS, labels=np.zeros(2))
    np.savez(tmp_path / "several.npz", a=ROWS, b=ROWS)
    for name in ("one.npy", "one.npz", "named.npz"):
        np.testing.assert_array_equal(load_calibration(tmp_path / name), ROWS)
    with pytest.raises(UsageError, match="holds the arrays 'a', 'b'; name the one to use 'inputs'"):
        load_calibration(tmp_path / "several.npz")
    with pytest.raises(UsageError, match=r"end in \.npy or \.npz"):
        load_calibration(tmp_path / "data.csv")
    with pytest.raises(UsageError, match="no such file"):
        load_calibration(tmp_path / "missing.npy")


@pytest.mark.parametrize("method", ["min-max", "percentile", "mse"])
def test_many_samples_are_run_in_parts(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    rows = np.random.default_rng(2).normal(size=(5000, 2)).astype(np.float32)
    net, scheme = network((0.0, np.inf)), Scheme(range_method=method, percentile=99.0)
    whole = calibrate(net, rows, scheme)
    monkeypatch.setattr("milpq.quantization.calibration.CHUNK_VALUES", 37)
    monkeypatch.setattr("milpq.quantization.calibration.KEPT_VALUES", 3000)
    parts = calibrate(net, rows, scheme)
    for first, second in zip((whole.input, *whole.layers), (parts.input, *parts.layers), strict=True):
        assert second.scale == pytest.approx(first.scale, rel=1e-6 if method == "min-max" else 0.1)
