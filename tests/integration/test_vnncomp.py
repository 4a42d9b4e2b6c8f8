"""Instances of the competition, decided in either polarity; counterexamples replayed on ONNX Runtime."""

import csv
import os
from pathlib import Path

import pytest
from competition import (
    BOX,
    SAME_INPUT,
    counterexample_holds,
    equivalence,
    violation,
    write_network,
    write_query,
)
from running import Milpq

import milpq as package

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    return {
        "f": write_network(tmp_path / "f.onnx", 0),
        "g": write_network(tmp_path / "g.onnx", 0, change=0.02),
    }


@pytest.fixture
def largest(models: dict[str, Path]) -> float:
    """The largest difference of the two networks, closed to a relative gap of 1e-4."""
    result = package.bound(models["f"], models["g"], ([-0.45] * 3, [0.7] * 3))
    assert result.status == "optimal"
    return result.lower


def _run(milpq: Milpq, models: dict[str, Path], query: Path, timeout: float = 30) -> tuple[int, str, str]:
    result = query.parent / "result.txt"
    networks = str([(name, str(path)) for name, path in models.items()])
    outcome = milpq("vnncomp", "v1", "small", networks, query, result, str(timeout))
    return outcome.code, result.read_text() if result.exists() else "", outcome.out + outcome.err


@pytest.mark.parametrize("strict", [True, False])
def test_a_violation_is_found_or_refuted(
    milpq: Milpq, models: dict[str, Path], largest: float, tmp_path: Path, strict: bool
) -> None:
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, violation(round(1.01 * largest, 6), strict))
    assert _run(milpq, models, query)[:2] == (0, "unsat\n")
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, violation(round(0.99 * largest, 6), strict))
    code, result, _ = _run(milpq, models, query)
    assert code == 0
    assert counterexample_holds(query, models, result)


def test_equivalence_asserted_is_a_question_about_one_input(
    milpq: Milpq, models: dict[str, Path], largest: float, tmp_path: Path
) -> None:
    """The same words without the ``or`` ask for an input where the networks agree, and there is one."""
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, equivalence(round(0.99 * largest, 6)))
    code, result, _ = _run(milpq, models, query)
    assert code == 0
    assert counterexample_holds(query, models, result)


def test_networks_that_agree_nowhere(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    """Asserted equivalence is refuted where some output differs by more everywhere: by splitting."""
    models["g"] = write_network(tmp_path / "h.onnx", 7)
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, equivalence(0.001))
    code, result, _ = _run(milpq, models, query)
    assert code == 0
    if result.startswith("sat"):
        assert counterexample_holds(query, models, result)
    shifted = "(assert (>= Y_g[0] (+ Y_f[0] 100.0)))\n"
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, equivalence(0.001), shifted)
    assert _run(milpq, models, query)[:2] == (0, "unsat\n")


def test_one_side_and_one_output(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    """What is no plain equivalence goes to the search of its own."""
    bounds = package.bound(models["f"], models["g"], ([-0.45] * 3, [0.7] * 3), outputs=[1]).outputs[0]
    for factor, verdict in ((1.02, "unsat"), (0.98, "sat")):
        level = round(factor * bounds.max_upper, 6)
        query = write_query(
            tmp_path / "q.vnnlib", BOX, SAME_INPUT, f"(assert (< (+ Y_f[1] {level}) Y_g[1]))\n"
        )
        code, result, said = _run(milpq, models, query)
        assert code == 0
        assert result.startswith(verdict), said
        if verdict == "sat":
            assert counterexample_holds(query, models, result)


def test_conditions_on_outputs_and_inputs_together(
    milpq: Milpq, models: dict[str, Path], tmp_path: Path
) -> None:
    mixed = "(assert (or (and (> X_f[0] 0.6) (<= Y_f[0] (- Y_g[1] 0.5))) (>= (+ Y_f[0] Y_g[0]) 50.0)))\n"
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, mixed)
    code, result, _ = _run(milpq, models, query)
    assert code == 0
    assert result.startswith("unsat") or counterexample_holds(query, models, result)


