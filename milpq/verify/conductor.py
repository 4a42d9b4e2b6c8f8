"""The conductor: from two networks and a region to a bracket, stage by stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from milpq.errors import SolverUnavailableError, UsageError, WorkersLostError
from milpq.formats._files import PathLike
from milpq.formats.provenance import source_files
from milpq.formats.sides import FloatSource, QuantizedSource
from milpq.formats.writing import check_place
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.integer_network import IntegerNetwork
from milpq.search.bounding import compile_bounding
from milpq.search.budget import Budget
from milpq.search.certifier import Certifier
from milpq.search.execution import compile_execution
from milpq.verify import stages
from milpq.verify.bracket import Bracket, Progress
from milpq.verify.certify import SEARCH_SHARE, certify
from milpq.verify.describe import environment, execute_witness, memory
from milpq.verify.float_arithmetic import checked_arithmetic, in_float32, region_error
from milpq.verify.layers import add_explanation
from milpq.verify.models import RegionSource, load_box, load_pair, pose
from milpq.verify.optimize import bound_by_lp, bound_by_milp, check_solver, search_phases_or_programs
from milpq.verify.options import Options, all_cores, checked_domain, checked_method, checked_twin
from milpq.verify.result import CertificateNote, OutputBracket, Question, Result, Status, Times
from milpq.verify.run import Run, Stopwatch

_INEXACT_SPLIT_S: Final = 30.0
"""Seconds of splitting, where there is no time limit and the gap may never close."""


def bound(
    float_network: FloatSource,
    quantized: QuantizedSource,
    region: RegionSource,
    *,
    target: str | None = None,
    input_domain: str | None = None,
    outputs: Sequence[int] | None = None,
    tolerance: float | None = None,
    method: str = "auto",
    solver: str = "auto",
    gap: float = 1e-4,
    time_limit: float | None = None,
    jobs: int | None = None,
    executor: str = "local",
    device: str = "cpu",
    journal: PathLike | None = None,
    resume: bool = False,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    float_twin: str | None = None,
    float_arithmetic: str | None = None,
    certificate: PathLike | None = None,
    explain: bool = False,
) -> Result:
    """Bound the largest difference between a float network and its quantized version over a region.

    Parameters
    ----------
    float_network : FloatNetwork, torch module or path
    quantized : QuantizedModel, IntegerNetwork, FloatNetwork, torch module or path
        A float network with changed weights may stand on the quantized side; its arithmetic is then real.
    region : Box, pair of array-likes (lower, upper) of shape (inputs,), or path
        Real units.
    target : str, optional
        Id of the inference target whose rounding is meant; needed unless the quantized side settles it.
    input_domain : "continuous" or "codes", optional
        Every real input of the region, through the input quantizer, or only inputs that are exactly codes.
        Continuous by default where the network has an input quantizer.
    outputs : sequence of int, optional
        Outputs asked about; all by default.
    tolerance : float, optional
        Decide whether the largest difference is at most this (real units), and stop once that is known.
    method : str
        ``auto``, or the last stage to run: ``interval``, ``symbolic``, ``differential``, ``lp``, ``milp``.
    solver : str
        ``auto``, ``highs``, ``gurobi``, ``pulp`` or ``pulp:NAME``.
    gap : float
        Stop at ``upper − lower <= gap·upper``.
    time_limit : float, optional
        Seconds for the whole run, the loading of files apart.
    jobs : int, optional
        Threads or processes of the search, threads of the solver.  Every core by default; up to 4 give the same answer.
    executor : str
        Where batches of a search run: ``local``, ``dask``, or ``dask://HOST:PORT`` for a running cluster.
    device : str
        Where the cubes of splitting are bounded: ``cpu``, or ``cuda`` for a GPU by torch.
    journal : path, optional
        A ``.npz`` file where searches leave their states every few seconds, for another run to go on from.
    resume : bool
        Go on from the states in `journal`, if there are any.
    seed : int
        Of everything random.
    on_progress : callable, optional
        Given a `Progress` whenever the bracket may have changed; perhaps in another thread.
    float_twin : "file" or "dequantized", optional
        With ``dequantized`` the float side is the integer model's own weights in real arithmetic, and
        `float_network` is not read.
    float_arithmetic : "real" or "float32", optional
        With ``float32`` the bracket also covers the float model as any float32 runtime computes it; see
        `milpq.bounds.float32`.
    certificate : path, optional
        Where to write a proof of the upper end that ``milpq.check`` verifies.  Three tenths of the time limit are
        kept for it; where they do not suffice, it proves a larger number, which ``certificate.proved_upper`` says.
    explain : bool
        Say afterwards what each layer contributes, as `milpq.explain` does, in ``result.explanation``.

    Returns
    -------
    Result
        Also after Ctrl-C, with the bracket so far and the status ``interrupted``.

    Raises
    ------
    MilpqError
        A file, network, region, target, solver or option is not usable; nothing has been claimed then.
    SoundnessError
        An executed input contradicts a bound.

    *Soundness:* the lower end is an execution, rounded downwards.  The upper end is rounded outwards by the
    method it comes from, and checked against 10,000 random executions (fewer of networks with millions of
    weights, or where the time limit cuts them); ``certificate.trust`` says whether it rests on a solver's claim.
    """
    options = Options(
        tolerance,
        checked_method(method),
        solver,
        gap,
        time_limit,
        all_cores() if jobs is None else jobs,
        seed,
        on_progress,
        executor,
        device,
        journal,
        resume,
    )
    domain, twin = checked_domain(input_domain), checked_twin(float_twin)
    arithmetic = checked_arithmetic(float_arithmetic)
    check_solver(options)
    if certificate is not None:
        check_place(Path(certificate), "--certificate")
    loading = Stopwatch()
    box, region_origin = load_box(region)
    pair = load_pair(float_network, quantized, target, twin)
    files = source_files(float_network, quantized, region, twin)
    problem = pose(pair, box, region_origin, domain, outputs)
    _check_inexact(problem, options.method)
    certifier = None if certificate is None else Certifier(problem)
    widening = region_error(problem) if arithmetic == "float32" else None
    if widening is not None and tolerance is not None:
        # Decided in real arithmetic with room for what float32 changes.
        options = replace(options, tolerance=max(0.0, tolerance - float(widening.max()) * (1 + 1e-9)))
    if on_progress is not None:
        on_progress(
            Progress("compiling", 0.0, math.inf, 0.0, "takes time on the first run of a machine only")
        )
    compile_execution(problem)
    if method == "auto":
        compile_bounding(problem, device)
    load_s = loading.elapsed_s
    share = 1.0 if certificate is None else SEARCH_SHARE
    run = Run(problem, options, Bracket(problem), Budget(None if time_limit is None else share * time_limit))
    run.certified, run.journal = certifier is not None, stages.open_journal(problem, options)
    if run.journal is not None and run.journal.goes_on:
        run.bracket.notes.append(f"goes on from {journal}: the bounds and open parts kept there are believed")
    interrupted = _stopped(run, lambda: _answer(run))
    if certifier is not None and certificate is not None:
        path, prover = certificate, certifier
        left = 0.0 if interrupted else None if time_limit is None else time_limit - run.budget.elapsed_s
        interrupted |= _stopped(
            run, lambda: certify(run, prover, path, target, left, dequantized=twin == "dequantized")
        )
    if run.journal is not None and run.journal.failure:
        run.bracket.notes.append(
            f"{journal}: could not be written ({run.journal.failure}); it holds what was known before, or is not there"
        )
    result = _result(run, region_origin, pair.notes, load_s, interrupted=interrupted)
    result = replace(result, problem=replace(result.problem, files=files))
    if widening is not None:
        result = in_float32(result, widening, tolerance)
    if not explain or interrupted:
        return result
    rest = None if time_limit is None else time_limit - run.budget.elapsed_s
    return add_explanation(result, problem, seed, rest, run.bounds)


def _check_inexact(problem: Problem, method: str) -> None:
    """Refuse what needs exact operations, for networks that have others."""
    if not problem.merged.is_exact and method in {"lp", "milp"}:
        raise UsageError(
            f"{problem.quantized.origin}: quantizes its activations dynamically, which no linear program here encodes; "
            "use --method auto or differential"
        )


def _stopped(run: Run, work: Callable[[], None]) -> bool:
    """Do a part of the work, and tell whether Ctrl-C has stopped it; the bracket so far outlives what else does."""
    try:
        work()
    except KeyboardInterrupt:
        return True
    except (MemoryError, WorkersLostError, SolverUnavailableError) as error:
        asked_for = isinstance(error, SolverUnavailableError) and run.options.solver != "auto"
        if asked_for or not math.isfinite(run.bracket.upper):
            raise
        reason = "out of memory" if isinstance(error, MemoryError) else str(error)
        run.bracket.notes.append(f"stopped early: {reason}")
    return False


def _answer(run: Run) -> None:
    """Run the stages that the method asks for."""
    stages.propagate(run, "interval")
    stages.sample_inputs(run)
    for method in ("symbolic", "differential"):
        if run.wants(method):
            stages.propagate(run, method)
    if run.options.method == "auto":
        _choose_search(run)
    else:
        stages.find_witnesses(run)
        if _cuts_phases(run) and run.wants("lp"):
            stages.optimize(run)
    # Linear programs over many inputs are slow, and add little to optimized slopes.
    exact = run.problem.merged.is_exact
    if exact and run.wants("lp") and not (_cuts_phases(run) and run.options.method == "auto"):
        bound_by_lp(run)
    if exact and run.wants("milp"):
        bound_by_milp(run)


def _cuts_phases(run: Run) -> bool:
    """Tell whether there are too many inputs to split, and the networks are known exactly."""
    merged = run.problem.merged
    return merged.is_exact and merged.input_size > stages.FEW_INPUTS


def _choose_search(run: Run) -> None:
    """Enumerate where there are few codes, split where there are few inputs, cut phases where there are many."""
    if not run.finished and stages.can_enumerate(run):
        stages.enumerate_domain(run)
    if not run.problem.merged.is_exact:
        # Bands do not vanish as cubes shrink, so that the gap may never close.
        if not run.finished:
            stages.split(run, limit_s=_INEXACT_SPLIT_S)
    elif not run.finished:
        if _cuts_phases(run):
            stages.find_witnesses(run)
            if run.finished:
                return
            if run.options.device != "cpu":
                run.bracket.notes.append("many inputs are not split: nothing ran on the device")
            search_phases_or_programs(run)
        elif run.problem.merged.input_size <= stages.FEW_INPUTS:
            stages.split(run)
            if not run.finished and stages.can_enumerate(run, first=False):
                stages.enumerate_domain(run)


def _status(run: Run, *, interrupted: bool) -> Status:
    tolerance, bracket = run.options.tolerance, run.bracket
    if tolerance is not None and bracket.lower > tolerance:
        return "violated"
    if tolerance is not None and bracket.upper <= tolerance:
        return "certified"
    if interrupted:
        return "interrupted"
    if tolerance is not None:
        return "undecided"
    return "optimal" if bracket.closed(run.options.gap) else "bounded"


def _question(run: Run, region_origin: str, notes: tuple[str, ...]) -> Question:
    problem, options = run.problem, run.options
    quantized = problem.quantized
    box = problem.domain.box
    return Question(
        problem.hash(),
        problem.float_network.origin,
        quantized.origin,
        region_origin,
        None if isinstance(quantized, FloatNetwork) else quantized.target,
        box.lower,
        box.upper,
        problem.domain.kind,
        tuple(problem.outputs.tolist()),
        options.tolerance,
        options.method,
        options.gap,
        options.time_limit,
        notes,
    )


def _result(
    run: Run, region_origin: str, notes: tuple[str, ...], load_s: float, *, interrupted: bool
) -> Result:
    problem, bracket, options = run.problem, run.bracket, run.options
    witness = bracket.pool.best
    executed = None
    if witness is not None and np.isfinite(witness.lower):
        refined, executed = execute_witness(problem, witness)
        bracket.add_exact(refined)
    quantized = problem.quantized
    lsb = quantized.output_scale if isinstance(quantized, IntegerNetwork) else None
    return Result(
        _status(run, interrupted=interrupted),
        bracket.lower,
        bracket.upper,
        executed,
        tuple(
            OutputBracket(j, *ends, None if lsb is None else float(lsb[j]))
            for j, ends in zip(problem.outputs.tolist(), bracket.signed_ends(), strict=True)
        ),
        tuple(bracket.methods.values()),
        run.sampled,
        memory(problem),
        CertificateNote(bracket.trust, bracket.checked_upper, run.certificate_path, run.proved_upper),
        _question(run, region_origin, (*notes, *bracket.notes)),
        Times(load_s, run.time_s["bound"], run.time_s["search"], load_s + time.monotonic() - run.started),
        environment(run.solver, options.jobs, options.seed),
        bracket.history,
    )
