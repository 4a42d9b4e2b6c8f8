"""``milpq bound`` on the bundled pairs: brackets, reports, statuses and exit codes."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from running import Milpq

import milpq as package
from milpq.errors import SolverUnavailableError
from milpq.formats import load_float, load_quantized
from milpq.rounding.targets import get_target

ModelPath = Callable[[str], Path]

REPORT_KEYS = {
    "schema", "status", "lower", "upper", "outputs", "methods", "witness", "sampled", "memory", "certificate",
    "problem", "time_s", "environment",
}  # fmt: skip


@pytest.fixture
def controller(model_path: ModelPath) -> list[str]:
    return [
        str(model_path("controller.onnx")), str(model_path("controller_int8.tflite")),
        "--region", str(model_path("controller_small.toml")), "--target", "tflm",
    ]  # fmt: skip


@pytest.fixture
def digits(model_path: ModelPath) -> list[str]:
    return [
        str(model_path("digits.onnx")), str(model_path("digits_int8.tflite")),
        "--region", str(model_path("digits.toml")), "--target", "tflm",
    ]  # fmt: skip


def _check_report(report: dict) -> None:
    assert set(report) == REPORT_KEYS
    assert report["schema"] == "milpq-report/1"
    assert 0 <= report["lower"] <= report["upper"]
    for output in report["outputs"]:
        assert set(output) == {"index", "max", "min", "lsb"}
        for end in ("max", "min"):
            low, high = output[end]["lower"], output[end]["upper"]
            assert low is None or high is None or low <= high
    assert report["upper"] == max(
        [0.0] + [max(output["max"]["upper"], -output["min"]["lower"]) for output in report["outputs"]]
    )
    for record in report["methods"].values():
        assert set(record) - {"nodes"} == {"upper", "time_s"}
        assert record["upper"] >= report["lower"]
    assert set(report["witness"]) >= {
        "input", "codes", "float_output", "quantized_codes", "quantized_output", "difference"
    }  # fmt: skip
    assert set(report["sampled"]) == {"points", "max", "rmse", "sqnr_db"}
    assert report["sampled"]["points"] >= 10_000
    assert report["sampled"]["max"] <= report["upper"]
    assert set(report["memory"]) == {"float_bytes", "quantized_bytes"}
    assert report["certificate"]["trust"] in {"checked", "solver_trusted"}
    assert set(report["problem"]) >= {
        "hash",
        "float",
        "quantized",
        "target",
        "region",
        "input_domain",
        "outputs",
    }
    assert set(report["time_s"]) == {"load", "bound", "search", "total"}
    assert set(report["environment"]) == {"milpq", "python", "solver", "versions", "cpu", "threads", "seed"}


def _check_files(report: dict, *names: str) -> None:
    """Compare the hashes with those of the files, made here."""
    assert report["problem"]["files"] == [
        {
            "role": role,
            "path": name,
            "bytes": Path(name).stat().st_size,
            "sha256": hashlib.sha256(Path(name).read_bytes()).hexdigest(),
        }
        for role, name in zip(("float", "quantized", "region"), names, strict=True)
    ]


def _check_witness(report: dict, float_file: str, quantized_file: str, target: str) -> None:
    """Replay the witness in exact arithmetic: it attains the lower end."""
    witness = report["witness"]
    point = np.array(witness["input"])
    network = load_quantized(quantized_file).on_target(get_target(target))
    codes = network.execute_codes(np.array([witness["codes"]]))[0]
    assert codes.tolist() == witness["quantized_codes"]
    assert network.input.quantizer(point[None])[0].tolist() == [
        code - network.input.zero_point for code in witness["codes"]
    ]
    j = witness["output"]
    level = int(codes[j]) - network.output_zero_point
    exact = abs(
        Fraction(float(network.output_scale[j])) * level - load_float(float_file).evaluate_exact(point)[j]
    )
    assert exact >= Fraction(report["lower"])
    assert float(exact) == pytest.approx(report["lower"], rel=1e-12)
    assert witness["difference"][j] == pytest.approx(
        witness["quantized_output"][j] - witness["float_output"][j]
    )


@pytest.mark.parametrize("method", ["interval", "symbolic", "differential"])
def test_an_explicit_method_runs_the_stages_up_to_itself(
    method: str, milpq: Milpq, controller: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    outcome = milpq("bound", *controller, "--method", method, "--report", path)
    assert outcome.code == 0, outcome.err
    report = json.loads(path.read_text())
    _check_report(report)
    _check_witness(report, controller[0], controller[1], "tflm")
    _check_files(report, controller[0], controller[1], controller[3])
    stages = ["interval", "symbolic", "differential"]
    assert list(report["methods"]) == stages[: stages.index(method) + 1]
    assert report["status"] == "bounded"
    assert outcome.out.startswith("BOUNDED")


def test_auto_closes_the_gap_of_a_small_box(milpq: Milpq, controller: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / "report.json", tmp_path / "report.csv"]
    outcome = milpq(
        "bound",
        *controller,
        "--gap",
        "0.02",
        "--time-limit",
        "60",
        "--report",
        paths[0],
        "--report",
        paths[1],
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(paths[0].read_text())
    _check_report(report)
    _check_witness(report, controller[0], controller[1], "tflm")
    assert report["status"] == "optimal"
    assert report["upper"] <= report["lower"] / 0.98
    assert report["certificate"]["trust"] == "checked"
    with paths[1].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1
    assert float(rows[0]["upper"]) == report["upper"]
    assert rows[0]["hash"] == report["problem"]["hash"]


def test_few_codes_are_enumerated_exactly(milpq: Milpq, controller: list[str], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    outcome = milpq("bound", *controller, "--input-domain", "codes", "--gap", "0", "--report", path)
    assert outcome.code == 0, outcome.err
    report = json.loads(path.read_text())
    _check_report(report)
    assert report["status"] == "optimal"
    assert np.nextafter(report["lower"], np.inf) >= report["upper"]
    assert report["problem"]["input_domain"] == "codes"


def test_the_tolerance_decides_the_exit_code(milpq: Milpq, controller: list[str], digits: list[str]) -> None:
    violated = milpq("bound", *controller, "--tolerance", "1e-4")
    assert (violated.code, violated.out.split(":")[0]) == (1, "VIOLATED")
    certified = milpq("bound", *controller, "--tolerance", "10")
    assert (certified.code, certified.out.split(":")[0]) == (0, "CERTIFIED")
    bracket = package.bound(*digits[:2], digits[3], target="tflm", method="interval")
    between = (bracket.lower + bracket.upper) / 2
    undecided = milpq("bound", *digits, "--method", "interval", "--tolerance", between)
    assert (undecided.code, undecided.out.split(":")[0]) == (3, "UNDECIDED")


def test_a_time_limit_is_kept_and_still_gives_a_bracket(
    milpq: Milpq, digits: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    started = time.monotonic()
    outcome = milpq("bound", *digits, "--time-limit", "3", "--report", path)
    assert time.monotonic() - started < 15
    assert outcome.code == 0, outcome.err
    _check_report(json.loads(path.read_text()) | {})


@pytest.mark.parametrize("mode", ["json", "none"])
def test_progress_goes_to_stderr(mode: str, milpq: Milpq, controller: list[str]) -> None:
    outcome = milpq("bound", *controller, "--method", "differential", "--progress", mode)
    assert outcome.code == 0
    lines = [json.loads(line) for line in outcome.err.splitlines()]
    assert bool(lines) == (mode == "json")
    for line in lines:
        assert set(line) - {"detail"} == {"stage", "lower", "upper", "time_s"}
    uppers = [line["upper"] for line in lines if line["upper"] is not None]
    assert uppers == sorted(uppers, reverse=True)


def test_names_are_shown_as_they_are(milpq: Milpq, controller: list[str], tmp_path: Path) -> None:
    odd = tmp_path / "[red]:smile:.toml"
    odd.write_text(Path(controller[3]).read_text(encoding="utf-8"), encoding="utf-8")
    outcome = milpq("bound", *controller[:3], odd, *controller[4:], "--method", "interval")
    assert "[red]:smile:.toml" in outcome.out


def test_one_output_of_many(milpq: Milpq, digits: list[str], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    outcome = milpq(
        "bound", *digits, "--method", "differential", "--output", 3, "--output", 1, "--report", path
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(path.read_text())
    assert [output["index"] for output in report["outputs"]] == [1, 3]
    assert report["problem"]["outputs"] == [1, 3]
    assert report["witness"]["output"] in {1, 3}


@pytest.mark.parametrize(
    ("sent", "stages"), [(signal.SIGINT, {"lp", "milp"}), (signal.SIGTERM, {"optimized", "phases"})]
)
def test_ctrl_c_and_sigterm_report_the_bracket_so_far(
    sent: signal.Signals, stages: set[str], digits: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    arguments = [sys.executable, "-m", "milpq", "bound", *digits, "--gap", "0", "--progress", "json"]
    with subprocess.Popen(
        [*arguments, "--report", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["stage"] in stages:
                break
        time.sleep(0.5)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out.startswith("INTERRUPTED")
    report = json.loads(path.read_text())
    _check_report(report)
    assert report["status"] == "interrupted"


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_ctrl_c_while_modules_are_imported_ends_in_one_line(delay: float) -> None:
    program = (
        "import sys, milpq.cli; print('begun', flush=True); sys.argv[1:] = ['targets']; milpq.cli.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    # Python may end itself by the signal although all was handled: for shells that is 130, too.
    assert process.returncode in {0, 130, -signal.SIGINT}
    assert "Traceback" not in err
    assert out.startswith("target") or err == "milpq: error: interrupted\n" or process.returncode < 0


def test_ctrl_c_before_there_is_a_bracket_says_so(
    milpq: Milpq, controller: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("milpq.verify.conductor.load_pair", interrupted)
    done = milpq("bound", *controller)
    assert (done.code, done.out, done.err) == (130, "", "milpq: error: interrupted\n")


@pytest.mark.parametrize("method", ["auto", "lp"])
def test_a_solver_that_refuses_costs_no_bracket(
    controller: list[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise SolverUnavailableError("highs refuses the model; use another --solver")

    # Splitting leaves a gap, and linear programs would be next.
    monkeypatch.setattr("milpq.verify.optimize.lp_bound", refusing)
    monkeypatch.setattr("milpq.verify.stages.split", lambda *_, **__: None)
    asked = {"target": "tflm", "method": method}
    result = package.bound(*controller[:2], controller[3], **asked)
    assert result.status == "bounded"
    assert 0 < result.lower <= result.upper < 1
    assert any("highs refuses" in note for note in result.problem.notes)
    with pytest.raises(SolverUnavailableError):
        package.bound(*controller[:2], controller[3], **asked, solver="highs")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_certificate_that_is_broken_off_costs_no_bracket(
    controller: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[BaseException]
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("milpq.search.certifier.Certifier.run", broken)
    path = tmp_path / "proof.milpq"
    result = package.bound(*controller[:2], controller[3], target="tflm", certificate=path)
    assert 0 < result.lower <= result.upper < 1
    assert result.certificate.path is None
    assert not path.exists()
    assert (result.status == "interrupted") == (error is KeyboardInterrupt)


def test_the_dequantized_twin_differs_by_rounding_only(digits: list[str]) -> None:
    own = package.bound(*digits[:2], digits[3], target="tflm", method="differential")
    twin = package.bound(
        *digits[:2], digits[3], target="tflm", method="differential", float_twin="dequantized"
    )
    assert twin.upper < own.upper
    assert any("real arithmetic" in note for note in twin.problem.notes)


def test_two_float_networks_are_compared_in_real_arithmetic(model_path: ModelPath) -> None:
    files = [model_path("controller.onnx"), model_path("controller_float.tflite")]
    result = package.bound(*files, package.Box([-1, -1, -1], [1, 1, 1]))
    assert result.upper <= 1e-6
    assert result.problem.input_domain == "real"
    assert result.witness is not None
    assert result.witness.codes is None


def test_the_answer_is_a_function_of_the_seed(controller: list[str]) -> None:
    results = [
        package.bound(*controller[:2], controller[3], target="tflm", method="differential", seed=7)
        for _ in range(2)
    ]
    assert results[0].lower == results[1].lower
    assert results[0].upper == results[1].upper
    assert results[0].problem.hash == results[1].problem.hash
    assert repr(results[0]).startswith("<milpq.Result bounded: max |f_q - f| in [")
