"""Networks of NCHW and of NHWC images as one pair, and what their convolutions are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import milpq
from milpq.errors import NotAPairError
from milpq.network.float_network import FloatNetwork
from milpq.network.geometry import Windows
from milpq.network.images import Convolution, Image
from milpq.network.layout import match_layouts
from milpq.network.nodes import Affine
from tests.oracle.layouts import CHANNELS, SPATIAL, twins


def load(path: Path) -> FloatNetwork:
    network = milpq.load(path)
    assert isinstance(network, FloatNetwork)
    return network


@pytest.mark.parametrize("transposed", [False, True])
def test_both_layouts_are_one_network(tmp_path: Path, transposed: bool) -> None:
    first, last = (load(path) for path in twins(tmp_path, 1, transposed=transposed))
    points = np.random.default_rng(2).uniform(-1, 1, (50, CHANNELS * SPATIAL[0] * SPATIAL[1]))
    order = Image(CHANNELS, SPATIAL, "channels_first").order("channels_last")
    read = points if transposed else points[:, order]
    np.testing.assert_allclose(first.evaluate(points), last.evaluate(read), atol=1e-9)
    for f, q, given in ((first, last, read), (last, first, points)):
        if transposed and q is first:
            continue
        matched = match_layouts(f, q)
        np.testing.assert_allclose(matched.evaluate(given), first.evaluate(points), atol=1e-12)
        assert q.origin in matched.note and "order" in matched.note
        for left, right in zip(matched.nodes, q.nodes, strict=True):
            assert type(left) is type(right)
            if isinstance(left, Affine) and isinstance(right, Affine):
                for ours, theirs in zip(left.terms, right.terms, strict=True):
                    dense = [
                        m if isinstance(m, np.ndarray) else m.toarray() for m in (ours.matrix, theirs.matrix)
                    ]
                    np.testing.assert_array_equal(*dense)
    box = milpq.Box(np.full(points.shape[1], -0.1), np.full(points.shape[1], 0.1))
    result = milpq.bound(tmp_path / "nchw.onnx", tmp_path / "nhwc.tflite", box, method="differential")
    assert result.upper < 1e-9


def test_one_layout_stays(tmp_path: Path) -> None:
    onnx, tflite = (load(path) for path in twins(tmp_path, 1))
    assert match_layouts(onnx, onnx) is onnx
    assert match_layouts(tflite, tflite) is tflite


def test_what_cannot_be_matched_is_refused(tmp_path: Path) -> None:
    onnx, tflite = (load(path) for path in twins(tmp_path, 1))
    (tmp_path / "t").mkdir()
    moved = load(twins(tmp_path / "t", 1, transposed=True)[0])
    with pytest.raises(NotAPairError, match="remove the transposition"):
        match_layouts(tflite, moved)
    turned = replace(onnx, images=(Image(CHANNELS, SPATIAL[::-1], "channels_first"), *onnx.images[1:]))
    with pytest.raises(
        NotAPairError, match=r"NCHW image of 3 channels, 6×7, the second an NHWC image .* 7×6"
    ):
        match_layouts(turned, tflite)
    both = replace(onnx, images=(*onnx.images[:-2], *tflite.images[1:3]))
    with pytest.raises(NotAPairError, match="both layouts"):
        match_layouts(both, tflite)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_matrix_tells_its_kernel(layout: str, groups: int) -> None:
    rng = np.random.default_rng(groups)
    windows = Windows.of((5, 4), (3, 2), (2, 1), (1, 2), ((1, 1), (0, 3)))
    slides = Convolution(
        windows, 4, 8, groups, "channels_last" if layout == "channels_last" else "channels_first"
    )
    weights = rng.integers(-9, 10, (8, 4 // groups, 3, 2)).astype(np.float64)
    matrix = slides.matrix(weights)
    np.testing.assert_array_equal(slides.weights(matrix), weights)
    assert slides.is_depthwise == (groups == 4)
    assert not isinstance(matrix, np.ndarray)
    other = matrix.copy()
    other.data[7] += 1
    with pytest.raises(ValueError, match="differs"):
        slides.weights(other)
    with pytest.raises(ValueError, match="positions"):
        replace(slides, layout="channels_last" if layout == "channels_first" else "channels_first").weights(
            matrix
        )
