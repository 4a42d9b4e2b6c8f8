from collections.abc import Callable
from pathlib import Path

import pytest

from milpq.merge import Problem
from milpq.search.budget import Budget
from milpq.verify.bracket import Bracket
from milpq.verify.models import load_box, load_pair
from milpq.verify.options import Options
from milpq.verify.run import Run
from milpq.verify.stages import can_enumerate


@pytest.mark.parametrize(("pair", "enumerated"), [("controller", True), ("digits", False)])
def test_only_what_is_executed_in_seconds_is_enumerated(
    model_path: Callable[[str], Path], pair: str, enumerated: bool
) -> None:
    """16 million codes of the controller take seconds, 134 million of the classifier minutes."""
    models = load_pair(model_path(f"{pair}.onnx"), model_path(f"{pair}_int8.tflite"), "tflm", "file")
    region, _ = load_box(model_path(f"{pair}.toml"))
    problem = Problem.create(models.float_network, models.quantized, region, "codes")
    for limit in (None, 100.0):
        run = Run(problem, Options(jobs=1), Bracket(problem), Budget(limit))
        assert can_enumerate(run) is enumerated
