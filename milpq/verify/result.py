"""The answer to a question: the bracket, its witness, and everything a report says about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from milpq._arrays import Float64Array, Int64Array
from milpq.formats.provenance import SourceFile
from milpq.verify.bracket import MethodRecord, Progress, Trust
from milpq.verify.card import html_card
from milpq.verify.explanation import Explanation
from milpq.verify.numbers import downward, downward_above, spelled, upward, upward_within
from milpq.verify.sampling import Sampled

Status: TypeAlias = Literal["optimal", "certified", "violated", "bounded", "undecided", "interrupted"]
"""``optimal``: the gap is closed.  ``certified`` and ``violated``: the tolerance is decided.  ``bounded``: a
bracket within the limits, no tolerance asked.  ``undecided``: the tolerance lies inside the bracket.
``interrupted``: by Ctrl-C."""

SCHEMA: Final = "milpq-report/1"
EXIT_CODES: Final[Mapping[Status, int]] = {
    "optimal": 0,
    "certified": 0,
    "bounded": 0,
    "violated": 1,
    "undecided": 3,
    "interrupted": 130,
}
"""Exit code of the command line for each status."""


@dataclass(frozen=True, slots=True, eq=False)
class ExecutedWitness:
    """An executed input and what both networks give there.

    Parameters
    ----------
    input : float64, shape (inputs,), real units
        What `f` reads.
    codes : int64, shape (inputs,), or None
        What the integer side reads; None for a real quantized side.
    float_output : float64, shape (outputs,), real units
        Nearest float64 numbers to the outputs of `f`, within the error of their evaluation.
    quantized_codes : int64, shape (outputs,), or None
    quantized_output : float64, shape (outputs,), real units
    output : int
        The output whose difference attains the lower end.
    lower : float
        Not above ``|f_q − f|`` at that output, in exact arithmetic.
    """

    input: Float64Array
    codes: Int64Array | None
    float_output: Float64Array
    quantized_codes: Int64Array | None
    quantized_output: Float64Array
    output: int
    lower: float

    @property
    def difference(self) -> Float64Array:
        """``f_q − f`` at every output, float64, shape (outputs,)."""
        return self.quantized_output - self.float_output


@dataclass(frozen=True, slots=True)
class OutputBracket:
    """Brackets of the signed extremes of ``(f_q − f)_j``, real units.

    Parameters
    ----------
    index : int
        The output ``j``.
    max_lower, max_upper, min_lower, min_upper : float
        Infinite where nothing is known.
    lsb : float or None
        Real value of one output code; None for a real quantized side.
    """

    index: int
    max_lower: float
    max_upper: float
    min_lower: float
    min_upper: float
    lsb: float | None

    @property
    def lower(self) -> float:
        """Lower end of the bracket on ``max |f_q − f|`` of this output; at least 0."""
        return max(0.0, self.max_lower, -self.min_upper)

    @property
    def upper(self) -> float:
        """Upper end of the bracket on ``max |f_q − f|`` of this output; at least 0."""
        return max(0.0, self.max_upper, -self.min_lower)


@dataclass(frozen=True, slots=True)
class CertificateNote:
    """What the upper end rests on, and the certificate file, if one was written.

    Parameters
    ----------
    checked_upper : float
        The upper end without what rests on a solver's claim, real units.
    path : str or None
        The certificate file.
    proved_upper : float or None
        What that file proves; above the upper end where time was short.
    """

    trust: Trust
    checked_upper: float
    path: str | None = None
    proved_upper: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the stored weights and biases of both networks."""

    float_bytes: int
    quantized_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What was asked, for the report.

    Parameters
    ----------
    hash : str
        SHA-256 over everything the answer depends on.
    float_origin, quantized_origin, region_origin : str
        Where each came from.
    target : str or None
        None for a real quantized side.
    lower, upper : float64, shape (inputs,)
        The region.
    notes : tuple of str
        What a reader of the answer must know.
    files : tuple of SourceFile
        The files it was read from; what was handed over in memory has none.
    """

    hash: str
    float_origin: str
    quantized_origin: str
    region_origin: str
    target: str | None
    lower: Float64Array
    upper: Float64Array
    input_domain: str
    outputs: tuple[int, ...]
    tolerance: float | None
    method: str
    gap: float
    time_limit: float | None
    notes: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of wall time."""

    load: float
    bound: float
    search: float
    total: float


