"""A split search goes on from its journal: nothing is lost, and nothing is believed that does not fit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from search_problems import problem_of

import milpq
from milpq.bounds import interval
from milpq.errors import SoundnessError, UsageError
from milpq.search.bounding import Propagated
from milpq.search.checkpoint import Journal
from milpq.search.split import SplitOptions, split_search

OPTIONS = {"gap": 0.3, "batch": 8, "witness_evaluations": 500}


class Counting:
    """Counts the cubes it bounds."""

    def __init__(self):
        self.cubes = 0

    def __call__(self, problem, cubes):
        self.cubes += len(cubes)
        return interval(problem, cubes)


def _search(problem, path, *, cubes=None, resume=False):
    journal = Journal(path, problem, "test", resume=resume).section("split")
    options = SplitOptions(max_cubes=cubes, **OPTIONS)
    return split_search(problem, Propagated(interval), options, journal=journal)


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_a_search_goes_on_where_it_was(kind, tmp_path):
    problem = problem_of(kind)
    whole = Counting()
    options = SplitOptions(enumerate_codes=1, enumerate_cells=1, **OPTIONS)
    expected = split_search(problem, Propagated(whole), options)
    assert expected.status == "closed"
    path = tmp_path / "journal.npz"
    first, second = Counting(), Counting()
    some = SplitOptions(max_cubes=whole.cubes // 2, enumerate_codes=1, enumerate_cells=1, **OPTIONS)
    journal = Journal(path, problem, "test", resume=False).section("split")
    part = split_search(problem, Propagated(first), some, journal=journal)
    assert part.status == "limit"
    journal = Journal(path, problem, "test", resume=True).section("split")
    assert journal.state is not None
    assert len(journal.state["bound"]) == part.open_cubes
    found = split_search(problem, Propagated(second), options, journal=journal)
    assert found.status == "closed"
    assert second.cubes < whole.cubes
    assert found.bounded_cubes >= part.bounded_cubes + second.cubes
    assert found.bracket[0] >= part.bracket[0]
    lower, upper = max(found.bracket[0], expected.bracket[0]), min(found.bracket[1], expected.bracket[1])
    assert lower <= upper, "both brackets hold the same number"


def test_what_does_not_fit_is_refused(tmp_path):
    problem, other = problem_of("codes"), problem_of("codes", 1)
    path = tmp_path / "journal.npz"
    _search(problem, path, cubes=20)
    with pytest.raises(UsageError, match="exists; add --resume"):
        _search(problem, path)
    with pytest.raises(UsageError, match="another problem"):
        _search(other, path, resume=True)
    with pytest.raises(UsageError, match="another problem, gap"):
        Journal(path, problem, "other effort", resume=True)
    content = bytearray(path.read_bytes())
    arrays = dict(np.load(path))
    arrays["split.closed_upper"] = arrays["split.closed_upper"] - 1e-9
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match="damaged"):
        _search(problem, path, resume=True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"journal\.npz"):
        _search(problem, path, resume=True)


def test_a_state_that_lies_meets_its_witnesses(tmp_path):
    problem = problem_of("codes")
    path = tmp_path / "journal.npz"
    _search(problem, path, cubes=20)
    journal = Journal(path, problem, "test", resume=True)
    state = journal.section("split").state
    lie = {"known_upper": 0.5 * np.minimum(state["known_upper"], 1e3) - 1.0}
    journal.save("split", lambda: state | lie, now=True)
    with pytest.raises(SoundnessError):
        _search(problem, path, resume=True)


def test_a_state_of_the_wrong_shape_is_refused(tmp_path):
    problem = problem_of("real")
    path = tmp_path / "journal.npz"
    _search(problem, path, cubes=20)
    journal = Journal(path, problem, "test", resume=True)
    state = journal.section("split").state
    for wrong in (
        {"counts": state["counts"][:1]},
        {"unknown": state["bound"]},
        {"counts": state["counts"].astype(np.float64)},
        {"counts": -1 - state["counts"]},
        {"dimension": np.full_like(state["dimension"], 7)},
        {"bound": np.full_like(state["bound"], np.nan)},
        {"lower": state["lower"][:, :1]},
        {"closed_upper": state["closed_upper"][:1]},
    ):
        journal.save("split", lambda wrong=wrong: state | wrong, now=True)
        with pytest.raises(UsageError, match="does not fit"):
            _search(problem, path, resume=True)


def test_a_killed_run_goes_on(model_path, tmp_path):
    path = tmp_path / "journal.npz"
    region = tmp_path / "region.toml"
    region.write_text("lower = [-0.2, -0.2, -0.2]\nupper = [0.2, 0.2, 0.2]\n", encoding="utf-8")
    pair = [model_path("regression.onnx"), model_path("regression.onnx")]
    program = (
        "import sys, milpq\n"
        "import milpq.search.checkpoint as checkpoint\n"
        "from milpq.bench.tasks import rounded_weights\n"
        "checkpoint._EVERY_S = checkpoint._COST = 0.01\n"
        "network = milpq.load(sys.argv[1])\n"
        "box = milpq.Box([-0.05] * 5, [0.05] * 5)\n"
        "milpq.bound(network, rounded_weights(network, 8), box, gap=1e-6, journal=sys.argv[2], time_limit=300)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, pair[0], path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    while process.poll() is None and not path.exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    from milpq.bench.tasks import rounded_weights

    network = milpq.load(pair[0])
    box = milpq.Box([-0.05] * 5, [0.05] * 5)
    result = milpq.bound(
        network, rounded_weights(network, 8), box, gap=1e-6, journal=path, resume=True, time_limit=3
    )
    assert 0.04 < result.lower <= result.upper < 0.3
    assert result.certificate.trust == "checked"
    assert any("kept there are believed" in note for note in result.problem.notes)
    with pytest.raises(UsageError, match="--resume needs"):
        milpq.bound(network, network, box, resume=True)
