"""Cases in processes: limits are hard, and whatever becomes of a process is a row."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from milpq.bench.case_process import Task
from milpq.bench.methods import Effort, Outcome, run_method
from milpq.bench.runner import LocalPool, Order, open_pool, run_order
from milpq.bench.tasks import random_pair
from milpq.errors import UsageError
from milpq.merge import Problem
from milpq.region.box import Box
from milpq.rounding.targets import get_target


def _problem(seed: int = 0, sizes: tuple[int, ...] = (2, 4, 4, 1), radius: float = 0.1) -> Problem:
    network, model = random_pair(list(sizes), 8, seed)
    box = Box(np.full(sizes[0], -radius), np.full(sizes[0], radius))
    return Problem.create(network, model.on_target(get_target("tflm")), box, "codes")


def _order(
    number: int, effort: Effort, *, hard_s: float | None = 60.0, memory: int | None = None, **of
) -> Order:
    return Order.of(number, Task(_problem(**of), effort, memory), hard_s)


SLOW = {"sizes": (6, 60, 60, 60, 3), "radius": 1.0}


def test_a_process_gives_what_the_call_gives() -> None:
    effort = Effort("auto", gap=0.0)
    expected = run_method(_problem(), effort)
    found = run_order(_order(0, effort))
    assert (found.status, found.lower, found.upper) == (expected.status, expected.lower, expected.upper)
    assert found.status == "optimal"
    assert found.sampled_points == expected.sampled_points
    assert found.trace[-1][1:] == expected.trace[-1][1:]


def test_a_process_that_will_not_stop_is_stopped_with_its_bracket() -> None:
    started = time.monotonic()
    found = run_order(_order(0, Effort("auto", gap=0.0, time_s=500.0), hard_s=12.0, **SLOW))
    assert found.status == "timeout"
    assert time.monotonic() - started < 100
    assert 0 <= found.lower < found.upper < float("inf")


def test_a_process_without_memory_is_a_row() -> None:
    found = run_order(_order(0, Effort("auto", time_s=20.0), memory=256, **SLOW))
    assert found.status in {"memory", "bounded"}
    assert found.status == "memory" or "memory" in found.note


def test_a_case_runs_this_milpq_whatever_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "milpq").mkdir()
    (tmp_path / "milpq" / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_order(_order(0, Effort("interval"))).status == "bounded"


def test_an_error_is_a_row() -> None:
    found = run_order(_order(0, Effort("lp", solver="nothing")))
    assert found.status == "failed"
    assert "nothing" in found.note


def test_a_killed_process_is_started_again() -> None:
    killed: list[int] = []

    def kill() -> None:
        for _ in range(400):
            for child in _children(os.getpid()):
                os.kill(child, signal.SIGKILL)
                killed.append(child)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    found = run_order(_order(0, Effort("differential")))
    thread.join()
    assert killed
    assert found.status == "bounded"


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(words[1]) == pid and "case_process" in command:
                found.append(int(entry.name))
    return found


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    order = _order(0, Effort("auto", gap=0.0, time_s=500.0), **SLOW)
    (tmp_path / "task").write_bytes(order.content)
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'milpq.bench.case_process', sys.argv[1]],"
        " stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "task"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.stdout.close()
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the process outlived the one that started it")


def test_a_pool_runs_several_and_can_be_stopped() -> None:
    pool = LocalPool(2)
    orders = [_order(k, Effort("interval"), seed=k) for k in range(5)]
    found = dict(pool.run(orders))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all(outcome.status == "bounded" for outcome in found.values())
    running = pool.run([_order(9, Effort("auto", gap=0.0, time_s=500.0), **SLOW)])
    threading.Timer(1.0, pool.close).start()
    assert next(running)[1].status == "crashed"


def test_what_is_compiled_is_compiled_beforehand() -> None:
    pool = LocalPool(1)
    pool.warm_up()
    found = dict(pool.run([_order(0, Effort("auto", gap=0.0, time_s=20.0))]))
    assert found[0].status == "optimal"
    pool.close()


def test_tasks_of_several_jobs_do_not_share_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    most: list[int] = []

    def run(_self: object, order: Order) -> Outcome:
        running.append(order.jobs)
        most.append(sum(running))
        time.sleep(0.02)
        running.remove(order.jobs)
        return Outcome("bounded", 0.0, 1.0, "checked", 0.0, 0.0)

    monkeypatch.setattr("milpq.bench.runner._Processes.run", run)
    pool = LocalPool(3)
    orders = [Order(number, b"", None, jobs) for number, jobs in enumerate([1, 2, 2, 1, 1, 1, 4, 1])]
    assert sorted(number for number, _ in pool.run(orders)) == list(range(8))
    assert sorted(set(most))[-2:] == [3, 4], "four only by itself"
    pool.close()


def test_unknown_pools_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown executor"):
        open_pool("cloud", 1)
    with pytest.raises(UsageError, match="at least 1"):
        open_pool("local", 0)
