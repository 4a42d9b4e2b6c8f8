"""One case in a process of its own: ``python -m milpq.bench.case_process FILE``.

It reads a pickled `Task`, takes its limit of memory upon itself, and writes JSON lines to stdout: ``progress`` as the
bracket moves, then ``done``, ``failed`` or ``memory``.  It ends with the process that started it, whose end closes
its stdin.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from milpq.errors import MilpqError, SoundnessError

if TYPE_CHECKING:
    from milpq.bench.methods import Effort
    from milpq.merge import Problem
    from milpq.verify import Progress

_EVERY_S: Final = 0.2
_CLAIMS: Final = frozenset({"milp"})
"""From these stages on the bracket may rest on what a solver claims; one that is cut short must not."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a process is to do.

    Parameters
    ----------
    memory_mib : int or None
        Mebibytes of address space.
    """

    problem: Problem
    effort: Effort
    memory_mib: int | None


def main(file: str) -> None:
    """Run the task in a file."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # What a solver prints must not mix with the answers.
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        from milpq.bench.methods import run_method  # noqa: PLC0415 - slow, and may run out of memory

        task: Task = pickle.loads(Path(file).read_bytes())
        _limit_memory(task.memory_mib)
        outcome = run_method(task.problem, task.effort, _Listener(answers))
    except SoundnessError as error:
        _say(answers, kind="failed", status="alarm", note=str(error))
    except MilpqError as error:
        _say(answers, kind="failed", status="failed", note=str(error))
    except (MemoryError, ImportError) as error:
        # A library that cannot be mapped is an ImportError.
        _say(answers, kind="failed", status="memory", note=f"out of memory ({error})")
    except KeyboardInterrupt:
        _say(answers, kind="failed", status="timeout", note="stopped at the time limit")
    else:
        _say(answers, kind="done", outcome=asdict(outcome))


def _say(answers: TextIO, **words: object) -> None:
    answers.write(json.dumps(words) + "\n")


class _Listener:
    """Writes the bracket when it has moved, now and then."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._said = (-math.inf, math.inf)
        self._upper = math.inf
        self._claimed = False
        self._when = -math.inf

    def __call__(self, event: Progress) -> None:
        """Note a moment."""
        self._claimed |= event.stage in _CLAIMS
        if not self._claimed:
            self._upper = min(self._upper, event.upper)
        state = event.lower, self._upper
        now = time.monotonic()
        if state == self._said or not math.isfinite(self._upper) or now - self._when < _EVERY_S:
            return
        self._said, self._when = state, now
        _say(self._answers, kind="progress", time_s=event.time_s, lower=state[0], upper=state[1])


def _limit_memory(mebibytes: int | None) -> None:
    if mebibytes is None or sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not on every system

    with suppress(ValueError, OSError):  # a system without such a limit, or with a lower one
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))


def _leave_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(3)


if __name__ == "__main__":
    main(sys.argv[1])
