"""The stage that writes a certificate: the bracket's upper end, proved by the methods of its checker."""

from __future__ import annotations

from typing import Final

from milpq.errors import CertificateError
from milpq.formats._files import PathLike
from milpq.milp.backends import choose_backend
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.proof import write
from milpq.verify.numbers import upward
from milpq.verify.run import Run

SEARCH_SHARE: Final = 0.7
"""Of the time limit, for everything before the certificate."""

_UNLIMITED_S: Final = 60.0
_TIMES_THE_SEARCH: Final = 3.0


def certify(
    run: Run,
    certifier: Certifier,
    path: PathLike,
    target: str | None,
    left_s: float | None,
    *,
    dequantized: bool,
) -> None:
    """Prove the upper end of the bracket again, as well as time allows, and write the proof.

    Parameters
    ----------
    target : str, optional
        As given for the quantized side.
    left_s : float, optional
        Seconds left; None for a multiple of what the run has taken so far.
    dequantized : bool
        Whether the float side is the integer model's own weights.

    *Soundness:* what is proved is a bound like any other: it enters the bracket, where executions check it.
    """
    run.tell("certificate")

    def listen(proved: float, open_leaves: int, closed_leaves: int) -> None:
        run.tell(
            "certificate", f"{upward(proved)} proved, {open_leaves:,} open leaves, {closed_leaves:,} closed"
        )

    with run.timed("search") as watch:
        if left_s is None:
            left_s = max(_UNLIMITED_S, _TIMES_THE_SEARCH * run.budget.elapsed_s)
        try:
            backend = choose_backend(run.options.solver).backend
            found = certifier.run(run.bracket.upper, Budget(left_s), backend, listen, run.bounds, run.leaves)
            write(path, run.problem, found.trees, found.upper, target, dequantized=dequantized)
        except (CertificateError, OSError) as error:
            run.bracket.notes.append(f"no certificate was written: {error}")
            return
    run.certificate_path, run.proved_upper = str(path), max(0.0, float(found.upper.max()))
    run.commit("certificate", found.upper, watch.elapsed_s, nodes=found.leaves)
