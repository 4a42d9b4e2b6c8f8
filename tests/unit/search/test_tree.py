"""The branch and bound over the relaxation: its evidence, its limits, its coverage."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from random_pairs import box, float_network, quantized
from search_problems import problem_of

from milpq.bounds import differential, interval
from milpq.errors import OutOfTimeError, SoundnessError, UsageError
from milpq.merge import Problem
from milpq.milp.backends.highs import HighsBackend
from milpq.milp.encode import Encoder
from milpq.milp.safe import safe_infeasible, safe_upper_bound
from milpq.milp.scaling import ScaledSession, Scaling
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Term
from milpq.region.box import Box
from milpq.search.budget import Budget
from milpq.search.cells import parts_of
from milpq.search.pool import WitnessPool
from milpq.search.threads import ThreadExecutor
from milpq.search.tree import Evidence, Node, TreeOptions, tree_search
from milpq.search.tree.branching import Gains
from milpq.search.tree.jobs import Effort, Job
from milpq.search.tree.region import Box as Columns
from milpq.search.tree.region import anchor_encoding, restrict
from milpq.search.tree.work import TreeWork

HIGHS = HighsBackend()
SMALL = Effort(programs=12, enumerate_codes=2, enumerate_cells=2)


def search(problem, *, effort=SMALL, limit_s=60.0, on_done=None, on_progress=None, executor=None, **options):
    bounds = interval(problem, problem.domain.root)
    chosen = TreeOptions(effort=effort, witness_evaluations=0, **options)
    return tree_search(
        problem,
        bounds,
        HIGHS,
        chosen,
        budget=Budget(limit_s),
        on_done=on_done,
        on_progress=on_progress,
        executor=executor,
    )


@pytest.mark.parametrize("kind", ["codes", "continuous", "real"])
def test_leaves_cover_the_domain_and_their_evidence_can_be_replayed(kind):
    problem = problem_of(kind, seed=3, sizes=(2, 4, 3, 1))
    done = []
    found = search(problem, each=True, max_programs=240, on_done=done.append)
    leaves = [leaf for part in done for leaf in part.leaves]
    assert {leaf.evidence.kind for leaf in leaves} >= {"dual"}
    replay(problem, leaves)
    rng = np.random.default_rng(0)
    root = problem.domain.root
    encoding = Encoder(problem).encode(root, interval(problem, root))
    settled = np.array([not any(n.objective == k and not n.decisions for n in found.open) for k in range(2)])
    assert settled.any()
    for _ in range(100):
        x = rng.uniform(root.lower[0], root.upper[0])
        if kind == "codes":
            x = problem.domain.integer.float_value(problem.quantized_levels(x[None])[0])
        point = encoding.start_from_input(x)
        difference, error = problem.differences(x[None])
        for k in np.flatnonzero(settled).tolist():
            value = float(difference[0, 0] * (1 if k == 0 else -1) - error[0, 0])
            nodes = [n for n in (*leaves, *found.open) if n.objective == k]
            holding = [n for n in nodes if all(holds(encoding, point, d) for d in n.decisions)]
            assert any(value <= n.upper for n in holding), (k, value)


def holds(encoding, point, decision):
    faces = encoding.faces[decision.value]
    side = faces.float_side if decision.face == "float" else faces.quantized
    value = point[side.columns[decision.neuron]]
    return decision.lower - 1e-9 <= value <= decision.upper + 1e-9


def replay(problem, leaves):
    """Evaluate the duals of every leaf again, on rows made anew from its decisions."""
    encoder, bounds = Encoder(problem), interval(problem, problem.domain.root)
    for leaf in leaves:
        evidence = leaf.evidence
        if evidence.rows is None:
            continue
        found = anchor_encoding(encoder, bounds, leaf.decisions[: evidence.anchor])
        assert found is not None
        encoding = found[0]
        box = Columns(encoding.model.lower, encoding.model.upper)
        for decision in leaf.decisions[evidence.anchor : evidence.depth]:
            box = restrict(encoding, box, decision)
            assert box is not None
        duals = np.zeros(encoding.model.rows)
        duals[evidence.rows] = evidence.duals
        names = {encoding.model.row_key(row) for row in evidence.rows.tolist()}
        assert len(names) == len(evidence.rows)
        if evidence.kind == "infeasible":
            assert leaf.upper == -math.inf
            assert safe_infeasible(encoding.model, duals, box.lower, box.upper)
        else:
            objective = encoding.objective(0, 1 if leaf.objective == 0 else -1)
            again = safe_upper_bound(encoding.model, objective, duals, box.lower, box.upper)
            assert again <= leaf.upper


def test_limits_leave_a_valid_bracket():
    problem = problem_of("codes", seed=5)
    whole = search(problem, effort=Effort())
    assert whole.status == "closed"
    assert not any(node.upper > whole.bracket[1] for node in whole.open)
    few = search(problem, max_programs=5)
    assert few.status == "limit"
    assert few.open
    assert whole.bracket[0] <= few.bracket[1]
    late = search(problem, limit_s=0.0)
    assert late.status == "limit"
    assert late.rounds == 0


def test_cells_are_executed_where_they_are_few():
    rng = np.random.default_rng(0)
    network = float_network(rng, [3, 6, 6, 2], (0.0, np.inf))
    problem = Problem.create(network, quantized(rng, network, "tflm"), box(-0.05, 0.05, 3), "continuous")
    executed = search(problem, effort=Effort(), max_programs=600)
    branched = search(problem, effort=Effort(enumerate_cells=1), max_programs=600)
    assert executed.status == "closed"
    assert branched.status == "limit"
    assert branched.bracket[0] <= executed.bracket[1]
    assert executed.bracket[0] <= branched.bracket[1]


@pytest.mark.parametrize("most", [1, 2, 7, 64, 1000])
def test_parts_of_a_cube_cover_it_once(most):
    problem = problem_of("continuous", seed=3)
    domain, root = problem.domain, problem.domain.root
    low = root.level_lower + np.array([[0, 3, 5]])
    cube = domain.cubes_of_levels(low, low + np.array([[6, 0, 4]]))
    parts = parts_of(domain, cube, most)
    assert len(parts) <= most
    levels = [
        tuple(code)
        for first, last in zip(parts.level_lower, parts.level_upper, strict=True)
        for code in itertools.product(*(range(a, b + 1) for a, b in zip(first, last, strict=True)))
    ]
    assert len(levels) == len(set(levels)) == 7 * 5
    assert (parts.lower >= cube.lower).all()
    assert (parts.upper <= cube.upper).all()


def test_a_tolerance_decides():
    problem = problem_of("codes", seed=5)
    truth = search(problem, effort=Effort()).bracket
    assert search(problem, effort=Effort(), tolerance=1.1 * truth[1]).status == "certified"
    assert search(problem, effort=Effort(), tolerance=0.9 * truth[0]).status == "violated"


def test_an_interruption_keeps_the_bracket():
    problem = problem_of("codes", seed=5)

    def interrupt(*_):
        raise KeyboardInterrupt

    found = search(problem, on_progress=interrupt)
    assert found.status == "interrupted"
    assert search(problem, effort=Effort()).bracket[0] <= found.bracket[1] < math.inf


def test_two_workers_find_the_same_bracket():
    problem = problem_of("codes", seed=5)
    alone = search(problem, effort=Effort()).bracket
    with ThreadExecutor(2) as executor:
        shared = search(problem, effort=Effort(programs=30), executor=executor).bracket
    np.testing.assert_allclose(shared, alone, rtol=2e-4)


def test_a_witness_above_the_bounds_is_an_alarm():
    problem = problem_of("real", seed=1)
    pool = WitnessPool.empty(problem).update(
        np.zeros((1, 3)), np.zeros((1, 3), dtype=np.int64), np.full((1, 2), 1e6), np.zeros(2)
    )
    bounds = interval(problem, problem.domain.root)
    with pytest.raises(SoundnessError, match="above its upper bound"):
        tree_search(problem, bounds, HIGHS, TreeOptions(each=True), pool=pool, budget=Budget(20.0))


def test_counts_are_checked():
    with pytest.raises(UsageError):
        TreeOptions(gap=1.0)


@pytest.mark.parametrize("size", [2.0**-20, 1.0, 2.0**20])
def test_the_size_of_the_outputs_does_not_matter(size):
    """The same pair in other units: powers of two, so that the answers are the same digits."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(2, 5))

    def network(error):
        nodes = (
            Affine("first", (Term(0, first * (1 + error)),), np.zeros(5)),
            Affine("second", (Term(1, size * second * (1 - error)),), np.zeros(2)),
        )
        return FloatNetwork(3, nodes, 2)

    problem = Problem.create(network(0.0), network(1e-3), Box(np.full(3, -1.0), np.full(3, 1.0)))
    bounds = differential(problem, problem.domain.root)
    found = tree_search(problem, bounds, HIGHS, TreeOptions(gap=1e-7), budget=Budget(20.0))
    exact = 1e-6 * np.abs(second @ first).sum(axis=1).max() * size  # (1 + e)(1 − e) − 1 = −e²
    assert found.status == "closed"
    lower, upper = found.bracket
    assert lower <= upper
    assert upper == pytest.approx(exact, rel=1e-6)
    assert lower == pytest.approx(exact, rel=1e-6)


