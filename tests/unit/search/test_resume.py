"""Every search goes on from its journal after a real SIGKILL, to the bracket of a run that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import resumed
from search_problems import problem_of

from milpq.bounds import interval
from milpq.errors import UsageError
from milpq.milp.backends.highs import HighsBackend
from milpq.search.bounds_state import BoundsState
from milpq.search.checkpoint import Journal, _digest
from milpq.search.decider import Decider
from milpq.search.enumerate import enumerate_codes
from milpq.search.phases import PhaseSearch
from milpq.search.tree import TreeOptions, TreeSearch
from milpq.search.tree.jobs import Done, Effort
from milpq.search.tree.state import TreeState, pack_nodes, unpack_nodes
from milpq.verify import optimize


def killed(case: str, journal: Path, section: str, count: int, *more: Path) -> None:
    """Run a case until the search of a section has left its state so many times, and is killed."""
    process = subprocess.run(
        [sys.executable, resumed.__file__, case, journal, section, str(count), *more],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert journal.exists()


@pytest.mark.parametrize(("case", "count"), [("enumeration", 3), ("tree", 3), ("phases", 6)])
def test_a_killed_run_ends_with_the_same_bracket(case, count, tmp_path):
    path = tmp_path / "journal.npz"
    killed(case, path, case, count)
    with np.load(path) as arrays:
        assert any(name.startswith(f"{case}.") for name in arrays)
        counts = arrays[f"{case}.{'done' if case == 'enumeration' else 'counts'}"]
    assert counts[0] > 0
    with pytest.raises(UsageError, match="add --resume"):
        resumed.run(case, journal=path)
    found, whole = resumed.run(case, journal=path, resume=True, jobs=1), resumed.run(case, jobs=1)
    assert (found.status, found.lower, found.upper) == (whole.status, whole.lower, whole.upper)
    assert whole.status == "optimal"
    np.testing.assert_array_equal(found.witness.input, whole.witness.input)
    again = resumed.run(case, journal=path, resume=True, jobs=1)
    assert (again.lower, again.upper) == (whole.lower, whole.upper)


def test_a_trial_that_is_over_is_not_run_again(tmp_path, monkeypatch):
    path = tmp_path / "journal.npz"
    monkeypatch.setattr(optimize, "_TRIAL_S", 1e-6)  # one node, one linear program
    whole = resumed.run("phases", journal=path, jobs=1)
    with np.load(path) as arrays:
        nodes, programs = int(arrays["phases.counts"][0]), int(arrays["tree.counts"][1])
    done = []
    for search, count in ((PhaseSearch, "nodes"), (TreeSearch, "programs")):

        def going(self, *, go=search.go, count=count, **given):
            before = getattr(self, count)
            found = go(self, **given)
            done.append((count, before, getattr(self, count)))
            return found

        monkeypatch.setattr(search, "go", going)
    again = resumed.run("phases", journal=path, resume=True, jobs=1)
    assert done[:2] == [("nodes", nodes, nodes), ("programs", programs, programs)]
    assert (again.lower, again.upper) == (whole.lower, whole.upper)


def test_what_a_killed_enumeration_has_done_is_not_done_again(tmp_path, monkeypatch):
    path = tmp_path / "journal.npz"
    killed("enumeration", path, "enumeration", 3)
    told = []
    monkeypatch.setitem(enumerate_codes.__kwdefaults__, "range_size", 1 << 11)
    resumed.run("enumeration", journal=path, resume=True, jobs=1, on_progress=told.append)
    done = [event.detail for event in told if " codes" in event.detail]
    assert done[0].startswith("8,192 of ")


@pytest.mark.parametrize("evidence", [True, False])
def test_a_resumed_run_writes_its_certificate(evidence, tmp_path, monkeypatch):
    path, proof = tmp_path / "journal.npz", tmp_path / "proof.milpq"
    killed("certificate", path, "tree", 2, *([proof] if evidence else []))
    searched = []
    search = Decider._search
    monkeypatch.setattr(Decider, "_search", lambda self, *given: searched.append(1) or search(self, *given))
    found = resumed.run("certificate", journal=path, resume=True, jobs=1, certificate=proof)
    assert found.certificate.proved_upper <= found.upper * (1 + 1e-9)
    assert bool(searched) != evidence, "with evidence in the journal no other search is needed"
    assert evidence != any("holds no evidence" in note for note in found.problem.notes)


@pytest.mark.parametrize("kind", ["codes", "real"])
def test_nodes_and_leaves_survive_with_the_names_of_their_rows(kind):
    problem = problem_of(kind, seed=3, sizes=(2, 4, 3, 1))
    bounds = interval(problem, problem.domain.root)
    options = TreeOptions(
        effort=Effort(programs=12, enumerate_codes=2), max_programs=240, witness_evaluations=0, each=True
    )
    search, done = TreeSearch(problem, bounds, HighsBackend(), options), list[Done]()
    search.go(on_done=done.append)
    known = [(leaf, part.row_blocks) for part in done for leaf in part.leaves]
    assert any(node.evidence.rows is not None for node, _ in known)
    again = unpack_nodes(pack_nodes(known, "leaves"), "leaves")
    for (node, blocks), (other, names) in zip(known, again, strict=True):
        assert (node.objective, node.decisions, node.upper) == (other.objective, other.decisions, other.upper)
        assert (node.evidence.kind, node.evidence.depth) == (other.evidence.kind, other.evidence.depth)
        assert duals(node, blocks) == duals(other, names)
    arrays = search.state().arrays()
    state = TreeState.of(arrays, unpack_nodes(arrays, "open"))
    assert state.gains.sums == search.state().gains.sums
    fresh = TreeSearch(problem, bounds, HighsBackend(), options)
    fresh.restore(state)
    assert numbered(fresh.state()) == numbered(search.state())


def numbered(state) -> dict:
    """Return the bound of each open node by its number; the order of a queue means nothing."""
    return {number: node.upper for number, node in zip(state.order.tolist(), state.nodes, strict=True)}


def duals(node, blocks) -> list:
    """Return value, name and neuron of each row of a node that has a dual, with that."""
    evidence = node.evidence
    if evidence.rows is None:
        return []
    return sorted(
        (block.value, block.name, int(block.neurons[row - block.start]), dual)
        for row, dual in zip(evidence.rows.tolist(), evidence.duals.tolist(), strict=True)
        for block in blocks
        if block.start <= row < block.stop
    )


def test_bounds_survive_and_later_stages_stand_for_earlier_ones(tmp_path):
    problem = problem_of("real", sizes=(3, 4, 1))
    bounds = interval(problem, problem.domain.root)
    journal = Journal(tmp_path / "journal.npz", problem, "test", resume=False)
    count = 2 * len(problem.outputs)
    state = BoundsState("lp", bounds, np.arange(1.0, 1.0 + count))
    journal.save("bounds", state.arrays, now=True)
    journal.save("tree", lambda: {"one": np.zeros(1)}, now=True)
    read = Journal(tmp_path / "journal.npz", problem, "test", resume=True)
    assert set(read.section("tree").state) == {"one"}
    kept = read.section("bounds").state
    known = BoundsState.of(kept, problem)
    assert known.stage == "lp" and known.bounds.output == bounds.output
    for one, other in zip(known.bounds.values, bounds.values, strict=True):
        np.testing.assert_array_equal(one.difference.lower, other.difference.lower)
        np.testing.assert_array_equal(one.quantized_side.upper, other.quantized_side.upper)
    for wrong in (
        {"stage": kept["stage"][:1]},
        {"output": kept["output"] - 1},
        {"upper": kept["upper"][:1]},
        {"value1": kept["value1"][::-1]},
        {"value1": kept["value1"][:, :1]},
        {"value1": np.full_like(kept["value1"], np.nan)},
        {"value1": kept["value1"].astype(np.float32)},
    ):
        with pytest.raises(ValueError, match=r"."):
            BoundsState.of(kept | wrong, problem)


def test_a_state_of_phases_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "journal.npz"
    killed("phases", path, "phases", 3)
    with np.load(path) as arrays:
        whole = {name: array for name, array in arrays.items() if name not in {"key", "digest"}}
        key = arrays["key"]
    for name, wrong in (
        ("node_objective", lambda array: array + 100),
        ("node_ranges", lambda array: array[:, :5]),
        ("node_upper", lambda array: array * np.nan),
        ("order", lambda array: array[1:]),
        ("closed", lambda array: array.astype(np.float32)),
    ):
        changed = whole | {f"phases.{name}": wrong(whole[f"phases.{name}"])} | {"key": key}
        changed["digest"] = np.frombuffer(_digest(changed), dtype=np.uint8)
        np.savez(path, **changed)
        with pytest.raises(UsageError, match="does not fit"):
            resumed.run("phases", journal=path, resume=True, jobs=1)


def test_a_journal_of_another_question_is_refused(tmp_path):
    path = tmp_path / "journal.npz"
    killed("phases", path, "bounds", 1)
    with pytest.raises(UsageError, match="another problem"):
        resumed.run("tree", journal=path, resume=True)
