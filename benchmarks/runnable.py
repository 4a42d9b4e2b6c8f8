"""How many threads of a question could run at once: what two quiet cores would bring, told on a busy machine.

    python benchmarks/runnable.py [--only WORD] [--jobs 2]

Wall seconds mean nothing where other work runs.  A thread that waits for a processor is runnable all the same, so a
second process (Linux only) looks every few milliseconds how many threads of the question, worker processes included,
are runnable, and books the processor seconds spent since under that number.  With two quiet cores, seconds with one
runnable thread would pass as they are, and others in half of the time.  Each question is asked once before, so
compiling and loading are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

from speedup import ACAS, acas, bundled, processor_s

PAUSE_S = 0.002


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    found = [pid]
    for task in tasks(pid):
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text()
        except OSError:
            continue
        for child in children.split():
            if int(child) != os.getpid():
                found += descendants(int(child))
    return found


def tasks(pid: int) -> list[str]:
    """Return the threads of a process."""
    try:
        return [path.name for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def watch(pid: int, stop: int) -> dict[int, float]:
    """Return processor seconds by the number of runnable threads, until something can be read from `stop`."""
    spent: dict[tuple[int, str], int] = {}
    booked: dict[int, float] = defaultdict(float)
    first, looks = True, 0
    os.set_blocking(stop, False)
    pids = [pid]
    while True:
        if looks % 50 == 0:
            pids = descendants(pid)
        looks += 1
        runnable = moved = 0
        for owner in pids:
            for task in tasks(owner):
                try:
                    used = int(Path(f"/proc/{owner}/task/{task}/schedstat").read_text().split()[0])
                    state = Path(f"/proc/{owner}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                # What a thread has spent before the watch began is no part of it.
                moved += 0 if first else used - spent.get((owner, task), 0)
                spent[owner, task] = used
                runnable += state == "R"
        first = False
        booked[runnable] += moved / 1e9
        try:
            os.read(stop, 1)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return booked


def main() -> int:
    """Print a line for each question."""
    parser = argparse.ArgumentParser(description="How many threads could run at once.")
    parser.add_argument("--only", default="", help="questions whose name has this in it")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    path = Path(os.environ.get("MILPQ_DATA", "../shared/data")) / ACAS
    print("| Question | Jobs | CPU s | one runnable | more | two quiet cores | CPU s over that |")
    print("|---|---|---|---|---|---|---|")
    for question in [*bundled(), *(acas(path) if path.exists() else ())]:
        if options.only not in question.name:
            continue
        question.ask(options.jobs)
        end, begin = os.pipe()
        answer, report = os.pipe()
        pid = os.getpid()
        child = os.fork()
        if child == 0:
            booked = watch(pid, end)
            os.write(report, json.dumps(booked).encode())
            os._exit(0)
        before = processor_s()
        question.ask(options.jobs)
        cpu_s = processor_s() - before
        os.write(begin, b".")
        booked = {int(count): seconds for count, seconds in json.loads(os.read(answer, 1 << 16)).items()}
        os.waitpid(child, 0)
        alone = sum(seconds for count, seconds in booked.items() if count < 2)
        more = sum(booked.values()) - alone
        wall_s = alone + more / 2
        print(
            f"| {question.name} | {options.jobs} | {cpu_s:.1f} | {alone:.2f} | {more:.2f} | {wall_s:.2f} "
            f"| {cpu_s / wall_s:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
