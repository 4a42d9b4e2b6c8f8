from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milpq._arrays import Float64Array
from milpq.errors import SolverUnavailableError
from milpq.milp import backends
from milpq.milp.backends import available, choose_backend, describe_solvers
from milpq.milp.backends.gurobi import GurobiBackend
from milpq.milp.backends.highs import HighsBackend, settled_threads
from milpq.milp.model import LinearModel

LICENCE_VARIABLES = ("GRB_LICENSE_FILE", "GRB_WLSACCESSID", "GRB_WLSSECRET", "GUROBI_HOME")


@pytest.fixture
def no_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for variable in LICENCE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Make packages look as if they were not installed."""
    version = importlib.metadata.version

    def look_up(name: str) -> str:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", look_up)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_licence")
def test_auto_is_highs_without_a_licence_and_says_why() -> None:
    selection = choose_backend("auto")
    assert selection.backend.name == "highs"
    assert selection.note == "gurobi has no licence of its own: restricted (2000 columns and rows)"


def test_auto_is_gurobi_with_a_licence_file(no_licence: Path) -> None:
    (no_licence / "gurobi.lic").write_text("LICENSEID=0\n", encoding="utf-8")
    selection = choose_backend("auto")
    assert (selection.backend.name, selection.note) == ("gurobi", "")
    assert selection.backend.licence() == "own licence found, not verified"


def test_a_licence_file_named_by_the_environment_must_exist(
    no_licence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRB_LICENSE_FILE", str(no_licence / "absent.lic"))
    assert not GurobiBackend().has_own_licence()
    (no_licence / "absent.lic").touch()
    assert GurobiBackend().has_own_licence()


def test_auto_is_highs_without_gurobi(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "gurobipy")
    selection = choose_backend()
    assert (selection.backend.name, selection.note) == ("highs", "gurobi is not installed")


def test_a_missing_solver_names_its_extra_and_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "gurobipy", "pulp")
    with pytest.raises(SolverUnavailableError) as caught:
        choose_backend("gurobi")
    assert str(caught.value) == (
        "the solver gurobi is not installed; install it with: pip install 'milpq[gurobi]'; installed: highs"
    )
    with pytest.raises(SolverUnavailableError, match=r"pip install 'milpq\[pulp\]'"):
        choose_backend("pulp:SCIP_CMD")
    with pytest.raises(SolverUnavailableError, match=r"pip install 'milpq\[gurobi\]'"):
        GurobiBackend().open(LinearModel(*(np.zeros(0),) * 5, *(np.zeros(1),) * 3))  # type: ignore[arg-type]
    assert not available("gurobi")
    assert available("highs")
    gurobi = next(record for record in describe_solvers() if record.name == "gurobi")
    assert (gurobi.available, gurobi.version, gurobi.install) == (False, None, "pip install 'milpq[gurobi]'")


@pytest.mark.parametrize("name", ["cplex", "", "highs:x", "HiGHS"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(SolverUnavailableError, match="unknown solver"):
        choose_backend(name)


def test_a_solver_pulp_cannot_run_is_refused() -> None:
    with pytest.raises(SolverUnavailableError, match=r"PuLP cannot run Nonesuch here, only: .*PULP_CBC_CMD"):
        choose_backend("pulp:Nonesuch")


def test_cbc_is_what_pulp_means() -> None:
    assert choose_backend("pulp:CBC").backend.name == choose_backend("pulp").backend.name == "pulp"


def test_highs_behind_pulp_uses_the_threads_of_the_process(
    knapsack_model: Callable[..., tuple[LinearModel, Float64Array]],
) -> None:
    model, objective = knapsack_model(8, 3)
    values: list[float] = []
    for name in ("pulp:HiGHS", "highs"):
        with choose_backend(name).backend.open(model) as session:
            values.append(session.maximize(objective).claimed_value)
    assert values[0] == pytest.approx(values[1])
    assert settled_threads(17) == 1


@pytest.mark.usefixtures("no_licence")
def test_the_records_tell_all_without_a_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    import gurobipy

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a licence was asked for")

    monkeypatch.setattr(gurobipy, "Env", refuse)
    records = {record.name: record for record in describe_solvers()}
    assert {"highs", "gurobi", "pulp"} <= records.keys()
    assert all(records[name].available and records[name].version for name in ("highs", "gurobi", "pulp"))
    assert "progress" in records["highs"].features
    assert "progress" not in records["pulp"].features
    assert records["gurobi"].licence.startswith("restricted")


@pytest.mark.parametrize(("count", "height"), [(2100, 3), (3, 2100)])
def test_the_restricted_licence_refuses_large_models_in_one_clear_line(
    count: int, height: int, knapsack_model: Callable[..., tuple[LinearModel, Float64Array]]
) -> None:
    if GurobiBackend().has_own_licence():
        pytest.skip("a full licence takes any size")
    model, _ = knapsack_model(count, height)
    with pytest.raises(SolverUnavailableError) as caught:
        choose_backend("gurobi").backend.open(model)
    assert str(caught.value) == (
        "gurobi refuses: its restricted licence takes 2000 columns and rows, "
        f"the model has {count} and {height}; install a full licence or use --solver highs"
    )


class Point:
    """An entry point of another package."""

    name = "other"
    value = "other:Backend"

    def __init__(self, target: object) -> None:
        self.target = target

    def load(self) -> object:
        if isinstance(self.target, Exception):
            raise self.target
        return self.target


def test_other_packages_can_add_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point(HighsBackend)])  # noqa: ARG005
    assert choose_backend("other").backend.name == "highs"
    assert "other" in {record.name for record in describe_solvers()}
    monkeypatch.setattr(Point, "name", "highs")
    assert backends.BACKENDS["highs"] is HighsBackend


def test_a_broken_added_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point(ImportError("no lib"))])  # noqa: ARG005
    with pytest.raises(
        SolverUnavailableError, match="the solver other of other:Backend cannot be loaded: no lib"
    ):
        choose_backend("other")
