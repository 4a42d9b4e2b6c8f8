"""What the README says is true: its Python runs, and its commands and options exist."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import Milpq

import milpq
import milpq.formats

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    blocks = _blocks("python")
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    for name, value in namespace.items():
        if name.startswith("test_") and callable(value):
            value(assert_quantization_error=milpq.assert_quantization_error)


def test_the_commands_run(milpq: Milpq, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks" / "models", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    commands = [line for block in _blocks("sh") for line in block.splitlines() if line.startswith("milpq ")]
    assert len(commands) == 4
    for command in commands:
        limit = ["--time-limit", "10"] if command.startswith("milpq bound") else []
        outcome = milpq(*shlex.split(command)[1:], *limit)
        assert outcome.code in {0, 3}, outcome


def test_the_integer_network_is_read_and_bounded(tmp_path: Path) -> None:
    (block,) = _blocks("json")
    path = tmp_path / "network.json"
    path.write_text(block, encoding="utf-8")
    model = milpq.formats.load(path)
    result = milpq.bound(model, model, milpq.Box([-0.5, -0.5], [0.5, 0.5]), float_twin="dequantized")
    assert result.status == "optimal"
    assert 0 < result.upper < 1


def test_every_option_named_exists(milpq: Milpq) -> None:
    shown = "".join(
        milpq(command, "--help").out
        for command in ("bound", "compare", "bench", "explain", "quantize", "simulate")
    )
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in shown, option


def test_continuous_integration_runs_the_second_command() -> None:
    command = next(block for block in _blocks("sh") if "pytest" in block).strip()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-1] == command


def test_the_execution_shown_is_what_happens(
    milpq: Milpq, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "benchmarks" / "models", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shown = next(block for block in _blocks("text") if "$ milpq simulate" in block).splitlines()
    np.save("codes.npy", np.array([[-4, -4, 9], [0, 0, 0]], dtype=np.int8))
    assert "[[-4, -4, 9], [0, 0, 0]]" in shown[0]
    outcome = milpq(*shlex.split(shown[1])[2:])
    assert outcome.out.strip() == shown[2]
    assert str(np.load("out.npy").tolist()) == shown[4]
