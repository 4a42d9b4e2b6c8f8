"""Scales, zero points and codes."""

import numpy as np
import pytest
import scipy.sparse as sp

from milpq.errors import InvalidNetworkError
from milpq.quantization.codes import activation_codes, weight_levels
from milpq.rounding.activation import activation_codes as tflite_codes


def is_power_of_two(value: float) -> bool:
    return float(np.frexp(value)[0]) == 0.5


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_activation_codes_cover_the_range_and_zero(bits: int, symmetric: bool, power_of_two: bool) -> None:
    rng = np.random.default_rng(bits)
    for low, high in np.sort(rng.normal(size=(50, 2)) * 10.0 ** rng.integers(-6, 7, (50, 1))):
        codes = activation_codes(
            low, high, bits, symmetric=symmetric, power_of_two=power_of_two, name="layer"
        )
        assert codes.upper - codes.lower == 2**bits - 1
        assert codes.lower <= codes.zero_point <= codes.upper
        assert np.float32(codes.scale) == codes.scale
        assert not symmetric or codes.zero_point == 0
        assert not power_of_two or is_power_of_two(codes.scale)
        ends = np.array([codes.lower, codes.upper]) - codes.zero_point
        # The zero point is rounded, so one end may lie half a step inside.
        assert ends[0] * codes.scale <= min(low, 0.0) + 0.5001 * codes.scale
        assert ends[1] * codes.scale >= max(high, 0.0) - 0.5001 * codes.scale
        tightest = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
        whole = max(high, 0.0) - min(low, 0.0)
        assert codes.scale * tightest <= (2.0 if power_of_two else 1.0) * whole * (1 + 1e-6)


def test_an_empty_range_has_a_scale() -> None:
    codes = activation_codes(0.0, 0.0, 8, symmetric=False, power_of_two=True, name="layer")
    assert (codes.scale, codes.zero_point) == (1.0, 0)
    assert activation_codes(1e-45, 2e-45, 8, symmetric=False, power_of_two=False, name="layer").scale > 1e-31
    with pytest.raises(InvalidNetworkError, match=r"'layer'.*scale of 3\.9"):
        activation_codes(0.0, 1e36, 8, symmetric=False, power_of_two=False, name="layer")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_weights_lie_within_half_a_step(
    bits: int, per_channel: bool, symmetric: bool, power_of_two: bool, sparse: bool
) -> None:
    rng = np.random.default_rng([bits, per_channel, symmetric, power_of_two])
    for trial in range(20):
        matrix = rng.normal(size=(5, 7)) * 10.0 ** rng.integers(-3, 4, (5, 1))
        if trial % 2:
            # Multiples of half a step of one scale: every weight a tie.
            matrix = rng.integers(-(2**bits), 2**bits, (5, 7)) * 0.5
        matrix[2] = 0.0
        matrix[3] = np.abs(matrix[3]) + 0.1
        stored = sp.csr_array(matrix) if sparse else matrix
        channel = np.arange(5) if per_channel else np.zeros(5, dtype=np.int64)
        levels, scales = weight_levels(
            stored, bits, channel, symmetric=symmetric, power_of_two=power_of_two, name="w"
        )
        dense = levels if isinstance(levels, np.ndarray) else levels.toarray()
        assert scales.shape == ((5,) if per_channel else (1,))
        assert (scales.astype(np.float32) == scales).all()
        steps = np.abs(matrix - dense * scales.reshape(-1, 1)) / scales.reshape(-1, 1)
        assert steps.max() <= 0.5 * (1 + 1e-12)
        assert (dense == np.rint(dense)).all()
        if symmetric:
            assert np.abs(dense).max() <= 2 ** (bits - 1) - 1
        else:
            rows = dense if per_channel else dense.reshape(1, -1)
            span = np.maximum(rows.max(axis=1), 0) - np.minimum(rows.min(axis=1), 0)
            assert span.max() <= 2**bits - 1
        if power_of_two:
            assert all(is_power_of_two(scale) for scale in scales)


@pytest.mark.parametrize("activation", ["relu", "relu6", "relu_n1_to_1", "none"])
def test_ends_of_activations_are_those_of_tflite(activation: str) -> None:
    from milpq.rounding.activation import ENDS

    rng = np.random.default_rng(3)
    for _ in range(300):
        low, high = rng.uniform(-8, 8, 2)
        codes = activation_codes(low, high, 8, symmetric=False, power_of_two=False, name="layer")
        ours = tuple(codes.code(end) for end in ENDS[activation])
        if ours[0] < ours[1]:
            assert ours == tflite_codes(None, activation, codes.scale, codes.zero_point)