def test_inputs_that_are_single_decimals(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    """A number like −0.45 is no float64, but the counterexample holds it exactly."""
    point = "".join(f"(assert (and (<= X_f[{i}] -0.45) (>= X_f[{i}] -0.45)))\n" for i in range(3))
    query = write_query(tmp_path / "q.vnnlib", point, SAME_INPUT, equivalence(10.0))
    code, result, _ = _run(milpq, models, query)
    assert code == 0
    assert result.count("\n-0.45\n") >= 3
    assert counterexample_holds(query, models, result)


def test_bounds_that_contradict(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, "(assert (>= X_g[1] 0.8))", equivalence(1.0))
    assert _run(milpq, models, query)[:2] == (0, "unsat\n")


def test_a_network_equals_itself(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, violation(0.0), relation="equal-to")
    result = tmp_path / "result.txt"
    for networks in (str(models["f"]), str([("f", str(models["f"])), ("g", str(models["f"]))])):
        assert milpq("vnncomp", "v1", "small", networks, query, result, "20").code == 0
        assert result.read_text() == "unsat\n"
    networks = str([("f", str(models["f"])), ("g", str(models["g"]))])
    assert milpq("vnncomp", "v1", "small", networks, query, result, "20").code == 2
    assert result.read_text() == "error\n"


@pytest.mark.parametrize(
    ("assertions", "said"),
    [
        ((BOX, equivalence(1.0)), "not asserted equal"),
        ((BOX, SAME_INPUT.replace("==", "<="), equivalence(1.0)), "not asserted equal"),
        ((SAME_INPUT, equivalence(1.0)), "no lower bound"),
    ],
)
def test_other_questions_stay_unknown(
    milpq: Milpq, models: dict[str, Path], tmp_path: Path, assertions: tuple[str, ...], said: str
) -> None:
    code, result, printed = _run(milpq, models, write_query(tmp_path / "q.vnnlib", *assertions))
    assert (code, result) == (0, "unknown\n")
    assert said in printed


def test_networks_of_other_shapes_stay_unknown(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    models["g"] = write_network(tmp_path / "h.onnx", 7, hidden=5)
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, violation(0.1))
    assert _run(milpq, models, query)[:2] == (0, "unknown\n")


@pytest.mark.parametrize("end", ["Sigmoid", "Softmax"])
def test_an_output_that_the_reader_leaves_out_is_never_judged(milpq: Milpq, tmp_path: Path, end: str) -> None:
    """Before a sigmoid the networks differ by more than they do behind it, where the query speaks."""
    models = {
        "f": write_network(tmp_path / "f.onnx", 0, end=end),
        "g": write_network(tmp_path / "g.onnx", 0, change=0.02, end=end),
    }
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, "(assert (> Y_f[0] 1.5))\n")
    code, result, said = _run(milpq, models, query)
    assert (code, result) == (0, "unknown\n"), said


def test_the_time_is_kept(milpq: Milpq, models: dict[str, Path], largest: float, tmp_path: Path) -> None:
    # Just above the truth in the sixth digit: nothing decides it soon.
    query = write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, f"(assert (> Y_g[0] (+ Y_f[1] {largest!r})))")
    code, result, _ = _run(milpq, models, query, timeout=0.2)
    assert code == 0
    assert result.split("\n")[0] in {"timeout", "sat", "unsat"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["v2", "c", "f.onnx", "q.vnnlib", "r.txt", "10"], "speaks v1"),
        (["v1", "c", "f.onnx", "q.vnnlib", "r.txt", "0"], "positive number"),
        (["v1", "c", "f.onnx", "q.vnnlib", "nowhere/r.txt", "10"], "no directory"),
        (["v1", "c", "[('f', 1)]", "q.vnnlib", "r.txt", "10"], "not a pair"),
        (["v1", "c", "f.onnx", "q.vnnlib", "r.txt", "10"], "several networks"),
        (["v1", "c", "[('f', 'f.onnx')]", "q.vnnlib", "r.txt", "10"], "no file for network 'g'"),
        (["v1", "c", "[('f', 'f.onnx'), ('h', 'g.onnx')]", "q.vnnlib", "r.txt", "10"], "not declared"),
        (["v1", "c", "[('f', 'f.onnx'), ('g', 'no.onnx')]", "q.vnnlib", "r.txt", "10"], "no such file"),
        (["v1", "c", "[('f', 'f.onnx'), ('g', 'g.onnx')]", "no.vnnlib", "r.txt", "10"], "no such file"),
    ],
)
def test_bad_usage(
    milpq: Milpq,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    assert models
    monkeypatch.chdir(tmp_path)
    write_query(tmp_path / "q.vnnlib", BOX, SAME_INPUT, violation(0.1))
    outcome = milpq("vnncomp", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_the_rows_of_a_benchmark(milpq: Milpq, models: dict[str, Path], tmp_path: Path) -> None:
    """``instances.csv`` gives paths from the folder above the queries."""
    assert models
    (tmp_path / "vnnlib").mkdir()
    query = write_query(tmp_path / "vnnlib" / "instance_0.vnnlib", BOX, SAME_INPUT, violation(9.0))
    rows = "\"[('f', 'f.onnx'), ('g', 'g.onnx')]\",./vnnlib/instance_0.vnnlib,100\n"
    ((networks, property_, timeout),) = csv.reader(rows.splitlines())
    assert (tmp_path / property_).resolve() == query.resolve()
    result = tmp_path / "result.txt"
    outcome = milpq("vnncomp", "v1", "small", networks, tmp_path / property_, result, timeout)
    assert outcome.code == 0, outcome.err
    assert result.read_text() == "unsat\n"


def test_the_benchmarks_own_file(milpq: Milpq, tmp_path: Path) -> None:
    folder = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data")) / "acasxu"
    query = folder / "two_network_equivalence.vnnlib"
    if not query.is_file():
        pytest.skip("MILPQ_DATA is not there")
    models = {
        "f": folder / "ACASXU_run2a_1_1_batch_2000.onnx",
        "g": folder / "ACASXU_run2a_1_1_batch_2000_pruned5.onnx",
    }
    networks = str([(name, str(path)) for name, path in models.items()])
    result = tmp_path / "result.txt"
    assert milpq("vnncomp", "v1", "acasxu", networks, query, result, "60").code == 0
    assert counterexample_holds(query, models, result.read_text())
