"""Execution by either of milpq's ways, so that what is compared with a runtime is both of them."""

from __future__ import annotations

import numpy as np

from milpq.network.integer_network import IntegerNetwork
from milpq.network.program import execute_fast


def executed(network: IntegerNetwork, codes: np.ndarray) -> np.ndarray:
    """Return output codes of input codes, after comparing those of the compiled program."""
    codes = codes.astype(np.int64)
    ours = network.execute_codes(codes)
    compiled = execute_fast(network, codes - network.input.zero_point)
    np.testing.assert_array_equal(compiled + network.output_zero_point, ours)
    return ours
