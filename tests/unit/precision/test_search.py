"""The search over widths against exhaustive search, and what it says when it cannot answer."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import milpq
from milpq.errors import MilpqError, SoundnessError, TargetError, UsageError
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Clamp, Term
from milpq.precision import PrecisionResult, SearchProgress, search_precision
from milpq.precision.candidates import Candidate
from milpq.precision.configurations import Costs, Widths, by_cost
from milpq.precision.report import csv_text, write_front
from milpq.precision.search import PrecisionSearch, SearchOptions
from milpq.quantization import Scheme, linear_layers, quantize
from milpq.region.box import Box

BOX = Box([-0.4, -0.4], [0.4, 0.4])
TOLERANCE, AROUND_UPRIGHT = 0.05, Box([-0.05] * 3, [0.05] * 3)


def mlp(seed: int = 1, sizes: tuple[int, ...] = (2, 6, 4, 1)) -> FloatNetwork:
    rng = np.random.default_rng(seed)
    nodes: list[Affine | Clamp] = []
    for inputs, outputs in pairwise(sizes):
        weights = rng.normal(size=(outputs, inputs)) * np.sqrt(2 / inputs)
        nodes.append(
            Affine(f"linear{len(nodes) // 2}", (Term(len(nodes), weights),), 0.3 * rng.normal(size=outputs))
        )
        if len(nodes) < 2 * len(sizes) - 3:
            nodes.append(Clamp("relu", len(nodes)))
    return FloatNetwork(sizes[0], tuple(nodes), len(nodes))


def samples(inputs: int = 2) -> np.ndarray:
    return np.random.default_rng(9).uniform(-1, 1, (300, inputs))


def exhaustive(
    network: FloatNetwork,
    widths: list[tuple[int, ...]],
    tolerance: float,
    target: str,
    box: Box,
    data: np.ndarray,
) -> dict[Widths, str]:
    """Decide the tolerance for every configuration, one by one."""
    return {
        bits: milpq.bound(
            network,
            quantize(network, data, target=target, bits=bits),
            box,
            tolerance=tolerance,
            input_domain="codes",
        ).status
        for bits in itertools.product(*widths)
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sets(st.integers(2, 16), min_size=1, max_size=4), min_size=1, max_size=4),
    st.data(),
)
def test_configurations_come_once_and_by_cost(choices: list[set[int]], data: st.DataObject) -> None:
    widths = [sorted(tried) for tried in choices]
    per_bit = tuple(data.draw(st.integers(1, 50)) for _ in widths)
    costs = Costs(per_bit, data.draw(st.integers(0, 100)))
    groups = list(by_cost(widths, costs))
    seen = [bits for _, group in groups for bits in group]
    assert sorted(seen) == sorted(itertools.product(*widths))
    assert [cost for cost, _ in groups] == sorted({cost for cost, _ in groups})
    assert all(costs.of(bits) == cost for cost, group in groups for bits in group)


def test_costs_of_layers() -> None:
    layers = linear_layers(mlp())
    memory, macs = Costs.of_layers(layers, "memory"), Costs.of_layers(layers, "macs")
    assert memory.per_bit == macs.per_bit == (12, 24, 4)
    assert memory.of((2, 3, 4)) == 12 * 2 + 24 * 3 + 4 * 4 + 32 * 11
    assert macs.of((2, 3, 4)) == 12 * 2 + 24 * 3 + 4 * 4


@pytest.fixture(scope="module")
def controller(model_path: Callable[[str], Path]) -> tuple[FloatNetwork, np.ndarray, dict[Widths, str]]:
    """Return the controller, calibration data, and what exhaustive search says of every configuration."""
    network, data = milpq.load(model_path("controller.onnx")), samples(3)
    assert isinstance(network, FloatNetwork)
    return network, data, exhaustive(network, [(3, 4, 6)] * 3, TOLERANCE, "tflm", AROUND_UPRIGHT, data)


@pytest.mark.parametrize("front", [False, True])
def test_the_optimum_of_exhaustive_search_on_the_bundled_controller(
    front: bool, controller: tuple[FloatNetwork, np.ndarray, dict[Widths, str]]
) -> None:
    network, data, truth = controller
    found = search_precision(
        network,
        data,
        AROUND_UPRIGHT,
        TOLERANCE,
        target="tflm",
        widths=(3, 4, 6),
        input_domain="codes",
        front=front,
    )
    costs = Costs.of_layers(linear_layers(network), "memory")
    certified = {bits: costs.of(bits) for bits, status in truth.items() if status == "certified"}
    assert 0 < len(certified) < len(truth)
    assert found.status == "optimal" and found.best is not None
    assert found.best.cost == min(certified.values())
    assert found.best.widths in certified
    assert found.effort.configurations == 27
    assert found.effort.decided <= 6
    assert found.effort.saved >= 21
    for record in found.records:
        assert (record.verdict == "violated") == (truth[record.widths] == "violated")
        assert record.cost == costs.of(record.widths)
    if front:
        check_front(found, network, data, AROUND_UPRIGHT)


def check_front(found: PrecisionResult, network: FloatNetwork, data: np.ndarray, box: Box) -> None:
    """No configuration as cheap as the answer is better than the front by more than the gap."""
    assert found.best is not None and found.best in found.front
    assert [record.cost for record in found.front] == sorted({record.cost for record in found.front})
    for record in found.records:
        if record.cost > found.best.cost:
            continue
        model = quantize(network, data, target="tflm", bits=record.widths)
        error = milpq.bound(network, model, box, input_domain="codes")
        assert record.lower <= error.upper
        assert error.lower <= record.upper
        best = min(member.upper for member in found.front if member.cost <= record.cost)
        assert error.upper >= (1 - 0.011) * best


def test_nothing_is_taken_to_be_monotone() -> None:
    """With the models of the widths shuffled, dearer ones are often worse; the answer is still the optimum."""
    network, data, tolerance = mlp(), samples(), 0.03
    widths = (2, 4, 6)
    costs = Costs.of_layers(linear_layers(network), "memory")
    configurations = list(itertools.product(widths, repeat=3))
    rng = np.random.default_rng(4)
    optima: set[Widths] = set()
    for _ in range(3):
        order = rng.permutation(len(configurations))
        models = {
            bits: quantize(network, data, target="tflm", bits=configurations[place])
            for bits, place in zip(configurations, order, strict=True)
        }
        search = PrecisionSearch(
            network,
            models.__getitem__,
            (widths,) * 3,
            costs,
            BOX,
            "codes",
            None,
            SearchOptions(tolerance, front=False),
        )
        status, best, _ = search.run()
        assert status == "optimal" and best is not None
        optima.add(best.widths)
        for bits in configurations:
            if costs.of(bits) <= best.cost:
                result = milpq.bound(network, models[bits], BOX, tolerance=tolerance, input_domain="codes")
                assert result.status == "violated" or costs.of(bits) == best.cost, bits
        assert milpq.bound(
            network, models[best.widths], BOX, tolerance=tolerance, input_domain="codes"
        ).status == ("certified")
    assert len(optima) > 1


def test_a_tolerance_that_no_width_meets() -> None:
    found = search_precision(
        mlp(), samples(), BOX, 1e-4, target="tflm", widths=np.array([8, 2]), input_domain="codes", front=False
    )
    assert found.status == "infeasible" and found.exit_code == 1
    assert found.best is None and found.model is None and not found.front
    assert found.effort.examined == 8 and found.effort.decided == 0
    assert all(record.lower > 1e-4 and record.verdict == "violated" for record in found.records)


def test_a_tolerance_that_propagation_certifies_needs_no_verifier() -> None:
    found = search_precision(
        mlp(), samples(), BOX, 50.0, target="tflm", widths=((2, 8), (2,), (3, 4)), front=False
    )
    assert found.status == "optimal" and found.best is not None
    assert found.best.widths == (2, 2, 3)
    assert (found.effort.propagated, found.effort.decided) == (1, 0)
    assert found.model is not None
    assert milpq.bound(mlp(), found.model, BOX, method="differential").upper <= 50.0


def test_without_time_nothing_is_claimed() -> None:
    found = search_precision(mlp(), samples(), BOX, 0.05, target="tflm", time_limit=1e-9)
    assert found.status == "undecided" and found.exit_code == 3
    assert found.best is None
    assert json.dumps(found.report(), allow_nan=False)


def test_widths_that_overflow_are_refused_and_passed_over() -> None:
    found = search_precision(
        mlp(), samples(), BOX, 5.0, target="tflm", widths=((4,), (16, 4), (4,)), front=False,
        scheme=Scheme(activation_bits=16, input_bits=8), input_domain="codes",
    )  # fmt: skip
    assert found.status == "optimal" and found.best is not None and found.best.widths == (4, 4, 4)
    only = search_precision(
        mlp(), samples(), BOX, 5.0, target="tflm", widths=((4,), (16,), (4,)), front=False,
        scheme=Scheme(activation_bits=16, input_bits=8), input_domain="codes",
    )  # fmt: skip
    assert only.status == "undecided"
    assert only.records[0].verdict == "refused" and "'linear1'" in only.records[0].by


def test_many_configurations_are_reached_by_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milpq.precision.search.DESCENT_FROM", 10)
    heard: list[SearchProgress] = []
    found = search_precision(
        mlp(), samples(), BOX, 0.2, target="tflm", widths=(2, 3, 4, 5), input_domain="codes", front=False,
        on_progress=heard.append,
    )  # fmt: skip
    monkeypatch.undo()
    again = search_precision(
        mlp(), samples(), BOX, 0.2, target="tflm", widths=(2, 3, 4, 5), input_domain="codes", front=False
    )
    assert found.best is not None and again.best is not None
    assert found.status == again.status == "optimal"
    assert found.best.cost == again.best.cost
    certified = [event.certified_cost for event in heard if event.certified_cost is not None]
    assert certified == sorted(certified, reverse=True) and certified[-1] == found.best.cost


def test_an_interrupt_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("milpq.precision.search.bound", interrupted)
    found = search_precision(mlp(), samples(), BOX, 0.2, target="tflm", widths=(2, 8), input_domain="codes")
    assert found.status == "interrupted" and found.exit_code == 130


def test_contradictions_are_alarms() -> None:
    candidate = Candidate((8,), 8, None, None)
    candidate.lower_upper(0.5, checked=True)
    with pytest.raises(SoundnessError, match=r"executed input differs by 0\.6"):
        candidate.raise_lower(0.6, "random inputs")
    claimed = Candidate((8,), 8, None, None)
    claimed.lower_upper(0.5, checked=False)
    claimed.raise_lower(0.6, "random inputs")
    assert math.isinf(claimed.upper)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tolerance": 0.0}, UsageError),
        ({"tolerance": math.nan}, UsageError),
        ({"widths": (1, 4)}, UsageError),
        ({"widths": ((4, 8), (4,))}, UsageError),
        ({"widths": ((4,), (), (4,))}, UsageError),
        ({"widths": ()}, UsageError),
        ({"cost": "money"}, UsageError),
        ({"target": ""}, TargetError),
        ({"question_limit": 0.0}, UsageError),
        ({"gap": 1.0}, UsageError),
        ({"region": Box([0.0], [1.0])}, MilpqError),
    ],
)
def test_what_is_refused(changes: dict[str, object], error: type[MilpqError]) -> None:
    arguments = {"tolerance": 0.1, "target": "tflm", "region": BOX} | changes
    region, tolerance = arguments.pop("region"), arguments.pop("tolerance")
    with pytest.raises(error):
        search_precision(mlp(), samples(), region, tolerance, **arguments)


def test_reports(tmp_path: Path) -> None:
    found = search_precision(
        mlp(), samples(), BOX, 0.1, target="tflm", widths=(3, 4, 6), input_domain="codes", cost="macs"
    )
    for ending in ("json", "csv", "svg", "png"):
        write_front(found, tmp_path / f"front.{ending}")
    report = json.loads((tmp_path / "front.json").read_text(encoding="utf-8"))
    assert report["schema"] == "milpq-precision/1"
    assert found.best is not None
    assert report["best"]["bits"] == list(found.best.widths)
    assert report["best"]["upper"] == found.best.upper <= 0.1
    assert report["verifier_calls"]["saved"] + report["verifier_calls"]["decided"] == 27
    rows = csv_text(found).splitlines()
    assert len(rows) == len(found.records) + 1
    assert sum(row.endswith(",1,1") for row in rows) == 1
    assert (tmp_path / "front.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="unknown ending"):
        write_front(found, tmp_path / "front.txt")
