"""Numbers of quantized torch models: what the readers of modules and of exported graphs share."""

from __future__ import annotations

import numpy as np
import torch

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError


def quantized_bias(bias: torch.Tensor | None, scales: Float64Array, where: str) -> Int64Array:
    """Return the int32 bias that QNNPACK computes with, as torch quantizes it: times the float32 reciprocal.

    Parameters
    ----------
    scales : float64, shape (channels,)
        Input scale times weight scale.

    Raises
    ------
    InvalidNetworkError
        It is NaN or infinite, or leaves int32.
    """
    if bias is None:
        return np.zeros(len(scales), dtype=np.int64)
    stored = bias.detach().numpy()
    if not np.isfinite(stored).all():
        raise InvalidNetworkError(f"{where}: a bias is NaN or infinite")
    codes = np.rint(stored * (np.float32(1) / scales.astype(np.float32)))
    if (np.abs(codes) >= 2.0**31).any():
        raise InvalidNetworkError(f"{where}: a bias exceeds int32 on input scale times weight scale")
    return codes.astype(np.int64)
