"""A certificate is read piece by piece: what is held does not grow with the number of its leaves."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from search_problems import problem_of

from milpq.certificate.format import BOUND, CertificateFile
from milpq.certificate.tree import Reader, Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Problem
from milpq.search.proof import Tree, write


def balanced(problem: Problem, depth: int, path: Path) -> Path:
    """Write a certificate whose tree halves the first two inputs in turn down to a depth; claim what is surely true."""
    zonotope = Zonotope(problem)
    splitter = Splitter(problem.domain, zonotope.whole)
    upper = zonotope.upper(problem.domain.root)[0] * (1 + 1e-9)
    tree = Tree(splitter.root(), -1, len(upper))
    numbers = [0]
    for level in range(depth):
        halves: list[int] = []
        for number in numbers:
            part = tree.parts([number])[0]
            inputs, d = len(part.box) // 4, level % 2
            cut = float(0.5 * part.box[d] + 0.5 * part.box[inputs + d])
            halves += tree.split(number, d, cut, splitter.split(part, d, cut))
        numbers = halves
    for number in numbers:
        tree.settle(number, BOUND, upper)
    write(path, problem, [tree], upper, None, dequantized=False)
    return path


def peak(problem: Problem, path: Path) -> tuple[int, int]:
    """Return how many leaves a certificate has, and the most that was held while they were read."""
    splitter = Splitter(problem.domain, Zonotope(problem).whole)
    with CertificateFile(path) as file:
        tracemalloc.start()
        try:
            reader = Reader(file, splitter)
            leaves = sum(1 for _ in reader.leaves())
            reader.finish()
            return leaves, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_what_reading_holds_does_not_grow_with_the_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr("milpq.certificate.format._BLOCK", 64)
    problem = problem_of("real")
    few, little = peak(problem, balanced(problem, 7, tmp_path / "few.milpq"))
    many, much = peak(problem, balanced(problem, 12, tmp_path / "many.milpq"))
    assert (few, many) == (128, 4096)
    # A level of the tree takes a kilobyte; 4096 leaves would take a thousand.
    assert much < little + 32_000


def test_no_piece_that_is_read_is_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("milpq.certificate.format._BLOCK", 16)
    problem = problem_of("real")
    with CertificateFile(balanced(problem, 6, tmp_path / "proof.milpq")) as file:
        pieces = [len(block) for block in file.blocks("tree.node")]
        assert max(pieces) == 16 and sum(pieces) == 127
        assert sum(node < 0 for node in file.numbers("tree.node")) == 64
