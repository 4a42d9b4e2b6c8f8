"""Arrays on a torch device: the same values as numpy's, bounds as valid, and what cannot run says so.

On the host, where torch is another implementation of the same arithmetic; a GPU is a third.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from random_pairs import box, float_network, some_pair
from test_bounds import FACES, assert_inside, sub_cubes

from milpq.bounds import differential
from milpq.bounds.device import DeviceArray, TorchArrays
from milpq.bounds.symbolic import differential_on
from milpq.errors import UnsupportedModelError, UsageError
from milpq.merge import Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.nodes import Affine, Term
from milpq.search.bounding import OnDevice, Propagated, check_device, fitting
from milpq.search.split import SplitOptions, split_search

SEEDS = range(40)


@pytest.mark.parametrize("block", range(4))
def test_values_are_those_of_numpy_and_hold_every_execution(block):
    for seed in SEEDS[block::4]:
        problem = some_pair(seed)
        rng = np.random.default_rng(seed)
        cubes = sub_cubes(rng, problem, 3)
        here, there = differential(problem, cubes), differential_on(problem, cubes, TorchArrays("cpu"))
        for value, (one, other) in enumerate(zip(here.values, there.values, strict=True)):
            for face in FACES:
                known, found = getattr(one, face), getattr(other, face)
                reach = max(np.abs(known.lower).max(), np.abs(known.upper).max(), 1e-6)
                assert np.allclose(found.lower, known.lower, rtol=0, atol=1e-11 * reach), (seed, value, face)
                assert np.allclose(found.upper, known.upper, rtol=0, atol=1e-11 * reach), (seed, value, face)
        assert_inside(problem, cubes, {"device": there}, rng, 2)


def test_batches_are_joined():
    class Small(TorchArrays):
        def __init__(self):
            super().__init__("cpu")
            self.batch_bytes = 1

    problem = some_pair(5)
    cubes = sub_cubes(np.random.default_rng(5), problem, 5)
    alone, together = (differential_on(problem, cubes, arrays) for arrays in (Small(), TorchArrays("cpu")))
    assert np.allclose(alone.difference.upper, together.difference.upper, rtol=1e-12, atol=1e-15)
    assert np.allclose(alone.difference.lower, together.difference.lower, rtol=1e-12, atol=1e-15)


def test_splitting_closes_the_same_gap():
    rng = np.random.default_rng(3)
    network = float_network(rng, [2, 6, 6, 1], (0.0, np.inf))
    changed = float_network(np.random.default_rng(4), [2, 6, 6, 1], (0.0, np.inf))
    problem = Problem.create(network, changed, box(-0.4, 0.5, 2))
    options = SplitOptions(gap=0.02, batch=64, witness_evaluations=500)
    brackets = [
        split_search(problem, bounding, options).bracket
        for bounding in (Propagated(OnDevice("cpu")), fitting(problem))
    ]
    for lower, upper in brackets:
        assert lower <= min(other for _, other in brackets)
        assert upper <= 1.02 * lower + 1e-12


def test_matrices_of_convolutions_are_refused():
    matrix = sp.csr_array(np.eye(3))
    network = FloatNetwork(3, (Affine("conv", (Term(0, matrix),), np.zeros(3)),), 1)
    problem = Problem.create(network, network, box(-1, 1, 3))
    with pytest.raises(UnsupportedModelError, match=r"'conv'.*--device cpu"):
        differential_on(problem, problem.domain.root, TorchArrays("cpu"))


def test_what_has_no_counterpart_is_an_error():
    x = DeviceArray(torch.ones(3, dtype=torch.float64))
    with pytest.raises(TypeError):
        np.sin(x)
    with pytest.raises(TypeError):
        np.sort(x)
    with pytest.raises(TypeError, match="copied to the host"):
        np.asarray(x)
    with pytest.raises(TypeError):
        np.ones(3).__iadd__(x)


def test_devices_that_cannot_be_used_say_so(monkeypatch):
    check_device("cpu")
    with pytest.raises(UsageError, match="unknown device 'tpu'; use cpu or cuda"):
        check_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    with pytest.raises(UsageError, match="EMULATE"):
        check_device("cuda")
    monkeypatch.delitem(sys.modules, "milpq.bounds.device")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"needs torch: pip install 'milpq\[torch\]'"):
        check_device("cuda")
