"""The journal of a run: one line an outcome, appended and synced, so that a kill loses no case that was done."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from milpq.bench.methods import Outcome
from milpq.errors import UsageError

_SCHEMA: Final = "milpq-journal/1"
_RUN_AGAIN: Final = frozenset({"crashed"})
"""Outcomes that say nothing about the case."""


class Journal:
    """Outcomes by key, on disk.

    Parameters
    ----------
    path : Path
    resume : bool
        Keep what is there; otherwise an old journal is moved aside.

    Raises
    ------
    UsageError
        Another run writes to it, or it is no journal.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if not resume and path.exists():
            path.replace(_free_name(path))
        self._stream = path.open("a+b")
        try:
            self._lock()
            self.outcomes = self._read()
        except UsageError:
            self._stream.close()
            raise
        self._stream.seek(0, os.SEEK_END)
        if not self._stream.tell():
            self._write({"schema": _SCHEMA})

    def add(self, key: str, outcome: Outcome) -> None:
        """Append an outcome; when this returns, it survives a kill."""
        self._write({"key": key, "outcome": asdict(outcome)})
        self.outcomes[key] = outcome

    def close(self) -> None:
        """Release the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, words: dict[str, object]) -> None:
        self._stream.write(json.dumps(words).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _read(self) -> dict[str, Outcome]:
        """Return the outcomes so far; a last line that a kill cut short is cut off."""
        self._stream.seek(0)
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._stream.truncate(whole)
        outcomes: dict[str, Outcome] = {}
        for number, line in enumerate(content[:whole].splitlines()):
            try:
                words = cast("dict[str, Any]", json.loads(line))
                if number == 0:
                    if words["schema"] != _SCHEMA:
                        raise ValueError("unknown schema")
                    continue
                stated = cast("dict[str, Any]", words["outcome"])
                stated["trace"] = tuple(tuple(moment) for moment in stated["trace"])
                outcome = Outcome(**stated)
                if outcome.status not in _RUN_AGAIN:
                    outcomes[str(words["key"])] = outcome
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{self.path}: line {number + 1} is not of this version's journal ({error}); run without --resume"
                ) from error
        return outcomes

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl  # noqa: PLC0415 - not on every system

        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{self.path}: another run is writing to it") from error


def _free_name(path: Path) -> Path:
    """Return a name beside a file that is not taken."""
    number = 1
    while (candidate := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return candidate
