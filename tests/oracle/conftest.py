"""Make the model writer in `benchmarks` importable from the tests; torch's QNNPACK engine."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


@pytest.fixture
def qnnpack() -> Iterator[None]:
    """Run torch's quantized operators by QNNPACK."""
    torch = pytest.importorskip("torch")
    before = torch.backends.quantized.engine
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("torch is built without QNNPACK")
    torch.backends.quantized.engine = "qnnpack"
    yield
    torch.backends.quantized.engine = before
