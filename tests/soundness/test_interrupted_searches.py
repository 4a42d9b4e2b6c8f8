"""Ctrl-C at any line of a search: the bracket holds, and so does that of a run which goes on from its journal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from random_pairs import box, float_network, perturbed

from milpq.bounds import differential
from milpq.merge import Problem
from milpq.search import phases
from milpq.search.checkpoint import Journal
from milpq.search.phases import PhaseOptions, PhaseResult, phase_search
from milpq.search.witness import WitnessOptions, search_witnesses

MOVING = {"_begin", "_jobs", "_take", "_commit"}
"""What moves nodes between open, at work and closed."""


class Line:
    """Raises KeyboardInterrupt before a line of the search over phases runs for the first time, as a signal may."""

    def __init__(self, number: int | None) -> None:
        self._number = number
        self.seen: list[int] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> Line | None:
        if event == "call":
            code = frame.f_code
            return self if code.co_filename == phases.__file__ and code.co_name in MOVING else None
        if event == "line" and frame.f_lineno not in self.seen:
            self.seen.append(frame.f_lineno)
            if frame.f_lineno == self._number:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    def during(self, work: Callable[[], PhaseResult]) -> PhaseResult:
        """Return what the work returns."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            return work()
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("memory_bytes", [1 << 29, 0])
def test_a_search_over_phases_loses_nothing(memory_bytes: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("milpq.search.checkpoint._EVERY_S", 0.0)
    monkeypatch.setattr("milpq.search.checkpoint._COST", 0.0)
    monkeypatch.setattr("milpq.search.phase_step._ROOT_STEPS", 20)
    monkeypatch.setattr("milpq.search.phase_step._LAST_STEPS", 20)
    rng = np.random.default_rng(6)
    network = float_network(rng, [3, 5, 5, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-2), box(-0.4, 0.4, 3))
    known = differential(problem, problem.domain.root)
    truth = search_witnesses(problem, WitnessOptions(evaluations=5_000)).lower
    options = PhaseOptions(
        gap=0.02, batch=2, max_nodes=12, witness_evaluations=0, steps=5, memory_bytes=memory_bytes
    )
    journal = tmp_path / "journal.npz"

    def search(*, resume: bool) -> PhaseResult:
        section = Journal(journal, problem, "effort", resume=resume).section("phases")
        return phase_search(problem, known, options, journal=section)

    whole = Line(None)
    assert whole.during(lambda: search(resume=False)).nodes > 4
    assert len(whole.seen) > 30
    for number in whole.seen:
        journal.unlink(missing_ok=True)
        found = Line(number).during(lambda: search(resume=False))
        assert found.status == "interrupted"
        assert (found.upper >= truth).all()
        assert (search(resume=True).upper >= truth).all()


def test_a_search_over_phases_that_is_killed_at_work_loses_nothing(tmp_path: Path, monkeypatch):
    """Every state on disk has the nodes at work, too: it gives the upper ends that were reported with it."""
    monkeypatch.setattr("milpq.search.checkpoint._EVERY_S", 0.0)
    monkeypatch.setattr("milpq.search.checkpoint._COST", 0.0)
    monkeypatch.setattr("milpq.search.phase_step._ROOT_STEPS", 20)
    rng = np.random.default_rng(6)
    network = float_network(rng, [3, 5, 5, 1], (0.0, np.inf))
    problem = Problem.create(network, perturbed(rng, network, 1e-2), box(-0.4, 0.4, 3))
    known = differential(problem, problem.domain.root)
    options = PhaseOptions(gap=0.02, batch=2, max_nodes=30, witness_evaluations=0, steps=5)
    journal, reported = tmp_path / "journal.npz", list[float]()

    def keep(_lower: float, upper: float, _open: int, _nodes: int) -> None:
        journal.with_name(f"{len(reported)}.npz").write_bytes(journal.read_bytes())
        reported.append(upper)

    section = Journal(journal, problem, "effort", resume=False).section("phases")
    phase_search(problem, known, options, journal=section, on_progress=keep)
    assert len(reported) > 4
    for number, upper in enumerate(reported):
        path = journal.with_name(f"{number}.npz")
        again = Journal(path, problem, "effort", resume=True).section("phases")
        found = phase_search(problem, known, PhaseOptions(gap=0.02, max_nodes=0), journal=again)
        assert found.upper.max() == upper
