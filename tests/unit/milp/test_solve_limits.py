"""A solve that is cut short, in whatever way, still returns its bracket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from milpq._arrays import Float64Array
from milpq.milp.backends import Progress, Solution, SolveOptions, choose_backend
from milpq.milp.backends._interrupt import Cancellation, run_interruptible
from milpq.milp.model import LinearModel

HardModel = tuple[LinearModel, Float64Array]
SOLVERS = ("highs", "gurobi", "pulp")
SOLVERS_WITH_CALLBACKS = ("highs", "gurobi")


def solve(name: str, hard: HardModel, options: SolveOptions) -> Solution:
    model, objective = hard
    with choose_backend(name).backend.open(model) as session:
        return session.maximize(objective, options)


def is_bracket(solution: Solution) -> bool:
    return solution.point is not None and 0 < solution.claimed_value < solution.claimed_bound < np.inf


def interrupt_after(delay_s: float) -> threading.Timer:
    """Send Ctrl-C to this process alone, as `kill -INT` does."""
    timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize("name", SOLVERS)
def test_a_time_limit_is_kept_at_every_solve_of_a_session(name: str, hard_model: HardModel) -> None:
    model, objective = hard_model
    with choose_backend(name).backend.open(model) as session:
        for _ in range(2):
            started = time.perf_counter()
            solution = session.maximize(objective, SolveOptions(time_limit=1.0))
            assert solution.status == "time_limit"
            assert 0.8 < time.perf_counter() - started < 8.0
            assert solution.point is not None
            assert solution.claimed_bound > solution.claimed_value
            assert name == "pulp" or is_bracket(solution)


@pytest.mark.parametrize("name", SOLVERS_WITH_CALLBACKS)
def test_ctrl_c_returns_the_bracket_so_far(name: str, hard_model: HardModel) -> None:
    sent: list[Progress] = []

    def press(progress: Progress) -> bool:
        if not sent and 0 < progress.claimed_value < progress.claimed_bound < np.inf:
            sent.append(progress)
            os.kill(os.getpid(), signal.SIGINT)
        return True

    solution = solve(name, hard_model, SolveOptions(time_limit=30.0, on_progress=press))
    assert solution.status == "interrupted"
    assert solution.interrupted
    assert is_bracket(solution)
    assert solution.time_s < 15.0
    assert solution.claimed_value >= sent[0].claimed_value
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", SOLVERS)
def test_ctrl_c_ends_the_solve_without_a_progress_callback_too(name: str, hard_model: HardModel) -> None:
    timer = interrupt_after(1.0)
    solution = solve(name, hard_model, SolveOptions(time_limit=30.0))
    timer.join()
    assert solution.status == "interrupted"
    assert solution.interrupted
    assert solution.time_s < 15.0
    assert solution.claimed_bound > solution.claimed_value


def test_ctrl_c_reaches_python_after_gurobi_ran_in_two_threads(hard_model: HardModel) -> None:
    """Gurobi's own handler must not stay behind: it ends the process, or restarts the wait for a child."""
    options = SolveOptions(time_limit=30.0, on_progress=lambda p: p.time_s < 0.3)
    threads = [threading.Thread(target=solve, args=("gurobi", hard_model, options)) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    timer = interrupt_after(0.2)
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as child:
        try:
            with pytest.raises(KeyboardInterrupt):
                child.wait()
        finally:
            child.kill()
    timer.join()
    assert time.perf_counter() - started < 15.0


@pytest.mark.parametrize("name", SOLVERS_WITH_CALLBACKS)
def test_progress_is_told_and_can_stop_the_solve(name: str, hard_model: HardModel) -> None:
    told: list[Progress] = []

    def watch(progress: Progress) -> bool:
        told.append(progress)
        return progress.time_s < 0.5 or not 0 < progress.claimed_value < progress.claimed_bound < np.inf

    solution = solve(name, hard_model, SolveOptions(time_limit=30.0, on_progress=watch))
    assert solution.status == "interrupted"
    assert not solution.interrupted
    assert is_bracket(solution)
    assert solution.time_s < 15.0
    assert all(p.claimed_bound >= p.claimed_value for p in told)


@pytest.mark.parametrize("name", SOLVERS_WITH_CALLBACKS)
def test_early_stop_once_the_bound_is_low_enough(name: str, hard_model: HardModel) -> None:
    model, objective = hard_model
    with choose_backend(name).backend.open(model.relaxed()) as session:
        relaxed = session.maximize(objective).claimed_value
    solution = solve(name, hard_model, SolveOptions(time_limit=30.0, stop_when_bound_below=relaxed + 1.0))
    assert solution.status == "stopped"
    assert solution.claimed_bound < relaxed + 1.0
    assert solution.time_s < 15.0


@pytest.mark.parametrize("name", SOLVERS_WITH_CALLBACKS)
def test_early_stop_once_a_point_is_good_enough(name: str, hard_model: HardModel) -> None:
    solution = solve(name, hard_model, SolveOptions(time_limit=30.0, stop_when_value_above=130.0))
    assert solution.status == "stopped"
    assert solution.claimed_value > 130.0
    assert solution.time_s < 15.0


@pytest.mark.parametrize("name", SOLVERS_WITH_CALLBACKS)
def test_an_error_in_the_progress_callback_comes_out_and_the_session_goes_on(
    name: str, hard_model: HardModel
) -> None:
    def broken(progress: Progress) -> bool:
        raise ZeroDivisionError(progress)

    model, objective = hard_model
    with choose_backend(name).backend.open(model) as session:
        with pytest.raises(ZeroDivisionError):
            session.maximize(objective, SolveOptions(time_limit=30.0, on_progress=broken))
        assert session.maximize(objective, SolveOptions(time_limit=0.5)).status == "time_limit"


@pytest.mark.parametrize("name", SOLVERS_WITH_CALLBACKS)
def test_sessions_work_in_other_threads(name: str, hard_model: HardModel) -> None:
    found: list[Solution] = []
    options = SolveOptions(time_limit=30.0, on_progress=lambda p: p.time_s < 0.5)
    threads = [
        threading.Thread(target=lambda: found.append(solve(name, hard_model, options))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [solution.status for solution in found] == ["interrupted", "interrupted"]


def test_large_linear_models_can_be_interrupted(
    knapsack_model: Callable[..., tuple[LinearModel, Float64Array]],
) -> None:
    model, objective = knapsack_model(900, 700, integer=False)
    with choose_backend("highs").backend.open(model) as session:
        solution = session.maximize(objective, SolveOptions(on_progress=lambda _: False))
    assert solution.status == "interrupted"
    assert solution.claimed_bound == np.inf


TWO_INTERRUPTS = """
import os, signal, threading, time
from milpq.milp.backends._interrupt import Cancellation, run_interruptible

cancellation = Cancellation()
calls = []

def run():
    while len(calls) < 2:
        time.sleep(0.01)

for delay_s in (0.2, 0.5):
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
run_interruptible(run, cancellation, lambda: calls.append("cancel"))
assert cancellation.keyboard
assert calls == ["cancel", "cancel"]
"""


def test_ctrl_c_waits_for_the_run_to_end_however_often_it_is_pressed() -> None:
    # In a process of its own: solvers of other tests may have left their handlers behind in this one.
    done = subprocess.run(
        [sys.executable, "-c", TWO_INTERRUPTS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_error_of_the_run_comes_out() -> None:
    def run() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_interruptible(run, Cancellation())
