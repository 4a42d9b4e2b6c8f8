"""Windows and selections against torch's own convolutions and NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from milpq.network.geometry import (
    Windows,
    averaged_candidates,
    concatenated_indices,
    convolution_matrix,
    maximum_rounds,
    padded_indices,
    same_padding,
    selection_matrix,
    sum_matrix,
)

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pads"),
    [((3, 3), (1, 1), (1, 1), (0, 0)), ((3, 2), (2, 1), (1, 2), (1, 1)), ((1, 1), (2, 3), (1, 1), (0, 0))],
)
def test_convolution(layout, groups, kernel, strides, dilations, pads) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(-9, 9, (4, 7, 6)).astype(np.float64)
    weights = rng.integers(-9, 9, (8, 4 // groups, *kernel)).astype(np.float64)
    windows = Windows.of((7, 6), kernel, strides, dilations, tuple((pad, pad) for pad in pads))
    expected = torch.nn.functional.conv2d(
        torch.tensor(image)[None], torch.tensor(weights), None, strides, pads, dilations, groups
    ).numpy()[0]
    assert windows.result == expected.shape[1:]
    matrix, channel = convolution_matrix(weights, windows, groups, layout)
    last = layout == "channels_last"
    flat = (image.transpose(1, 2, 0) if last else image).ravel()
    np.testing.assert_array_equal(matrix @ flat, (expected.transpose(1, 2, 0) if last else expected).ravel())
    marks = np.broadcast_to(np.arange(8)[:, None, None], expected.shape)
    np.testing.assert_array_equal(channel, (marks.transpose(1, 2, 0) if last else marks).ravel())


@pytest.mark.parametrize("ceiling", [False, True])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_pools(layout, ceiling) -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(size=(3, 7, 8))
    windows = Windows.of((7, 8), (3, 2), (2, 3), (1, 1), ((1, 1), (0, 0)), ceiling=ceiling)
    last = layout == "channels_last"
    flat = (image.transpose(1, 2, 0) if last else image).ravel()
    candidates = windows.candidates(3, layout)
    value = flat
    for first, second in maximum_rounds(candidates):
        value = np.maximum(value[first], value[second])
    options = {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0), "ceil_mode": ceiling}
    expected = torch.nn.functional.max_pool2d(torch.tensor(image)[None], **options).numpy()[0]
    np.testing.assert_array_equal(value, (expected.transpose(1, 2, 0) if last else expected).ravel())
    counts = windows.counts
    counts = np.repeat(counts, 3) if last else np.tile(counts, 3)
    mean = sum_matrix(candidates, flat.size) @ flat / counts
    expected = torch.nn.functional.avg_pool2d(torch.tensor(image)[None], count_include_pad=False, **options)
    expected = expected.numpy()[0]
    np.testing.assert_allclose(mean, (expected.transpose(1, 2, 0) if last else expected).ravel(), rtol=1e-12)


def test_same_padding() -> None:
    for extent in range(1, 12):
        for size, stride, dilation in [(1, 1, 1), (3, 2, 1), (2, 1, 2), (3, 3, 2), (2, 5, 1)]:
            padding = same_padding((extent,), (size,), (stride,), (dilation,))
            result = Windows.of((extent,), (size,), (stride,), (dilation,), padding).result
            assert result == (-(-extent // stride),)
            assert padding[0][1] - padding[0][0] in {0, 1}


def test_selections() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 4))
    parts = concatenated_indices([(2, 3, 4), (2, 5, 4)], 1)
    total = sum(
        selection_matrix(part.ravel(), value.size) @ value.ravel()
        for part, value in zip(parts, (first, second), strict=True)
    )
    np.testing.assert_array_equal(total, np.concatenate([first, second], axis=1).ravel())
    chosen = padded_indices((2, 3, 4), ((1, 0), (0, 2), (-1, 1)))
    padded = np.pad(first, ((1, 0), (0, 2), (0, 1)))[:, :, 1:]
    assert chosen.shape == padded.shape
    np.testing.assert_array_equal(selection_matrix(chosen.ravel(), 24) @ first.ravel(), padded.ravel())
    mean = first.ravel()[averaged_candidates((2, 3, 4), {0, 2})].mean(axis=1)
    np.testing.assert_allclose(mean, first.mean(axis=(0, 2)))


def test_errors_name_the_problem() -> None:
    with pytest.raises(ValueError, match="larger than the padded image"):
        Windows.of((2, 2), (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)))
    with pytest.raises(ValueError, match="positive"):
        Windows.of((2, 2), (1, 1), (0, 1), (1, 1), ((0, 0), (0, 0)))
    windows = Windows.of((2, 2), (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))
    with pytest.raises(ValueError, match="groups"):
        convolution_matrix(np.ones((3, 1, 1, 1)), windows, 2, "channels_last")
    with pytest.raises(ValueError, match="in the padding altogether"):
        maximum_rounds(np.array([[0, 1], [-1, -1]]))
