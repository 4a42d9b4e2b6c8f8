import math

import pytest

from milpq.errors import UsageError
from milpq.verify.options import LADDER, Options


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": -1.0},
        {"tolerance": math.nan},
        {"tolerance": math.inf},
        {"gap": 1.0},
        {"gap": -0.1},
        {"gap": math.nan},
        {"time_limit": 0.0},
        {"time_limit": math.nan},
        {"jobs": 0},
        {"seed": -1},
        {"method": "guess"},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Options(**wrong)


def test_a_method_includes_the_stages_up_to_itself() -> None:
    options = Options(method="differential")
    assert [stage for stage in LADDER if options.includes(stage)] == ["interval", "symbolic", "differential"]
    assert all(Options().includes(stage) for stage in LADDER)
