"""``milpq bound --certificate`` and ``milpq check`` on the bundled pairs."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from running import Milpq

import milpq as package
from milpq.report import files as files_module
from milpq.search import checkpoint
from milpq.search import proof as proof_module
from milpq.verify import conductor

ModelPath = Callable[[str], Path]

CASES = {
    "controller, continuous": ("controller", "controller_small", ()),
    "controller, codes": ("controller", "controller_small", ("--input-domain", "codes")),
    "controller, one output": (
        "controller",
        "controller_small",
        ("--output", "0", "--float-twin", "dequantized"),
    ),
    "digits": ("digits", "digits", ("--method", "differential")),
}


@pytest.mark.parametrize("name", CASES)
def test_what_bound_writes_is_proved_by_check(
    name: str, milpq: Milpq, model_path: ModelPath, tmp_path: Path
) -> None:
    model, region, options = CASES[name]
    files = [str(model_path(f"{model}.onnx")), str(model_path(f"{model}_int8.tflite"))]
    proof, report = tmp_path / "proof.milpq", tmp_path / "report.json"
    outcome = milpq(
        "bound", *files, "--region", model_path(f"{region}.toml"), "--target", "tflm",
        "--certificate", proof, "--report", report, *options,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = json.loads(report.read_text())
    assert result["certificate"]["path"] == str(proof)
    assert result["certificate"]["trust"] == "checked"
    proved = result["certificate"]["proved_upper"]
    assert result["lower"] <= proved
    assert result["upper"] <= proved <= result["upper"] * (1 + 1e-6)
    checked = milpq("check", proof, "--float", files[0], "--quantized", files[1])
    assert checked.code == 0, checked.err
    assert f"PROVED: no input of the region differs by more than {proved!r}" in checked.out
    told = milpq("check", proof, "--float", files[0], "--quantized", files[1], "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    assert found["proved"] is True
    assert found["upper"] == proved
    assert found["problem"]["hash"] == result["problem"]["hash"]
    for end in ("lower", "upper"):
        assert found["problem"]["region"][end] == result["problem"]["region"][end]
    same = [file for file in result["problem"]["files"] if file["role"] != "region"]
    assert found["problem"]["files"] == [
        {
            "role": "certificate",
            "path": str(proof),
            "bytes": proof.stat().st_size,
            "sha256": sha256(proof.read_bytes()).hexdigest(),
        },
        *same,
    ]
    for output, bracket in zip(found["outputs"], result["outputs"], strict=True):
        assert output["index"] == bracket["index"]
        assert output["min"]["lower"] <= bracket["min"]["upper"]
        assert bracket["max"]["lower"] <= output["max"]["upper"]


def test_a_convolutional_pair_is_proved(model_path: ModelPath, tmp_path: Path) -> None:
    pair, proof = (
        [model_path(f"digits_cnn_{kind}.tflite") for kind in ("float", "int8")],
        tmp_path / "cnn.milpq",
    )
    region = model_path("digits_cnn.toml")
    result = package.bound(*pair, region, target="tflm", input_domain="codes", jobs=1, certificate=proof)
    verified = package.check(proof, *pair)
    assert result.lower <= verified.upper == result.certificate.proved_upper <= result.upper * (1 + 1e-6)
    assert verified.leaves["multipliers"] + verified.leaves["executed"] > 0


def test_check_in_python(model_path: ModelPath, tmp_path: Path) -> None:
    pair = model_path("controller.onnx"), model_path("controller_int8.tflite")
    region, proof = package.Box([-0.05] * 3, [0.05] * 3), tmp_path / "proof.milpq"
    result = package.bound(*pair, region, target="tflm", certificate=proof)
    verified = package.check(proof, *pair)
    assert verified.upper == result.certificate.proved_upper
    assert verified.upper >= result.lower
    assert verified.problem.hash() == result.problem.hash
    assert verified.problem.domain.box.upper.tolist() == [0.05] * 3


def test_a_certificate_for_which_time_was_short_proves_less_and_says_so(
    milpq: Milpq, model_path: ModelPath, tmp_path: Path
) -> None:
    files = [str(model_path("controller.onnx")), str(model_path("controller_int8.tflite"))]
    proof = tmp_path / "proof.milpq"
    outcome = milpq(
        "bound", *files, "--region", model_path("controller.toml"), "--target", "tflm", "--time-limit", "0.3",
        "--certificate", proof,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert milpq("check", proof, "--float", files[0], "--quantized", files[1]).code == 0


def test_other_models_are_rejected(milpq: Milpq, model_path: ModelPath, tmp_path: Path) -> None:
    pair = model_path("controller.onnx"), model_path("controller_int8.tflite")
    proof = tmp_path / "proof.milpq"
    package.bound(*pair, package.Box([-0.05] * 3, [0.05] * 3), target="tflm", certificate=proof)
    others = model_path("digits.onnx"), model_path("digits_int8.tflite")
    outcome = milpq("check", proof, "--float", others[0], "--quantized", others[1])
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "proof.milpq: asks a question that these networks do not answer" in outcome.err


@pytest.mark.parametrize(
    ("place", "said"), [("none/proof.milpq", "there is no directory"), (".", "directory")]
)
def test_a_place_that_cannot_be_written_is_said_before_the_search(
    place: str,
    said: str,
    milpq: Milpq,
    model_path: ModelPath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conductor, "load_pair", None)
    outcome = milpq(
        "bound", model_path("controller.onnx"), model_path("controller_int8.tflite"),
        "--region", model_path("controller_small.toml"), "--target", "tflm",
        "--certificate", tmp_path / place,
    )  # fmt: skip
    assert outcome.code == 2
    assert f"--certificate {tmp_path / place}: " in outcome.err
    assert said in outcome.err


def test_a_full_disk_takes_the_files_but_not_the_answer(
    milpq: Milpq, model_path: ModelPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof, journal, report = (tmp_path / name for name in ("proof.milpq", "journal.npz", "report.json"))
    asked = (
        "bound", model_path("controller.onnx"), model_path("controller_int8.tflite"),
        "--region", model_path("controller_small.toml"), "--target", "tflm",
        "--certificate", proof, "--journal", journal, "--report", report,
    )  # fmt: skip

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module, name in ((checkpoint.np, "savez"), (proof_module, "replace_file")):
        monkeypatch.setattr(module, name, full)
    outcome = milpq(*asked)
    assert outcome.code == 0, outcome.err
    assert "OPTIMAL" in outcome.out
    notes = " ".join(json.loads(report.read_text())["problem"]["notes"])
    assert "journal.npz: could not be written (No space left on device)" in notes
    assert "no certificate was written: " in notes
    assert {path.name for path in tmp_path.iterdir()} == {"report.json"}
    monkeypatch.setattr(files_module, "replace_file", full)
    outcome = milpq(*asked)
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert "OPTIMAL" in outcome.out


def test_check_loads_no_bound_search_or_solver(model_path: ModelPath, tmp_path: Path) -> None:
    pair = model_path("controller.onnx"), model_path("controller_int8.tflite")
    proof = tmp_path / "proof.milpq"
    package.bound(*pair, package.Box([-0.05] * 3, [0.05] * 3), target="tflm", certificate=proof)
    program = (
        "import sys; from milpq.cli.app import run; "
        f"code = run(['check', {str(proof)!r}, '--float', {str(pair[0])!r}, '--quantized', {str(pair[1])!r}]); "
        "rooms = ('milpq.bounds', 'milpq.milp', 'milpq.search', 'milpq.verify', 'highspy', 'gurobipy', 'pulp'); "
        "loaded = [name for name in sys.modules if name.startswith(rooms)]; "
        "sys.exit(code or ', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
