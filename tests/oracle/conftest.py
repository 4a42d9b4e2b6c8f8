"""Make the model writer in `benchmarks` importable from the tests; torch's engines."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def _engine(name: str) -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.backends.quantized.engine
    if name not in torch.backends.quantized.supported_engines:
        pytest.skip(f"torch is built without {name}")
    torch.backends.quantized.engine = name
    yield
    torch.backends.quantized.engine = before


@pytest.fixture
def qnnpack() -> Iterator[None]:
    """Run torch's quantized operators by QNNPACK."""
    yield from _engine("qnnpack")


@pytest.fixture
def fbgemm() -> Iterator[None]:
    """Run torch's quantized operators by FBGEMM."""
    yield from _engine("fbgemm")
