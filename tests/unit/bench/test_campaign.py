"""Whole runs: kills lose nothing, resumed runs agree with undisturbed ones, whatever the executor."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from milpq.bench.campaign import Campaign
from milpq.bench.journal import Journal
from milpq.bench.methods import Outcome
from milpq.bench.page import page_text
from milpq.bench.plan import expand
from milpq.bench.plots import draw_all
from milpq.bench.rows import Row, compared
from milpq.bench.runner import DaskPool, LocalPool
from milpq.bench.suite import Suite, load_suite
from milpq.bench.tables import csv_text, json_text
from milpq.cli.app import run as milpq
from milpq.errors import UsageError
from milpq.verify.describe import environment

SUITE = """
schema = "milpq-suite/1"
title = "Tiny <suite>"
gap = 0.0

[[grid]]
name = "random"
about = "small & quick"
targets = ["tflm"]
domains = ["codes"]
methods = ["separate", "auto"]
pairs = [{ build = "random", name = "r", inputs = 2, width = 4, bits = [4, 8] }]
regions = [{ radius_codes = [2, 5] }]
limits = { time_s = 300.0 }

[[grid]]
name = "missing"
pairs = [{ build = "weights", name = "w", float = "data:no/such.onnx" }]
regions = [{ center = 0.0, radius = 0.1 }]

[[grid]]
name = "wrong"
pairs = [{ name = "w", float = "nowhere.onnx", quantized = "nowhere.onnx" }]
regions = [{ center = 0.0, radius = 0.1 }]
"""
CASES = 8
SAME = (
    "grid",
    "question",
    "method",
    "status",
    "lower",
    "upper",
    "trust",
    "witness",
    "nodes",
    "rmse",
    "problem",
)


@pytest.fixture
def suite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILPQ_DATA", str(tmp_path))
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.fixture
def small_file(suite_file: Path) -> Path:
    """Return a suite of four cases, for runs that start many processes."""
    suite_file.write_text(SUITE.replace("bits = [4, 8]", "bits = 8"), encoding="utf-8")
    return suite_file


class Here:
    """A pool that runs every order in this process, until it is told to fail."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.ran = 0

    def run(self, orders):
        import pickle

        from milpq.bench.methods import run_method

        for order in orders:
            if self.ran == self.most:
                raise KeyboardInterrupt
            self.ran += 1
            task = pickle.loads(order.content)
            yield order.number, run_method(task.problem, task.effort)

    def close(self) -> None:
        pass


def _run(suite_file: Path, folder: Path, pool, *, resume: bool = False) -> list[Row]:
    folder.mkdir(exist_ok=True)
    with Journal(folder / "journal.jsonl", resume=resume) as journal:
        campaign = Campaign(expand(load_suite(suite_file)), suite_file.parent, journal)
        try:
            campaign.run(pool)
        except KeyboardInterrupt:
            pass
        finally:
            pool.close()
    return campaign.rows


def _table(text: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in SAME) for row in csv.DictReader(text.splitlines())]


def test_every_case_is_a_row_and_is_kept(suite_file: Path, tmp_path: Path) -> None:
    first = Here(most=3)
    assert len(_run(suite_file, tmp_path / "out", first)) == 3
    second = Here()
    rows = _run(suite_file, tmp_path / "out", second, resume=True)
    assert (first.ran, second.ran) == (3, CASES - 3)
    whole = _run(suite_file, tmp_path / "whole", Here())
    assert _table(csv_text(rows)) == _table(csv_text(whole))
    assert [row.number for row in rows] == list(range(CASES + 2))
    assert [row.outcome.status for row in rows[-2:]] == ["skipped", "failed"]
    assert "MILPQ_DATA" in rows[-2].outcome.note
    assert "nowhere.onnx" in rows[-1].outcome.note
    exact = [row for row in rows[:CASES] if row.case.method == "auto"]
    assert [row.outcome.status for row in exact] == ["optimal"] * 4
    assert all(row.ratio >= 1.0 for row in rows[:CASES])
    assert all(row.witness > 0 for row in rows[:CASES]), "separate borrows the witness of the others"
    third = Here()
    _run(suite_file, tmp_path / "out", third)
    assert third.ran == CASES, "without --resume everything runs again"
    assert (tmp_path / "out" / "journal.1.jsonl").exists()


