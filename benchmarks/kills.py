"""Kill a benchmark run again and again, resume it, and compare: `python benchmarks/kills.py [KILLS] [SEED]`.

Each time a case, the whole run, a Dask worker or the Dask scheduler is killed with SIGKILL at a random moment.  The
table of the run that is resumed to its end must be that of an undisturbed one.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SUITE = """
schema = "milpq-suite/1"
title = "Kills"

[[grid]]
name = "random"
targets = ["tflm"]
domains = ["codes"]
methods = ["differential", "auto", "separate"]
gap = 0.0
pairs = [{ build = "random", name = "r", inputs = [2, 3], width = [4, 8], bits = [4, 8] }]
regions = [{ radius_codes = [2, 5] }]
"""
SAME = ("question", "method", "status", "lower", "upper", "trust", "witness", "nodes", "rmse", "problem")
PORT = 18786


def main() -> None:
    """Run the experiment and print what happened."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    generator = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite = folder / "kills.toml"
        suite.write_text(SUITE, encoding="utf-8")
        finish(suite, folder / "whole")
        out = folder / "killed"
        for number in range(kills):
            kind = generator.choice(["case", "run", "worker", "scheduler"])
            disturb(suite, out, kind, generator)
            lines = (
                (out / "journal.jsonl").read_bytes().count(b"\n") if (out / "journal.jsonl").exists() else 0
            )
            print(f"{number + 1}: killed {kind}, {max(lines - 1, 0)} cases in the journal", flush=True)
        finish(suite, out)
        tables = [table(path / "results.csv") for path in (folder / "whole", out)]
        print("the same table" if tables[0] == tables[1] else "THE TABLES DIFFER")
        sys.exit(0 if tables[0] == tables[1] else 1)


def bench(suite: Path, out: Path, executor: str = "local") -> subprocess.Popen[bytes]:
    """Start a run that resumes."""
    command = [sys.executable, "-m", "milpq", "bench", suite, "-o", out, "--resume", "--jobs", "2"]
    return subprocess.Popen(
        [*command, "--executor", executor, "--progress", "none"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(suite: Path, out: Path) -> None:
    """Run to the end."""
    if bench(suite, out).wait() != 0:
        raise RuntimeError("the run did not end well")


def disturb(suite: Path, out: Path, kind: str, generator: random.Random) -> None:
    """Start a run, kill something in it, let it go on a little, and kill it."""
    cluster: list[subprocess.Popen[bytes]] = []
    executor = "local"
    if kind in {"worker", "scheduler"}:
        executor = f"dask://127.0.0.1:{PORT}"
        dask = [sys.executable, "-m", "dask"]
        for command in (
            ["scheduler", "--host", "127.0.0.1", "--port", str(PORT), "--no-dashboard"],
            ["worker", f"tcp://127.0.0.1:{PORT}", "--nworkers", "2", "--nthreads", "1", "--no-dashboard"],
        ):
            silent = subprocess.DEVNULL
            cluster.append(
                subprocess.Popen([*dask, *command], stdout=silent, stderr=silent, start_new_session=True)
            )
            time.sleep(2.0)
    before, grown = journaled(out), generator.randint(1, 4)
    run = bench(suite, out, executor)
    while run.poll() is None and journaled(out) < before + grown:
        time.sleep(0.05)
    time.sleep(generator.uniform(0.0, 1.0))
    victims = {
        "run": [run.pid],
        "case": offspring(run.pid, "case_process"),
        "worker": offspring(cluster[1].pid, "spawn_main") if cluster else [],
        "scheduler": [cluster[0].pid] if cluster else [],
    }[kind]
    if victims:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(generator.choice(victims), signal.SIGKILL)
    time.sleep(generator.uniform(0.0, 2.0))
    run.kill()
    run.wait()
    for process in cluster:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def journaled(out: Path) -> int:
    """Return how many cases the journal holds."""
    journal = out / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def offspring(pid: int, word: str) -> list[int]:
    """Return the processes below one whose command line holds a word."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue

    def below(child: int) -> bool:
        while child in parents:
            child = parents[child]
            if child == pid:
                return True
        return False

    return [child for child in parents if below(child) and word in commands[child]]


def table(path: Path) -> list[tuple[str, ...]]:
    """Return the columns that must not depend on what happened."""
    with path.open(encoding="utf-8") as stream:
        return [tuple(row[name] for name in SAME) for row in csv.DictReader(stream)]


if __name__ == "__main__":
    main()
