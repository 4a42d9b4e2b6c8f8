"""The memory of a long search: ACAS Xu N1_1 against its int8 weights, split until time is up.

    python benchmarks/memory.py [SECONDS] [JOBS] [RADIUS]

By default 600 seconds, two jobs and radius 0.3 with a gap of 0, so that cubes pile up.  Prints the resident memory of
the process and its peak every tenth of the time; ends with 1 where the peak reaches 1 GiB.  Needs MILPQ_DATA
(default ../shared/data), and a system with /proc.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

import milpq
from milpq.bench.tasks.weights import rounded_weights
from milpq.verify import Progress

LIMIT_MIB = 1024


def memory_mib() -> tuple[int, int]:
    """Return what this process has in memory, and the most it has had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return int(lines["VmRSS"].split()[0]) >> 10, int(lines["VmHWM"].split()[0]) >> 10


def main() -> int:
    """Run the search."""
    seconds, jobs, radius = (
        float(given) for given in (sys.argv[1:] + ["600", "2", "0.3"][len(sys.argv) - 1 :])
    )
    path = Path(os.environ.get("MILPQ_DATA", "../shared/data")) / "acasxu/ACASXU_run2a_1_1_batch_2000.onnx"
    if not path.exists():
        print(f"skipped: {path} is not there; set MILPQ_DATA")
        return 0
    network = milpq.load(path)
    box = milpq.Box(np.full(5, -radius), np.full(5, radius))
    started, said = time.monotonic(), [0.0]
    print("| s | CPU s | Resident MiB | Peak MiB | Bracket | |\n|---|---|---|---|---|---|")

    def listen(event: Progress) -> None:
        elapsed = time.monotonic() - started
        if elapsed >= said[0]:
            said[0] += seconds / 10
            resident, peak = memory_mib()
            print(
                f"| {elapsed:.0f} | {time.process_time():.0f} | {resident} | {peak} "
                f"| [{event.lower:.6g}, {event.upper:.6g}] | {event.stage} {event.detail} |",
                flush=True,
            )

    result = milpq.bound(
        network,
        rounded_weights(network, 8),
        box,
        gap=0.0,
        time_limit=seconds,
        jobs=int(jobs),
        on_progress=listen,
    )
    peak = memory_mib()[1]
    print(f"{result.status}: [{result.lower:.6g}, {result.upper:.6g}], peak {peak} MiB of {LIMIT_MIB}")
    return int(peak >= LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main())