def test_a_torn_line_is_dropped_and_crashes_run_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    done = Outcome("optimal", 1.0, 2.0, "checked", 0.1, 0.2, trace=((0.1, 1.0, 2.0),))
    with Journal(path, resume=True) as journal:
        journal.add("a", done)
        journal.add("b", Outcome("crashed", 0.0, float("inf"), "checked", 0.0, 0.0))
        with pytest.raises(UsageError, match="another run"):
            Journal(path, resume=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "c", "outcome": {"sta')
    with Journal(path, resume=True) as journal:
        assert journal.outcomes == {"a": done}
        journal.add("d", done)
    with Journal(path, resume=True) as journal:
        assert set(journal.outcomes) == {"a", "d"}
    path.write_text("[]\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 1"):
        Journal(path, resume=True)


def test_contradictions_are_marked(suite_file: Path, tmp_path: Path) -> None:
    rows = _run(suite_file, tmp_path / "out", Here())[:3]
    low = rows[0].witness / 2
    for trust, status in (("checked", "alarm"), ("solver_trusted", "contradicted")):
        wrong = Outcome("bounded", 0.0, low, trust, 0.1, 0.1)
        marked = compared([Row(0, rows[0].case, rows[0].subject, wrong), *rows[1:]])
        assert marked[0].outcome.status == status
        assert marked[1].outcome.status == rows[1].outcome.status


def test_a_run_killed_hard_resumes_to_the_same_table(small_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "milpq", "bench", small_file, "-o", out, "--jobs", "2", "--resume"]
    for lines in (2, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        journal = out / "journal.jsonl"
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    before = journal.read_bytes().count(b"\n")
    assert milpq(["bench", str(small_file), "-o", str(out), "--resume", "--jobs", "2"]) == 0
    assert before >= 4
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == CASES // 2, "no case ran twice"
    undisturbed = _run(small_file, tmp_path / "whole", Here())
    assert _table((out / "results.csv").read_text()) == _table(csv_text(undisturbed))


class Killing(DaskPool):
    """Kills a worker once some cases are done."""

    def run(self, orders):
        for count, done in enumerate(super().run(orders)):
            if count == 1:
                os.kill(next(iter(self._client.run(os.getpid).values())), signal.SIGKILL)
            yield done


def test_a_cluster_that_loses_a_worker_gives_the_same_table(small_file: Path, tmp_path: Path) -> None:
    rows = _run(small_file, tmp_path / "dask", Killing(None, 2))
    assert _table(csv_text(rows)) == _table(csv_text(_run(small_file, tmp_path / "whole", Here())))


def test_outputs_hold_every_row(suite_file: Path, tmp_path: Path) -> None:
    rows = _run(suite_file, tmp_path / "out", Here())
    suite: Suite = load_suite(suite_file)
    ran = environment(None, 1, 0)
    content = json.loads(json_text(suite.title, rows, ran))
    assert len(content["rows"]) == len(rows)
    assert content["rows"][-1]["upper"] is None
    plots = draw_all(rows)
    assert {"cactus", "tightness", "bound-time", "bound-bits", "time-bits", "bound-radius_codes"} <= set(
        plots
    )
    page = page_text(suite, rows, plots, ran)
    assert "Tiny &lt;suite&gt;" in page
    assert "small &amp; quick" in page
    assert page.count("<svg") == len(plots)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "pip install" in page_text(suite, rows, {}, ran)


def test_the_program_names_what_is_wrong_and_takes_grids_by_their_first_name(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert milpq(["bench"]) == 2
    assert milpq(["bench", str(suite_file), "--grid", "other"]) == 2
    assert "it has random, missing, wrong" in capsys.readouterr().err
    suite_file.write_text(suite_file.read_text().replace('name = "missing"', 'name = "wrong, missing"'))
    assert milpq(["bench", str(suite_file), "--grid", "wron"]) == 2
    assert (
        milpq(["bench", str(suite_file), "-o", str(tmp_path), "--grid", "wrong", "--progress", "none"]) == 0
    )
    assert "1 skipped" in capsys.readouterr().out
    assert milpq(["bench", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False


def test_the_program_shows_grids(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shown"
    assert milpq(["bench", str(suite_file), "-o", str(out), "--grid", "missing", "--progress", "json"]) == 0
    captured = capsys.readouterr()
    assert "1 case skipped: needs" in captured.out
    assert "1 case: 1 skipped" in captured.out
    assert json.loads(captured.err)["status"] == "skipped"
    assert {path.name for path in out.iterdir()} >= {
        "journal.jsonl",
        "results.csv",
        "results.json",
        "report.html",
    }


def test_what_went_wrong_is_said_below_the_tables(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shown"
    assert milpq(["bench", str(suite_file), "-o", str(out), "--grid", "wrong", "--progress", "none"]) == 0
    shown = capsys.readouterr().out
    assert "failed: wrong: " in shown
    assert "1 failed" in shown


def test_a_local_pool_stops_when_interrupted(small_file: Path, tmp_path: Path) -> None:
    class Interrupted(LocalPool):
        def run(self, orders):
            for done in super().run(orders):
                yield done
                raise KeyboardInterrupt

    rows = _run(small_file, tmp_path / "out", Interrupted(2))
    assert 1 <= len(rows) < CASES // 2
