"""Models that Keras saved: what it computes of them, against what milpq reads."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milpq
from milpq.errors import UnsupportedModelError
from milpq.network.float_network import FloatNetwork

if importlib.util.find_spec("keras") is None:
    pytest.skip("keras is not installed", allow_module_level=True)
os.environ.setdefault("KERAS_BACKEND", "torch")

# Keras warns of its own use of NumPy and torch.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)


def images(seed: int) -> Any:
    from keras import Input, Model
    from keras import layers as k

    given = Input((9, 8, 3), name="image")
    x = k.ZeroPadding2D(((1, 0), (0, 2)))(given)
    x = k.Conv2D(4, (3, 2), strides=2, use_bias=False, name="first")(x)
    x = k.ReLU(max_value=6.0)(k.BatchNormalization(epsilon=0.01)(x))
    y = k.DepthwiseConv2D(3, padding="same", activation="relu", depth_multiplier=1)(x)
    z = k.Conv2D(4, 3, padding="same", groups=2, dilation_rate=2)(y)
    z = k.Activation("relu6")(k.BatchNormalization(scale=False)(z))
    x = k.Add()([x, y, z])
    pools = [
        k.MaxPooling2D(2, padding="same")(x),
        k.AveragePooling2D(2, padding="valid")(k.ZeroPadding2D(((0, 1), 0))(y)),
    ]
    pools[1] = k.MaxPooling2D((2, 1), strides=1, padding="same")(pools[1]) if seed % 2 else pools[1]
    x = k.Concatenate()([pools[0], k.MaxPooling2D(2, padding="same")(y)])
    x = k.Conv2D(2, 1, name="last")(x)
    flat = k.Concatenate()([k.Flatten()(x), k.GlobalAveragePooling2D()(y), k.GlobalMaxPooling2D()(pools[1])])
    shared = k.Dense(6, activation="relu")
    x = k.Dense(6)(flat)
    x = k.Add()([shared(x), k.Dense(6)(shared(k.Activation("relu")(x)))])
    return Model(given, k.Dense(3)(k.Dropout(0.3)(x)))


def sequence(seed: int) -> Any:
    from keras import Input, Sequential
    from keras import layers as k

    del seed
    return Sequential([
        Input((4, 6)), k.Dense(5, activation="sigmoid"), k.Reshape((20,)), k.BatchNormalization(center=False),
        k.Dense(7, activation="tanh"),
        k.ReLU(), k.Dense(2, activation="sigmoid"),
    ])  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("build", [images, sequence])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_outputs_are_those_of_keras(build: Any, ending: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    model = build(seed)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.name else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    path = tmp_path / f"model{ending}"
    model.save(path)
    network = milpq.load(path)
    assert isinstance(network, FloatNetwork)
    points = rng.uniform(-1, 1, (20, *model.input_shape[1:])).astype(np.float32)
    expected = np.asarray(model.predict(points, verbose=0), dtype=np.float64)
    found = network.evaluate(points.reshape(20, -1).astype(np.float64))
    if "sigmoid" in network.note:
        found = 1 / (1 + np.exp(-found))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=2e-5 * scale)
    assert np.ptp(expected) > 0.01 * scale


def test_what_backends_disagree_on_is_refused(tmp_path: Path) -> None:
    from keras import Input, Sequential
    from keras import layers as k

    model = Sequential(
        [Input((5, 5, 2)), k.AveragePooling2D(2, padding="same", name="mean"), k.Flatten(), k.Dense(1)]
    )
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnsupportedModelError, match="AveragePooling2D 'mean': averages over uneven padding"):
        milpq.load(tmp_path / "model.keras")