def test_scaling_is_exact_and_brings_a_model_to_order_one():
    problem = problem_of("continuous", seed=2)
    root = problem.domain.root
    encoding = Encoder(problem).encode(root, interval(problem, root), cuts=True)
    model = encoding.model.relaxed()
    scaling = Scaling.of(model)
    scaled = scaling.model(model)
    np.testing.assert_array_equal(scaled.lower * scaling.columns, model.lower)
    rows = model.entry_rows()
    np.testing.assert_array_equal(
        scaled.values, model.values * scaling.rows[rows] * scaling.columns[model.indices]
    )
    assert np.maximum(np.abs(scaled.lower), np.abs(scaled.upper)).max() <= 1.0
    largest = np.maximum.reduceat(np.abs(scaled.values), model.indptr[:-1])
    assert largest.max() <= 1.0
    assert largest.min() >= 0.25
    objective = encoding.objective(0, 1)
    with ScaledSession(HIGHS, model) as session:
        found = session.maximize(objective)
    with HIGHS.open(model) as session:
        plain = session.maximize(objective)
    assert found.claimed_value == pytest.approx(plain.claimed_value, rel=1e-6)
    assert safe_upper_bound(model, objective, found.duals) == pytest.approx(plain.claimed_value, rel=1e-6)


def test_a_late_job_encodes_nothing():
    problem = problem_of("codes")
    work = TreeWork(problem, interval(problem, problem.domain.root), HIGHS, SMALL)
    node, pool = Node(0, (), 1.0, Evidence("root", 0)), WitnessPool.empty(problem)
    late = work(Job(node, pool, Gains(), time.monotonic()))
    assert late.open == [node] and not late.leaves and late.programs == 0
    asked = []
    encoder = Encoder(problem)
    with pytest.raises(OutOfTimeError, match="linear1"):
        encoder.encode(problem.domain.root, work.bounds, stop=lambda: asked.append(1) or len(asked) > 2)
    assert len(asked) == 3
    assert work(Job(node, pool, Gains(), None)).programs > 0
