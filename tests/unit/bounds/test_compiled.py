"""What is kept on disk of compiled code goes stale with any of its sources."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from milpq import _compiled
from milpq.bounds.zonotope import kernel, zonotope
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Term
from milpq.region.box import Box


def test_the_stamp_on_disk_is_that_of_all_sources():
    network = FloatNetwork(1, (Affine("a", (Term(0, np.ones((1, 1))),), np.zeros(1)),), 1)
    problem = Problem.create(network, network, Box(np.zeros(1), np.ones(1)))
    zonotope(problem, problem.domain.root)
    file = kernel.sweep._cache._cache_file
    with Path(file._index_path).open("rb") as index:
        pickle.load(index)  # numba's version
        stamp, _ = pickle.loads(index.read())
    assert stamp == _compiled._sources(Path(kernel.__file__).parent)


def test_the_digest_follows_the_sources(tmp_path):
    for name in ("_compiled.py", "phases.py"):
        (tmp_path / name).write_text("x")
    before = _compiled._sources(tmp_path)
    (tmp_path / "phases.py").write_text("y")
    assert _compiled._sources(tmp_path) != before
