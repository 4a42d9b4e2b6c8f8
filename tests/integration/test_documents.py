"""What the documents say is true: every block of them runs, in order, in a folder with the bundled models.

A block's language says what it is:

- ``python``: run; all blocks of a document share their names, and functions ``test_…`` are called as pytest would;
- ``console``: each line behind ``$`` is run, and what stands below it is compared line by line, except for times and
  counts of steps; a line ``...`` stands for any lines;
- ``toml``, ``json``, ``yaml``: a region or a suite, an integer network, hooks of pre-commit;
- ``sh``: installs something, and is not run here; the last of README.md is what continuous integration runs.

A comment before a block, ``<!-- file: NAME -->``, says as what it is saved; ``<!-- needs: MODULE -->`` or
``<!-- needs: MILPQ_DATA -->`` that it is left out where that is missing.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import Milpq

import milpq as package
from milpq.bench.suite import load_suite
from milpq.formats.region_files import load_region

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "milpq" / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<note>file|needs): (?P<name>\S+) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
VARYING = re.compile(r"\b\d+\.\d+ s\b|\b\d{1,3}(,\d{3})+\b")
CLOSE = 2e-3
"""How far a bound may be from what a document shows, relative: a search may end a little earlier or later."""


@dataclass(frozen=True)
class Block:
    """One code block."""

    language: str
    text: str
    file: str | None
    needs: str | None


def _blocks(document: Path) -> list[Block]:
    found = BLOCK.finditer(document.read_text(encoding="utf-8"))
    return [
        Block(
            match["language"],
            match["text"],
            match["name"] if match["note"] == "file" else None,
            match["name"] if match["note"] == "needs" else None,
        )
        for match in found
    ]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with what a reader has, made the current one."""
    shutil.copytree(ROOT / "benchmarks" / "models", tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_runs(document: Path, scratch: Path, milpq: Milpq) -> None:
    names: dict[str, object] = {"__name__": "document"}
    for block in _blocks(document):
        if _lacks(block.needs, scratch):
            continue
        if block.file is not None:
            (scratch / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            _run_python(block, document.name, names)
        elif block.language == "console":
            _run_console(block, milpq)
        else:
            READERS[block.language](block, scratch)


def _lacks(needs: str | None, scratch: Path) -> bool:
    if needs is None:
        return False
    if needs == "MILPQ_DATA":
        data = Path(os.environ.get("MILPQ_DATA", ROOT.parent / "shared" / "data"))
        for name in ("acasxu", "models"):
            if (data / name).is_dir():
                shutil.copytree(data / name, scratch, dirs_exist_ok=True)
        return not (data / "acasxu").is_dir()
    return importlib.util.find_spec(needs) is None


def _run_python(block: Block, name: str, names: dict[str, object]) -> None:
    exec(compile(block.text, name, "exec"), names)
    for found in [name for name in names if name.startswith("test_")]:
        test = names.pop(found)
        assert callable(test)
        test(assert_quantization_error=package.assert_quantization_error)


def _run_console(block: Block, milpq: Milpq) -> None:
    for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        _compare(command, _run(shlex.split(command), milpq), expected.splitlines())


def _run(words: list[str], milpq: Milpq) -> str:
    if words[0] == "milpq":
        outcome = milpq(*words[1:])
        assert outcome.code in {0, 1, 3}, outcome.err
        return outcome.out
    assert words[0] == "python", words
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
    return done.stdout


def _compare(command: str, shown: str, expected: list[str]) -> None:
    """Assert that the expected lines are those shown; times vary, and ``...`` stands for any lines."""
    lines = [_plain(line) for line in shown.splitlines()]
    position, anywhere = 0, False
    for line in map(_plain, filter(str.strip, expected)):
        if line == "...":
            anywhere = True
            continue
        rest = lines[position:]
        alike = next((number for number, found in enumerate(rest) if _alike(found, line)), None)
        assert alike is not None, f"{command}: does not print {line!r} but\n{shown}"
        skipped = rest[:alike]
        assert anywhere or not any(skipped), f"{command}: also prints {skipped}"
        position, anywhere = position + len(skipped) + 1, False


def _alike(first: str, second: str) -> bool:
    """Tell whether two lines have the same words, and numbers that are close."""
    if NUMBER.sub("#", first) != NUMBER.sub("#", second):
        return False
    pairs = zip(NUMBER.findall(first), NUMBER.findall(second), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=CLOSE) for a, b in pairs)


def _plain(line: str) -> str:
    """Return a line without what varies: times, counts, widths of columns, and rules."""
    line = re.sub(r"[│┃]", " ", VARYING.sub("MANY", line))
    return " ".join(re.sub(r"[━┏┓┡╇┩┳└┘┴─]+", " ", line).split())


def _read_toml(block: Block, scratch: Path) -> None:
    path = scratch / (block.file or "block.toml")
    path.write_text(block.text, encoding="utf-8")
    if "schema" in tomllib.loads(block.text):
        load_suite(path)
    else:
        load_region(path)


def _read_json(block: Block, scratch: Path) -> None:
    path = scratch / (block.file or "block.json")
    path.write_text(block.text, encoding="utf-8")
    model = package.load_quantized(path)
    result = package.bound(
        model, model, package.Box([-0.5, -0.5], [0.5, 0.5]), float_twin="dequantized", time_limit=20
    )
    assert 0 < result.upper < 1


def _read_yaml(block: Block, scratch: Path) -> None:
    del scratch
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    (name,) = re.findall(r"- id: (\S+)", block.text)
    assert f"- id: {name}\n" in hooks


def _read_install(block: Block, scratch: Path) -> None:
    del scratch
    for line in block.text.replace("\\\n", " ").splitlines():
        assert re.match(r"(\S*python3? -m venv|\S*pip install|pre-commit|pytest) ?", line), line


READERS = {"toml": _read_toml, "json": _read_json, "yaml": _read_yaml, "sh": _read_install}


def test_every_option_named_exists(milpq: Milpq) -> None:
    commands = ("bound", "compare", "bench", "check", "explain", "quantize", "simulate", "demo")
    shown = "".join(milpq(command, "--help").out for command in commands)
    for document in DOCUMENTS:
        for option in set(re.findall(r"`(--[a-z-]+)", document.read_text(encoding="utf-8"))):
            assert f"{option} " in shown, f"{document.name}: {option}"


def test_continuous_integration_runs_the_last_command() -> None:
    command = [block.text for block in _blocks(ROOT / "README.md") if block.language == "sh"][-1].strip()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-1] == command


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_leads_to_every_document() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for document in DOCUMENTS[1:]:
        assert f"milpq/docs/{document.name}" in text
