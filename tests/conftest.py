"""What every test shares: one linear algebra thread, Ctrl-C that is heard, and the bundled models."""

import os
import signal

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# A worker that is slow to answer, because the machine is busy, is not to be given up.
for _name in ("CONNECT", "TCP"):
    os.environ.setdefault(f"DASK_DISTRIBUTED__COMM__TIMEOUTS__{_name}", "300s")

# A shell has what it starts in the background ignore Ctrl-C, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable
from pathlib import Path

import pytest

MODELS = Path(__file__).parent.parent / "benchmarks" / "models"


@pytest.fixture(scope="session")
def model_path() -> Callable[[str], Path]:
    """Return the path of a bundled model or region file."""
    return MODELS.joinpath
