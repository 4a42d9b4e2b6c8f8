"""Running a suite: pose each case, look it up in the journal, run what is left, write down what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from milpq.bench.case_process import Task
from milpq.bench.journal import Journal
from milpq.bench.methods import Effort, Outcome
from milpq.bench.plan import Case, Poser
from milpq.bench.rows import Row, Subject, case_key, compared
from milpq.bench.runner import Order, Pool
from milpq.errors import MilpqError, MissingDataError


class Campaign:
    """One run of the cases of a suite.

    Parameters
    ----------
    cases : sequence of Case
    folder : Path
        Of the suite.
    journal : Journal
    on_row : callable, optional
        Given every row as it comes, in no particular order.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        folder: Path,
        journal: Journal,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self._cases = cases
        self._poser = Poser(folder)
        self._journal = journal
        self._on_row = on_row
        self._rows: dict[int, Row] = {}
        self._waiting: dict[int, tuple[Subject, str]] = {}
        self._twins: dict[str, list[int]] = {}

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in the order of the suite, compared with each other."""
        return compared(list(self._rows.values()))

    def run(self, pool: Pool) -> None:
        """Run every case that the journal does not know."""
        for number, outcome in pool.run(self._orders()):
            key = self._waiting[number][1]
            self._journal.add(key, outcome)
            for twin in self._twins.pop(key):
                self._finish(twin, self._waiting.pop(twin)[0], outcome)

    def _orders(self) -> Iterator[Order]:
        for number, case in enumerate(self._cases):
            try:
                problem = self._poser.pose(case)
            except MissingDataError as error:
                self._finish(number, Subject(), _none("skipped", str(error)))
                continue
            except MilpqError as error:
                self._finish(number, Subject(), _none("failed", str(error)))
                continue
            subject = Subject.of(problem)
            key = case_key(case, subject)
            known = self._journal.outcomes.get(key)
            if known is not None:
                self._finish(number, subject, known)
                continue
            self._waiting[number] = subject, key
            if key in self._twins:  # The same question twice in one suite is run once.
                self._twins[key].append(number)
                continue
            self._twins[key] = [number]
            task = Task(problem, effort_of(case), case.memory_mib)
            yield Order.of(number, task, case.time_s + case.grace_s)

    def _finish(self, number: int, subject: Subject, outcome: Outcome) -> None:
        row = Row(number, self._cases[number], subject, outcome)
        self._rows[number] = row
        if self._on_row is not None:
            self._on_row(row)


def effort_of(case: Case) -> Effort:
    """Return the method of a case and what it may spend."""
    return Effort(case.method, case.tolerance, case.solver, case.gap, case.time_s, case.jobs, case.seed)


def _none(status: str, note: str) -> Outcome:
    return Outcome(status, 0.0, float("inf"), "checked", 0.0, 0.0, note=note)
