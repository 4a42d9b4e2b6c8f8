"""The question as an assertion, for the tests of others."""

from __future__ import annotations

from collections.abc import Sequence

from milpq.formats.sides import FloatSource, QuantizedSource
from milpq.verify.conductor import bound
from milpq.verify.models import RegionSource
from milpq.verify.numbers import downward
from milpq.verify.result import Result


def assert_quantization_error(
    float_network: FloatSource,
    quantized: QuantizedSource,
    region: RegionSource,
    tolerance: float,
    *,
    target: str | None = None,
    input_domain: str | None = None,
    outputs: Sequence[int] | None = None,
    method: str = "auto",
    solver: str = "auto",
    gap: float = 1e-4,
    time_limit: float | None = 60.0,
    jobs: int = 1,
    seed: int = 0,
    float_twin: str | None = None,
) -> Result:
    """Assert that a network and its quantized version differ by at most `tolerance` on a region.

    Parameters
    ----------
    tolerance : float
        Real units.
    time_limit : float or None
        Seconds; a question that is not decided by then fails.
    float_network, quantized, region, target, input_domain, outputs, method, solver, gap, jobs, seed, float_twin
        As for `milpq.bound`; `jobs` is 1 by default, as tests may run side by side.

    Returns
    -------
    Result
        Certified: ``upper <= tolerance``.

    Raises
    ------
    AssertionError
        An executed input exceeds the tolerance; the message holds the input.  Or the question is undecided; the
        message holds the bracket.
    MilpqError
        A file, network, region, target or option is not usable.
    KeyboardInterrupt
        The run was interrupted before it was decided.
    """
    __tracebackhide__ = True
    result = bound(
        float_network,
        quantized,
        region,
        target=target,
        input_domain=input_domain,
        outputs=outputs,
        tolerance=tolerance,
        method=method,
        solver=solver,
        gap=gap,
        time_limit=time_limit,
        jobs=jobs,
        seed=seed,
        float_twin=float_twin,
    )
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status != "certified":
        raise AssertionError(_message(result))
    return result


def _message(result: Result) -> str:
    lines = [result.verdict]
    witness = result.witness
    if result.status == "violated" and witness is not None:
        j = witness.output
        lines.append(f"  input {witness.input.tolist()}")
        lines.append(
            f"  output {j}: float {witness.float_output[j]:.6g}, quantized {witness.quantized_output[j]:.6g}, apart "
            f"by at least {downward(witness.lower)}"
        )
    if result.status == "undecided":
        lines.append("  undecided counts as failed; give it more time, a smaller region or another method")
    return "\n".join(lines)
