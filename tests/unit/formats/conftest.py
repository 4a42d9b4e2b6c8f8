"""What the tests of readers share: where the external models lie, and how a damaged file must end."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milpq.errors import MilpqError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of external models, or skip where there is none."""
    folder = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("MILPQ_DATA is not there")
    return folder


Survives = Callable[[bytes, str, Callable[[Path], object]], int]


@pytest.fixture
def survives(tmp_path: Path) -> Survives:
    """Return a check that every mutation of a file is read, or refused with one line; gives the refusals."""

    def check(
        content: bytes, name: str, read: Callable[[Path], object], rounds: int = 400, cuts: int = 50
    ) -> int:
        path = tmp_path / name
        rng = np.random.default_rng(0)
        mutants = [content[: len(content) * part // cuts] for part in range(cuts)]
        mutants += [rng.integers(0, 256, size, dtype=np.uint8).tobytes() for size in (1, 8, 100, 5000)]
        for round_ in range(rounds):
            mutant = np.frombuffer(content, dtype=np.uint8).copy()
            # Headers and tables matter most; they lie at the ends of the file.
            span = len(mutant) if round_ % 2 else min(len(mutant), 600)
            places = rng.integers(0, span, 1 + round_ % 4)
            if round_ % 4 > 1:
                places = len(mutant) - 1 - places
            mutant[places] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)], len(places))
            mutants.append(mutant.tobytes())
        messages: list[str] = []
        for mutant in mutants:
            path.write_bytes(mutant)
            try:
                read(path)
            except MilpqError as error:
                messages.append(str(error))
        assert all("\n" not in message and name in message for message in messages)
        return len(messages)

    return check