@dataclass(frozen=True, slots=True)
class Environment:
    """Where the run took place."""

    milpq: str
    python: str
    solver: str | None
    versions: Mapping[str, str]
    cpu: str
    threads: int
    seed: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """A certified bracket ``lower <= max |f_q − f| <= upper``, real units.

    Parameters
    ----------
    status : str
        One of `Status`.
    lower : float
        Attained by `witness` on bit-exact execution, rounded downwards.
    upper : float
        Certified, rounded upwards; infinite only if interrupted before the first bound.
    witness : ExecutedWitness or None
        None only if interrupted before the first execution.
    outputs : tuple of OutputBracket
        Of each output asked about, its signed extremes.
    methods : tuple of MethodRecord
        The stages that ran: what each has proven by itself, and how long it took.
    sampled : Sampled or None
        What random inputs show; None only if interrupted before them.
    memory : Memory
        Bytes of both networks' parameters.
    certificate : CertificateNote
        What the upper end rests on, and the certificate file, if one was written.
    problem : Question
        What was asked, with its hash and its files.
    time_s : Times
        Seconds of wall time.
    environment : Environment
        Versions, processor, threads and seed.
    history : tuple of Progress
        How the bracket moved during the run.
    explanation : Explanation or None
        What each layer contributes, if that was asked for.
    """

    status: Status
    lower: float
    upper: float
    witness: ExecutedWitness | None
    outputs: tuple[OutputBracket, ...]
    methods: tuple[MethodRecord, ...]
    sampled: Sampled | None
    memory: Memory
    certificate: CertificateNote
    problem: Question
    time_s: Times
    environment: Environment
    history: tuple[Progress, ...] = ()
    explanation: Explanation | None = None

    @property
    def exit_code(self) -> int:
        """What the command line returns for this result."""
        return EXIT_CODES[self.status]

    @property
    def lsb(self) -> float | None:
        """Real value of one code of the output with the largest code; None for a real quantized side."""
        steps = [bracket.lsb for bracket in self.outputs if bracket.lsb is not None]
        return max(steps, default=None)

    @property
    def verdict(self) -> str:
        """The answer in one sentence; the ends are rounded outwards."""
        lower, upper = downward(self.lower), upward(self.upper)
        tolerance = math.inf if self.problem.tolerance is None else self.problem.tolerance
        match self.status:
            case "optimal":
                return f"OPTIMAL: the largest difference lies in [{lower}, {upper}]"
            case "certified":
                upper = upward_within(self.upper, tolerance)
                return (
                    f"CERTIFIED: no input of the region differs by more than {upper} "
                    f"(tolerance {spelled(tolerance)})"
                )
            case "violated":
                lower = downward_above(self.lower, tolerance)
                return (
                    f"VIOLATED: an executed input differs by at least {lower}, above the tolerance "
                    f"{spelled(tolerance)}"
                )
            case "undecided":
                return f"UNDECIDED: the tolerance {spelled(tolerance)} lies in the bracket [{lower}, {upper}]"
            case "interrupted":
                return f"INTERRUPTED: the bracket so far is [{lower}, {upper}]"
            case "bounded":
                return f"BOUNDED: no input of the region differs by more than {upper}; one differs by {lower}"

    def report(self) -> dict[str, object]:
        """Return the report of schema ``milpq-report/1`` as JSON-ready values; None for what is infinite."""
        witness, sampled, asked, ran = self.witness, self.sampled, self.problem, self.environment
        return {
            "schema": SCHEMA,
            "status": self.status,
            "lower": _number(self.lower),
            "upper": _number(self.upper),
            "outputs": [
                {
                    "index": bracket.index,
                    "max": {"lower": _number(bracket.max_lower), "upper": _number(bracket.max_upper)},
                    "min": {"lower": _number(bracket.min_lower), "upper": _number(bracket.min_upper)},
                    "lsb": bracket.lsb,
                }
                for bracket in self.outputs
            ],
            "methods": {
                record.name: {"upper": _number(record.upper), "time_s": record.time_s}
                | ({} if record.nodes is None else {"nodes": record.nodes})
                for record in self.methods
            },
            "witness": None
            if witness is None
            else {
                "input": witness.input.tolist(),
                "codes": None if witness.codes is None else witness.codes.tolist(),
                "float_output": witness.float_output.tolist(),
                "quantized_codes": None
                if witness.quantized_codes is None
                else witness.quantized_codes.tolist(),
                "quantized_output": witness.quantized_output.tolist(),
                "difference": witness.difference.tolist(),
                "output": witness.output,
            },
            "sampled": None
            if sampled is None
            else {
                "points": sampled.points,
                "max": _number(sampled.max),
                "rmse": _number(sampled.rmse),
                "sqnr_db": sampled.sqnr_db,
            },
            "memory": {
                "float_bytes": self.memory.float_bytes,
                "quantized_bytes": self.memory.quantized_bytes,
            },
            "certificate": {
                "trust": self.certificate.trust,
                "path": self.certificate.path,
                "checked_upper": _number(self.certificate.checked_upper),
                "proved_upper": self.certificate.proved_upper,
            },
            "problem": {
                "hash": asked.hash,
                "float": asked.float_origin,
                "quantized": asked.quantized_origin,
                "target": asked.target,
                "region": {
                    "path": asked.region_origin,
                    "lower": asked.lower.tolist(),
                    "upper": asked.upper.tolist(),
                },
                "input_domain": asked.input_domain,
                "outputs": list(asked.outputs),
                "tolerance": asked.tolerance,
                "method": asked.method,
                "gap": asked.gap,
                "time_limit": asked.time_limit,
                "notes": list(asked.notes),
                "files": [file.report() for file in asked.files],
            },
            "time_s": {
                "load": self.time_s.load,
                "bound": self.time_s.bound,
                "search": self.time_s.search,
                "total": self.time_s.total,
            },
            "environment": {
                "milpq": ran.milpq,
                "python": ran.python,
                "solver": ran.solver,
                "versions": dict(ran.versions),
                "cpu": ran.cpu,
                "threads": ran.threads,
                "seed": ran.seed,
            },
        }

    def __repr__(self) -> str:
        """Say the verdict, the bracket in real units and in LSB, and what it rests on."""
        lsb = self.lsb
        codes = (
            "" if lsb is None else f" = [{downward(self.lower, 4, lsb)}, {upward(self.upper, 4, lsb)}] LSB"
        )
        methods = ", ".join(record.name for record in self.methods)
        return (
            f"<milpq.Result {self.status}: max |f_q - f| in [{downward(self.lower)}, {upward(self.upper)}]{codes}; "
            f"{self.certificate.trust}; by {methods or 'nothing yet'} in {self.time_s.total:.2f} s>"
        )

    def _repr_html_(self) -> str:
        """Return the same as a card for notebooks, with the brackets of each output."""
        return html_card(self)


def _number(value: float) -> float | None:
    """Return a finite number as it is (Python writes floats so that they round-trip), else None."""
    return value if math.isfinite(value) else None
