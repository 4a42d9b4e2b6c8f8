"""What it costs that no solver is trusted: the safe evaluations inside one run of the branch and bound.

Run as ``python benchmarks/rigour.py``.  The time of every safe evaluation is taken apart from the rest of the
same run, and what it gives is compared with what the solver claims about the same linear program.  Then checked bounds
of closed problems are compared with what the solver says when it searches the mixed-integer program itself.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import milpq
from milpq.bounds import differential
from milpq.formats import load_float, load_quantized, load_region
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.safe import safe_infeasible, safe_upper_bound
from milpq.milp.scaling import ScaledSession
from milpq.rounding.targets import get_target
from milpq.search.budget import Budget
from milpq.search.tree import TreeOptions, tree_search, work
from milpq.search.witness import search_witnesses

MODELS = Path(__file__).parent / "models"


class Meter:
    """Stands in for the safe evaluations and for the session, and passes everything on."""

    def __init__(self) -> None:
        self.safe_s, self.calls, self.loss, self.claimed = 0.0, 0, 0.0, float("nan")

    def timed(self, evaluate):
        """Return a safe evaluation that is timed and compared with what the solver claimed last."""

        def wrapped(model, objective, *arguments, **options):
            started = time.process_time()
            result = evaluate(model, objective, *arguments, **options)
            self.safe_s += time.process_time() - started
            self.calls += 1
            if isinstance(result, float) and self.claimed == self.claimed and abs(self.claimed) < 1e30:
                self.loss = max(self.loss, (result - self.claimed) / abs(self.claimed))
            return result

        return wrapped

    def session(self, *arguments):
        """Return a session that tells this meter what the solver claims."""
        meter = self

        class Session(ScaledSession):
            __slots__ = ()

            def maximize(self, objective, options):
                found = super().maximize(objective, options)
                meter.claimed = found.claimed_value if found.status == "optimal" else float("nan")
                return found

        return Session(*arguments)


def measure(pair: str, region: str, domain: str, outputs: list[int] | None, programs: int) -> None:
    """Search and print one line."""
    problem = Problem.create(
        load_float(MODELS / f"{pair}.onnx"),
        load_quantized(MODELS / f"{pair}_int8.tflite").on_target(get_target("tflm")),
        load_region(MODELS / region),
        domain,
        outputs,
    )
    meter = Meter()
    work.safe_upper_bound = meter.timed(safe_upper_bound)
    work.safe_infeasible = meter.timed(safe_infeasible)
    work.ScaledSession = meter.session
    bounds = differential(problem, problem.domain.root)
    pool = search_witnesses(problem)
    started = time.process_time()
    found = tree_search(
        problem, bounds, HighsBackend(), TreeOptions(max_programs=programs), pool=pool, budget=Budget()
    )
    total = time.process_time() - started
    print(
        f"{pair} {domain} {found.status}: {found.programs} programs, {total:.1f} CPU s, {meter.safe_s:.1f} of them in "
        f"{meter.calls} safe evaluations: {total / (total - meter.safe_s):.3f} times; largest loss {meter.loss:.1e}"
    )


def against_native(pair: str, region: Path, domain: str, outputs: list[int] | None) -> float:
    """Close a problem with checked bounds and with those of the solver, and return how far apart they are."""
    models = MODELS / f"{pair}.onnx", MODELS / f"{pair}_int8.tflite"
    found = []
    for solver in ("auto", "highs"):
        started = time.process_time()
        result = milpq.bound(
            *models, region, target="tflm", input_domain=domain, outputs=outputs, method="milp", solver=solver,
            gap=1e-7, jobs=1, time_limit=60.0,
        )  # fmt: skip
        spent = time.process_time() - started
        found.append(result.upper)
        print(
            f"{pair} {domain} {result.certificate.trust}: [{result.lower!r}, {result.upper!r}], {spent:.1f} CPU s"
        )
    apart = found[0] / found[1] - 1.0
    print(
        f"  the checked bound is {abs(apart):.1e} {'above' if apart > 0 else 'below'} the claim, relatively"
    )
    return apart


if __name__ == "__main__":
    regions = (("codes", "controller_small.toml"), ("continuous", "controller_small.toml"))
    apart = [against_native("controller", MODELS / region, domain, None) for domain, region in regions]
    if max(apart) > 1e-6:
        sys.exit(f"a checked bound is {max(apart):.1e} above the native one")
    measure("digits", "digits.toml", "codes", [0], 4000)
    measure("digits", "digits.toml", "continuous", None, 1500)
