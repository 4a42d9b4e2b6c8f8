"""What the checker's zonotope refuses, and how it counts and bounds its symbols."""

from dataclasses import replace

import numpy as np
import pytest
from search_problems import problem_of

from milpq.certificate.activations import Activation, band
from milpq.certificate.forms import Form, Symbols
from milpq.certificate.zonotope import Zonotope
from milpq.errors import CertificateError
from milpq.merge import MergedActivation
from milpq.network.inexact import Float32Error


def test_an_activation_that_is_known_within_a_band_only_is_refused():
    problem = problem_of("real")
    nodes = tuple(
        replace(node, inexact=Float32Error("rounding", node.source, 1e-7, np.zeros(node.size)))
        if isinstance(node, MergedActivation)
        else node
        for node in problem.merged.nodes
    )
    object.__setattr__(problem, "merged", replace(problem.merged, nodes=nodes))
    with pytest.raises(CertificateError, match="do not cover this kind of layer"):
        Zonotope(problem)


@pytest.mark.parametrize("kind", ["real", "codes", "continuous"])
def test_few_symbols_only_widen_the_bound(kind, monkeypatch):
    problem = problem_of(kind)
    upper = Zonotope(problem).upper(problem.domain.root)
    monkeypatch.setattr("milpq.certificate.zonotope._SYMBOLS", 6)
    wider = Zonotope(problem).upper(problem.domain.root)
    assert (wider >= upper - 1e-12).all()
    assert wider.max() > upper.max()


def test_decisions_that_leave_nothing_prove_anything():
    problem = problem_of("codes")
    zonotope = Zonotope(problem)
    lower = np.full((len(zonotope.whole), 1), -np.inf)
    lower[0] = 1e6
    assert zonotope.upper(problem.domain.root, (lower, np.full_like(lower, np.inf))).max() == -np.inf


def test_a_symbol_is_never_given_twice():
    symbols = Symbols(100)
    radius = np.array([[1.0, 0.0], [2.0, 3.0], [0.0, 0.0], [1e-9, 1.0]])
    columns, lost = symbols.add_own(radius)
    assert symbols.own == columns.shape[2] == 2
    assert (np.count_nonzero(columns, axis=0) <= 1).all()
    assert np.array_equal(columns.sum(axis=2) + lost, radius)
    assert symbols.add_own(radius)[0].shape[2] == 2
    assert symbols.own == 4


@pytest.mark.parametrize("clamp", [(0.0, np.inf), (0.0, 6.0), (-0.7, 0.9), (-np.inf, np.inf), (2.0, 3.0)])
def test_bands_hold_their_clamp(clamp):
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(size=(2, 200, 1)) * 3, axis=0)
    phi, value = Activation(*clamp), (ends[0], ends[1])
    slope = phi.secant(value)
    centre, radius = band(phi.graph(value), slope)
    for share in np.linspace(0, 1, 41):
        x = (1 - share) * ends[0] + share * ends[1]
        assert (np.abs(np.clip(x, *clamp) - slope * x - centre) <= radius + 1e-12).all()
    inside = (ends[0] >= clamp[0]) & (ends[1] <= clamp[1])
    assert (radius[inside] == 0).all()


def test_numbers_that_are_not_finite_are_no_bound():
    form = Form(np.full((1, 1, 2), np.nan), np.zeros((1, 1, 0)), np.zeros((1, 1)))
    with pytest.raises(CertificateError, match="overflow"):
        form.ends(form.spread())


@pytest.mark.parametrize("kind", ["real", "codes", "continuous"])
def test_networks_whose_forms_would_fill_the_memory_get_intervals(kind, monkeypatch):
    problem = problem_of(kind)
    root = problem.domain.root
    with_symbols = Zonotope(problem).upper(root)
    monkeypatch.setattr("milpq.certificate.zonotope._MOST_BYTES", 100)
    zonotope = Zonotope(problem)
    trace = zonotope.trace(root, None)
    assert trace.output.a.shared.shape[2] == 1 and trace.output.d.own.shape[2] == 0
    points = np.random.default_rng(0).uniform(root.lower[0], root.upper[0], (500, root.lower.shape[1]))
    if kind == "codes":
        levels = np.rint(points / problem.domain.integer.float_scale).astype(np.int64)
        levels = np.clip(levels, root.level_lower, root.level_upper)
        points = problem.domain.integer.float_value(levels)
    difference, error = problem.differences(points)
    bound = zonotope.bounds(trace)[0]
    assert (np.concatenate([difference - error, -difference - error], axis=1) <= bound).all()
    assert bound.max() >= with_symbols.max()
